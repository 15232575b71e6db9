"""How many tasks of a pool may run at once, as its replicas were last seen."""

from collections.abc import Callable

from llama_orch_adapter_host import AdapterHost, PoolCapabilities, Snapshot

_FRESH = 0.5
"""Seconds for which a sum is good: adding up all replicas for every task would cost more the more there are."""


class Slots:
    """By pool. A replica that does not tell counts as `unknown` slots. No engine is asked."""

    def __init__(self, host: AdapterHost, unknown: int, clock: Callable[[], float]) -> None:
        self._host = host
        self._unknown = unknown
        self._clock = clock
        self._sums: dict[str, int] = {}
        self._until = float("-inf")

    def of(self, pool_id: str) -> int:
        """At least 1: a task that nobody can run is told so by the host."""
        now = self._clock()
        if now >= self._until:
            self._sums = {name: self._sum(pool) for name, pool in self._host.capabilities().pools.items()}
            self._until = now + _FRESH
        return max(1, self._sums.get(pool_id, self._unknown))

    def forget(self) -> None:
        """Add them up anew when next asked."""
        self._until = float("-inf")

    def _sum(self, pool: PoolCapabilities) -> int:
        return sum(slots_of(replica) or self._unknown for replica in pool.replicas.values())


def slots_of(replica: Snapshot) -> int | None:
    """How many tasks it runs at once; None where nobody knows."""
    if replica.slots_total is not None:
        return replica.slots_total
    return None if replica.capabilities is None else replica.capabilities.slots
