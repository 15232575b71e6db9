"""Events as Prometheus metrics. Every label is from a closed or bounded set; a replica's series go when it goes."""

from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from .._events import (
    AdapterBroke,
    AdapterCounted,
    AttemptBegun,
    AttemptFailed,
    BreakerChanged,
    FirstToken,
    HealthChanged,
    HostEvent,
    PluginChanged,
    ReloadDone,
    ReloadFailed,
    ReplicaBound,
    ReplicaEvent,
    ReplicaRebound,
    ReplicaUnbound,
    SetUpFailed,
    TaskAdmitted,
    TaskEnded,
)
from .._scan import QUARANTINED
from .narration import pool_of, safe
from .series import HEALTH, OTHER, PHASES, PoolSeries, ReplicaSeries, error_labels, of_host, of_pools, of_replicas


class Metrics(Collector):
    """An observer whose counts `registry` tells: those of docs/observability.md. One for each registry.

    Let it listen before the host binds anything: what it was never told to be there is counted as pool, or replica,
    "other".
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._pools: dict[str, PoolSeries] = {}
        self._other: PoolSeries | None = None
        self._live: dict[str, _Live] = {}
        self._reloads = {"ok": 0, "failed": 0}
        self._quarantines = 0
        self._kinds: dict[type[HostEvent], Callable[[Any], None]] = {
            TaskAdmitted: self._admitted,
            AttemptBegun: self._begun,
            AttemptFailed: self._failed,
            FirstToken: self._first_token,
            TaskEnded: self._ended,
            ReplicaBound: self._bound,
            ReplicaRebound: self._bound,
            ReplicaUnbound: self._unbound,
            HealthChanged: self._health,
            BreakerChanged: self._breaker,
            SetUpFailed: self._set_up,
            AdapterBroke: self._broke,
            AdapterCounted: self._counted,
            ReloadDone: lambda _: self._reloaded("ok"),
            ReloadFailed: lambda _: self._reload_failed(),
            PluginChanged: self._plugin,
        }
        registry.register(self)

    def __call__(self, event: HostEvent) -> None:
        """Count it."""
        count = self._kinds.get(type(event))
        if count is not None:
            count(event)

    def collect(self) -> Iterator[Metric]:
        """What there is now; Prometheus's client asks it at each scrape, from whichever thread."""
        pools = tuple(self._pools.values())
        if self._other is not None and OTHER not in self._pools:
            pools = (*pools, self._other)
        yield from of_pools(pools)
        yield from of_replicas(chain.from_iterable(tuple(pool.replicas.values()) for pool in pools))
        yield from of_host(self._reloads, self._quarantines)

    def describe(self) -> Iterable[Metric]:
        """The metrics without their counts, by which two in one registry are refused."""
        yield from chain(of_pools(()), of_replicas(()), of_host({}, 0))

    # --- a task

    def _admitted(self, event: TaskAdmitted) -> None:
        pool = self._pool(event.pool_id)
        pool.live.add(event.task_id)
        self._live[event.task_id] = _Live(pool)

    def _begun(self, event: AttemptBegun) -> None:
        pool_id = event.stand_in or event.pool_id
        pool = self._pools.get(pool_id)
        if pool is None or event.replica_id not in pool.replicas:
            self._known(pool_id, event).serves(event.generation)

    def _failed(self, event: AttemptFailed) -> None:
        self._replica(event, event.replica_id).retries[error_labels(event.error_kind, event.detail)] += 1

    def _first_token(self, event: FirstToken) -> None:
        self._replica(event, event.replica_id).first_token.observe(event.duration)
        live = self._live.get(event.task_id)
        if live is not None:
            live.first_token = event.total
            live.pool.submit["ok"].observe(event.total)

    def _ended(self, event: TaskEnded) -> None:
        live = None if event.refused else self._live.pop(event.task_id, None)
        pool, first_token = (self._pool(event.pool_id), None) if live is None else (live.pool, live.first_token)
        if not event.refused:
            pool.live.discard(event.task_id)
        pool.tasks[event.ending] += 1
        if event.ending == "cancelled":
            pool.cancels[event.phase if event.phase in PHASES else OTHER] += 1
        elif event.ending == "failed":
            pool.errors[error_labels(event.error_kind, event.detail)] += 1
        if first_token is None:
            pool.submit[event.ending].observe(event.duration)
        if event.replica_id is not None:
            replica = self._replica(event, event.replica_id)
            if first_token is not None:
                replica.decode.observe(max(event.duration - first_token, 0.0))
            replica.tokens_in += event.tokens_in or 0
            replica.tokens_out += event.tokens_out or 0

    # --- a replica

    def _bound(self, event: ReplicaBound | ReplicaRebound) -> None:
        self._known(event.pool_id, event).serves(event.generation)

    def _unbound(self, event: ReplicaUnbound) -> None:
        pool = self._pools.get(event.pool_id)
        replica = None if pool is None else pool.replicas.get(event.replica_id)
        if replica is not None and replica.generation == event.generation:  # else another one had taken its place
            self._forget(replica)

    def _health(self, event: HealthChanged) -> None:
        self._known(event.pool_id, event).health[event.generation] = event.now if event.now in HEALTH else OTHER

    def _breaker(self, event: BreakerChanged) -> None:
        replica = self._known(event.pool_id, event)
        replica.breaker[event.generation] = event.state
        replica.trips += event.state == "open"

    def _set_up(self, event: SetUpFailed) -> None:
        replica = self._replica(event, event.replica_id)
        replica.set_up[error_labels(event.error_kind, event.detail)[1]] += 1

    def _broke(self, event: AdapterBroke) -> None:
        self._replica(event, event.replica_id).adapter_faults += 1

    def _counted(self, event: AdapterCounted) -> None:
        self._replica(event, event.replica_id).counts_one(safe(event.what))

    # --- the host

    def _reloaded(self, outcome: str) -> None:
        self._reloads[outcome] += 1

    def _reload_failed(self) -> None:
        self._reloaded("failed")
        for replica in [each for pool in self._pools.values() for each in pool.replicas.values()]:
            if replica.generation == 0:  # built for nothing
                self._forget(replica)

    def _plugin(self, event: PluginChanged) -> None:
        self._quarantines += event.state in QUARANTINED

    # --- who is known

    def _known(self, pool_id: str, event: ReplicaEvent | AttemptBegun) -> ReplicaSeries:
        """The replica's series, made where there are none."""
        pool = self._pools.get(pool_id)
        if pool is None:
            pool = self._pools[pool_id] = PoolSeries(pool_id)
        replica = pool.replicas.get(event.replica_id)
        if replica is None or replica.id[-1] != event.engine:  # another engine may take its place
            replica = pool.replicas[event.replica_id] = ReplicaSeries(pool_id, event.replica_id, event.engine)
        return replica

    def _forget(self, replica: ReplicaSeries) -> None:
        pool_id, replica_id, _ = replica.id
        replicas = self._pools[pool_id].replicas
        del replicas[replica_id]
        if replicas.keys() <= {OTHER}:
            del self._pools[pool_id]

    def _pool(self, pool_id: str) -> PoolSeries:
        pool = self._pools.get(pool_id)
        if pool is not None:
            return pool
        if self._other is None:
            self._other = PoolSeries(OTHER)
        return self._other

    def _replica(self, event: HostEvent, replica_id: str) -> ReplicaSeries:
        pool = self._pool(pool_of(event))
        replica = pool.replicas.get(replica_id)
        if replica is None:
            replica = pool.replicas.setdefault(OTHER, ReplicaSeries(pool.id, OTHER, OTHER))
        return replica


class _Live:
    """A task that runs; `first_token` is in seconds since it was taken in."""

    __slots__ = ("first_token", "pool")

    def __init__(self, pool: PoolSeries) -> None:
        self.pool = pool
        self.first_token: float | None = None
