"""From a task to a replica: its pin, its pool, the pools that stand in for it, or why nobody takes it."""

from collections.abc import Callable, Collection, Iterable, Mapping

from llama_orch_adapter_api import PoolUnavailable, RoutePolicy, TaskRequest

from ._binding import Binding
from ._bus import Bus
from ._closed import Closed
from ._events import RouteFailed
from ._leash import Leash
from ._policy import LEAST_IN_FLIGHT
from ._pool import Pool
from ._registry import Registry
from ._routes import Look, Pick, admits, by_policy, least_in_flight, pick


class Router:
    """Finds replicas. `policies` are those of plugins, by name; `dropped` learns once of each that is asked no more."""

    def __init__(
        self,
        registry: Registry,
        policies: Callable[[], Mapping[str, RoutePolicy]],
        bus: Bus,
        dropped: Callable[[str, str], None] = lambda *_: None,
    ) -> None:
        self._registry = registry
        self._policies = policies
        self._bus = bus
        self._dropped = dropped
        self._leashes: dict[str, Leash] = {}  # by policy

    def route(self, pool: Pool, task: TaskRequest, look: Look) -> Pick:
        """Where the task goes. Raises `PoolUnavailable`, of its own pool, where nobody takes it."""
        if task.replica_id is not None:
            return self._pinned(pool, task.replica_id, look)
        picked = self._pick(pool, task, look)
        if picked is not None:
            return picked
        for each in self._stand_ins(pool):
            picked = self._pick(each, task, look)
            if picked is not None:
                return Pick(picked.binding, f"fallback, {picked.why}")
            _look_over(each, each.order, look.now)  # the next task need not
        raise refused(pool, pool.order, look.now)

    def others(self, pool: Pool, task: TaskRequest, look: Look) -> bool:
        """Whether some replica that was not left out takes the task now; a pinned one's next generation is one."""
        if task.replica_id is not None:
            pinned = pool.bindings.get(task.replica_id)
            return pinned is not None and admits(pinned, look)
        return self._takes(pool, look)

    def refusal(self, pool: Pool, now: float) -> PoolUnavailable | None:
        """Why neither this pool nor one that stands in for it takes a task now; None where one does."""
        return None if self._takes(pool, Look(now)) else refused(pool, pool.order, now)

    def _takes(self, pool: Pool, look: Look) -> bool:
        """Whether a replica takes a task now, its own or one of what stands in for it."""
        pools = (each for each in (pool, *self._stand_ins(pool)) if each.known_closed(look.now) is None)
        return any(admits(binding, look) for each in pools for binding in each.order)

    def _stand_ins(self, pool: Pool) -> Iterable[Pool]:
        """The pools that stand in for it, as far as they are bound."""
        for name in pool.policy.fallback:
            other = self._registry.get(name)
            if other is not None:
                yield other

    def _pick(self, pool: Pool, task: TaskRequest, look: Look) -> Pick | None:
        if pool.known_closed(look.now) is not None:
            return None
        name = pool.policy.route
        policy = None if name == LEAST_IN_FLIGHT else self._policies().get(name)
        if policy is None:
            return pick(pool, task, look)
        leash = self._leashes.get(name) or self._leashes.setdefault(name, Leash())
        if leash.off:
            return pick(pool, task, look)
        picked, fault = leash.call(lambda: by_policy(policy, pool, task, look))
        if fault:
            self._bus.emit(RouteFailed(pool_id=pool.id, policy=name, error=fault, dropped=leash.off))
            if leash.off:
                self._dropped(name, fault)
        return picked or least_in_flight(pool, look)

    def _pinned(self, pool: Pool, replica_id: str, look: Look) -> Pick:
        binding = pool.bindings.get(replica_id)
        if binding is None:
            bound = ", ".join(sorted(pool.bindings)) or "none"
            raise PoolUnavailable(
                f"replica {replica_id!r}, which the task is pinned to, is not bound (bound: {bound})",
                detail="unknown_pool",
                phase="queue",
                pool=pool.id,
                replica=replica_id,
            )
        if not admits(binding, look):
            raise refused(pool, (binding,), look.now).placed(replica=replica_id)
        return Pick(binding, "the task is pinned to it")


def refused(pool: Pool, bindings: Collection[Binding], now: float) -> PoolUnavailable:
    """Why none of these takes a task, and when one may: told is what is nearest to taking it."""
    if not pool.order:
        return PoolUnavailable(
            f"pool {pool.id!r} has no replica bound any more · bind one, or use another pool",
            detail="unknown_pool",
            phase="queue",
            pool=pool.id,
        )
    return _look_over(pool, bindings, now).error(pool.id, now)


def _look_over(pool: Pool, bindings: Collection[Binding], now: float) -> Closed:
    """What these refuse by. Of a whole pool it is kept where it holds for a while, so that the next task is told it."""
    whole = bindings is pool.order
    known = pool.known_closed(now) if whole else None
    if known is not None:
        return known
    gates = [(each.gate, each.gate.refuses(now, len(each.leases))) for each in bindings]
    refusals = [(gate, refusal) for gate, refusal in gates if refusal is not None]
    closed = Closed.of(refusals, now, pool.pulse.beats)
    if whole and len(refusals) == len(bindings):
        pool.closed = closed
    return closed
