"""Which adapter stands for which replica. A binding never changes: what replaces it is another one."""

from typing import Protocol

import msgspec
from llama_orch_adapter_api import BindingInfo, PoolUnavailable, Timeouts, WorkerAdapter

from ._config import ConfigError


class Lease(Protocol):
    """A use of a binding: as long as there is one, the adapter lives."""

    async def stop(self) -> None:
        """End it, and wait until the adapter has let go."""


class Binding(msgspec.Struct, frozen=True, eq=False):
    """One adapter bound to one replica. `leases` are the flights that use it now."""

    info: BindingInfo
    adapter: WorkerAdapter
    timeouts: Timeouts
    leases: set[Lease] = msgspec.field(default_factory=set)

    @property
    def replica(self) -> str:
        """`pool_id/replica_id`."""
        return f"{self.info.pool_id}/{self.info.replica_id}"


class Registry:
    """Bindings by pool and replica."""

    def __init__(self) -> None:
        self._pools: dict[str, dict[str, Binding]] = {}

    def add(self, binding: Binding) -> BindingInfo:
        """Bind a replica. Raises `ConfigError` where one of that name is bound already."""
        self.check_free(binding.info)
        self._pools.setdefault(binding.info.pool_id, {})[binding.info.replica_id] = binding
        return binding.info

    def check_free(self, info: BindingInfo) -> None:
        """Raise `ConfigError` where a replica of that name is bound already."""
        if info.replica_id in self._pools.get(info.pool_id, {}):
            raise ConfigError([f"replica {info.pool_id}/{info.replica_id} is bound already; give another replica_id"])

    def pool(self, pool_id: str) -> dict[str, Binding]:
        """A pool's bindings by replica. Raises `PoolUnavailable` (unknown_pool)."""
        pool = self._pools.get(pool_id)
        if pool is None:
            bound = ", ".join(sorted(self._pools)) or "none"
            raise PoolUnavailable(
                f"pool {pool_id!r} has no adapter bound (bound: {bound}); name one of these, or bind it first",
                detail="unknown_pool",
                phase="queue",
                pool=pool_id,
            )
        return pool

    def names(self) -> tuple[str, ...]:
        """The pools."""
        return tuple(self._pools)

    def all(self) -> list[Binding]:
        """Every binding."""
        return [binding for pool in self._pools.values() for binding in pool.values()]
