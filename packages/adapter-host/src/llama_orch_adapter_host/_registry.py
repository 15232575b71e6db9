"""Which bindings stand for which pools and replicas."""

from weakref import WeakValueDictionary

from llama_orch_adapter_api import BindingInfo, PoolUnavailable

from ._binding import Binding
from ._config import ConfigError
from ._policy import PoolPolicy
from ._pool import Pool

NUMBERED = 4096
"""Replicas whose generations are counted each for itself."""


class Registry:
    """Pools by name, in the order they were bound."""

    def __init__(self) -> None:
        self._pools: dict[str, Pool] = {}
        self._left: WeakValueDictionary[str, Pool] = WeakValueDictionary()  # empty, as long as a task of it lives
        self._latest: dict[
            tuple[str, str], int
        ] = {}  # generations, the latest last: who is bound again goes on counting
        self._forgotten = 0  # the highest of those that are no longer in there: no number is given twice

    def next_generation(self, pool_id: str, replica_id: str) -> int:
        """The number of the replica's next generation, from 1, or higher once many were numbered; `number` takes it."""
        return self._latest.get((pool_id, replica_id), self._forgotten) + 1

    def number(self, info: BindingInfo) -> None:
        """A generation was built, whether it will ever be bound or not: its number is taken."""
        place = info.pool_id, info.replica_id
        self._latest.pop(place, None)
        self._latest[place] = info.generation
        if len(self._latest) > NUMBERED:
            self._forgotten = max(self._forgotten, self._latest.pop(next(iter(self._latest))))

    def add(self, binding: Binding, policy: PoolPolicy | None = None) -> None:
        """Bind a replica; `policy` None leaves its pool's as it is. Raises `ConfigError` where the name is taken."""
        self.check_free(binding.info)
        self.put(binding, policy)

    def put(self, binding: Binding, policy: PoolPolicy | None = None) -> Binding | None:
        """Bind a replica in the place of whatever was bound there, which is returned."""
        pool_id = binding.info.pool_id
        pool = self._pools.get(pool_id)
        if pool is None:
            pool = self._pools[pool_id] = self._made(pool_id, policy or PoolPolicy())
        elif policy is not None:
            pool.adopt(policy)
        before = pool.bindings.get(binding.info.replica_id)
        pool.set(binding)
        return before

    def remove(self, binding: Binding) -> bool:
        """Take a binding out, and its pool with the last one. False where another stands in its place."""
        if self.find(binding.info.pool_id, binding.info.replica_id) is not binding:
            return False
        pool = self._pools[binding.info.pool_id]
        pool.remove(binding.info.replica_id)
        if not pool.bindings:
            self._left[pool.id] = self._pools.pop(pool.id)
        return True

    def check_free(self, info: BindingInfo) -> None:
        """Raise `ConfigError` where a replica of that name is bound already."""
        if self.find(info.pool_id, info.replica_id) is not None:
            raise ConfigError([f"replica {info.pool_id}/{info.replica_id} is bound already; give another replica_id"])

    def get(self, pool_id: str) -> Pool | None:
        """A pool, if something is bound in it."""
        return self._pools.get(pool_id)

    def pool(self, pool_id: str) -> Pool:
        """A pool. Raises `PoolUnavailable` (unknown_pool)."""
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

    def find(self, pool_id: str, replica_id: str) -> Binding | None:
        """What is bound there, if anything is."""
        pool = self._pools.get(pool_id)
        return None if pool is None else pool.bindings.get(replica_id)

    def binding(self, pool_id: str, replica_id: str) -> Binding:
        """What is bound there. Raises `PoolUnavailable` (unknown_pool)."""
        pool = self.pool(pool_id)
        binding = pool.bindings.get(replica_id)
        if binding is None:
            raise PoolUnavailable(
                f"pool {pool_id!r} has no replica {replica_id!r} (bound: {', '.join(sorted(pool.bindings))}); "
                "name one of these, or bind it first",
                detail="unknown_pool",
                phase="queue",
                pool=pool_id,
                replica=replica_id,
            )
        return binding

    def names(self) -> tuple[str, ...]:
        """The pools."""
        return tuple(self._pools)

    def pools(self) -> tuple[Pool, ...]:
        """Every pool."""
        return tuple(self._pools.values())

    def all(self) -> list[Binding]:
        """Every binding."""
        return [binding for pool in self._pools.values() for binding in pool.order]

    def _made(self, pool_id: str, policy: PoolPolicy) -> Pool:
        """A pool without a replica: the one that tasks of that name still wait in, or a new one."""
        pool = self._left.pop(pool_id, None)
        if pool is None:
            return Pool(pool_id, policy)
        pool.adopt(policy)
        return pool
