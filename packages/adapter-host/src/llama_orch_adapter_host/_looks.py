"""The part of `AdapterHost` that looks at pools and replicas."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from llama_orch_adapter_api import PoolUnavailable, WorkerError, WorkerHealth, WorkerProps

from ._binding import Binding
from ._capabilities import CapabilitySnapshot, PoolCapabilities
from ._fleet import Fleet
from ._probe import ask_health, ask_props
from ._registry import Registry
from ._router import Router
from ._status import ReplicaStatus, status_of

T = TypeVar("T")


class Looks(ABC):
    """Health, capabilities, status. The host it is a part of sets the attributes."""

    _fleet: Fleet
    _registry: Registry
    _router: Router

    @abstractmethod
    def _check_open(self, pool_id: str) -> None:
        """Raise `PoolUnavailable` where the host is stopping."""

    async def health(self, pool_id: str) -> Mapping[str, WorkerHealth]:
        """How each replica is, by replica_id; one that does not answer is `down`. Raises `PoolUnavailable`."""
        return await self._ask(pool_id, ask_health)

    async def props(self, pool_id: str) -> Mapping[str, WorkerProps | WorkerError]:
        """Capacity and capabilities by replica_id, or why they are not known. Raises `PoolUnavailable`."""
        return await self._ask(pool_id, ask_props)

    def capabilities(self) -> CapabilitySnapshot:
        """What every replica of every pool can do, as it was last seen. Asks no engine."""
        return CapabilitySnapshot(
            {
                pool.id: PoolCapabilities(
                    {
                        name: self._fleet.cache.of(bound, pool.policy.health.longest)
                        for name, bound in pool.bindings.items()
                    }
                )
                for pool in self._registry.pools()
            }
        )

    def status(self) -> tuple[ReplicaStatus, ...]:
        """How every replica stands, in the order they were built. Asks no engine.

        A replica has several generations in it while one takes over from another.
        """
        now = asyncio.get_running_loop().time()
        return tuple(status_of(binding, self._fleet.stage(binding), now) for binding in self._fleet.bindings())

    def refusal(self, pool_id: str) -> PoolUnavailable | None:
        """Why a task of this pool would be refused now, None where a replica takes one. Asks no engine."""
        try:
            self._check_open(pool_id)
            pool = self._registry.pool(pool_id)
        except PoolUnavailable as error:
            return error
        return self._router.refusal(pool, asyncio.get_running_loop().time())

    async def _ask(self, pool_id: str, ask: Callable[[Binding], Awaitable[T]]) -> dict[str, T]:
        """Ask every replica of a pool at once."""
        self._check_open(pool_id)
        pool = dict(self._registry.pool(pool_id).bindings)  # a replica bound meanwhile is not asked
        answers = await asyncio.gather(*(ask(binding) for binding in pool.values()))
        return dict(zip(pool, answers, strict=True))
