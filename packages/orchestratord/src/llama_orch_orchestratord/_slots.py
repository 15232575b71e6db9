"""How many tasks of a pool may run at once, as its replicas were last seen."""

from collections import Counter
from collections.abc import Callable, Iterable

from llama_orch_adapter_host import AdapterHost, ReplicaStatus

_FRESH = 0.5
"""Seconds for which a sum is good: adding up all replicas for every task would cost more the more there are."""


class Slots:
    """By pool. A replica that does not tell counts as `unknown` slots, one that takes no tasks as none.

    No engine is asked.
    """

    def __init__(self, host: AdapterHost, unknown: int, clock: Callable[[], float]) -> None:
        self._host = host
        self._unknown = unknown
        self._clock = clock
        self._sums: Counter[str] = Counter()
        self._until = float("-inf")

    def of(self, pool_id: str) -> int:
        """At least 1: a task that nobody can run is told so by the host."""
        now = self._clock()
        if now >= self._until:
            self._sums = self._added(self._host.status())
            self._until = now + _FRESH
        return max(1, self._sums[pool_id])

    def forget(self) -> None:
        """Add them up anew when next asked."""
        self._until = float("-inf")

    def _added(self, replicas: Iterable[ReplicaStatus]) -> Counter[str]:
        sums: Counter[str] = Counter()
        for replica in replicas:
            if _serves(replica):
                most = replica.slots or self._unknown
                sums[replica.pool_id] += most if replica.limit is None else min(most, replica.limit)
        return sums


def _serves(replica: ReplicaStatus) -> bool:
    """Whether tasks go there. One that nobody has heard of yet may well take them."""
    return replica.stage == "bound" and replica.health not in ("down", "loading") and replica.breaker != "open"
