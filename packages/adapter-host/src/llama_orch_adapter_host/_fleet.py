"""The bound replicas, from the building of each to its closing."""

import asyncio
import contextlib
import random
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from llama_orch_adapter_api import (
    BindingInfo,
    WorkerHealth,
    WorkerProps,
    WorkerReset,
    one_line,
)

from ._advisers import Advisers
from ._binding import Binding
from ._blueprint import Blueprint
from ._breaker import Breakers, State
from ._bus import Bus
from ._events import (
    AdapterBroke,
    AdapterCounted,
    AdapterSpoke,
    BreakerChanged,
    ReplicaBound,
    ReplicaDrained,
    ReplicaDraining,
    ReplicaPreloading,
    ReplicaRebound,
    ReplicaUnbound,
)
from ._gate import Gate
from ._health import Health
from ._herald import Herald
from ._lookout import Lookout
from ._plugins import Plugins
from ._policy import PoolPolicy
from ._pool import Pool
from ._probe import FAREWELL_LIMIT, farewell
from ._registry import Registry
from ._status import Stage

T = TypeVar("T")


class Fleet:
    """Builds bindings, seats them in the registry, has them watched and lets them go, and has all of it told."""

    def __init__(self, plugins: Callable[[], Plugins], bus: Bus) -> None:
        self.registry = Registry()
        self._herald = Herald(plugins, bus)
        self.lookout = Lookout(self._herald, self.errand)
        self.cache = self.lookout.cache
        self.advisers = Advisers(self.cache, self._herald, plugins)
        self._breakers = Breakers(random=random.random, on_change=self._breaker_changed)
        self._by_key: dict[str, Binding] = {}
        self._plans: dict[Binding, Blueprint] = {}  # what each was built from
        self._errands: set[asyncio.Task[Any]] = set()
        self._served: set[Binding] = set()  # those that were seated, until they are closed
        self._empty: set[Binding] = set()  # those that were told to be drained
        self._closings: dict[Binding, asyncio.Task[None]] = {}

    def bindings(self) -> tuple[Binding, ...]:
        """Every binding whose adapter is not closed: seated, not yet seated, or taken over from."""
        return tuple(self._by_key.values())

    def stage(self, binding: Binding) -> Stage:
        """How far a binding has come in its life."""
        if binding not in self._served:
            return "building"
        info = binding.info
        return "bound" if self.registry.find(info.pool_id, info.replica_id) is binding else "leaving"

    # --- a binding's life

    def build(self, blueprint: Blueprint) -> Binding:
        """A binding that serves nothing yet, its replica's next generation. Raises `ConfigError`."""
        info = blueprint.info(self.registry.next_generation(blueprint.pool_id, blueprint.replica_id))
        self._herald.tell(ReplicaPreloading, info)
        self._herald.hook("llama_orch_on_preload", info)
        adapter = blueprint.build(
            lambda words: self._herald.tell(AdapterSpoke, info, words=one_line(words)),
            lambda what: self._herald.tell(AdapterCounted, info, what=one_line(what)),
        )
        self.registry.number(info)
        pool = self.registry.get(info.pool_id)
        policy = blueprint.policy or (PoolPolicy() if pool is None else pool.policy)
        key = _key(info)
        gate = Gate(self._breakers.create(key, policy.breaker), Health(policy.health), policy.max_in_flight)
        binding = self._by_key[key] = Binding(
            info,
            adapter,
            blueprint.timeouts,
            gate,
            blueprint.fingerprint,
            blueprint.spec.advise,
            blueprint.http,
            broke=lambda what, error: self._herald.tell(AdapterBroke, info, what=what, error=error),
        )
        self._plans[binding] = blueprint
        return binding

    def blueprint(self, binding: Binding) -> Blueprint:
        """What a binding was built from, whatever became of its pool's policy since."""
        return self._plans[binding]._replace(policy=None)

    def reloading(self, binding: Binding) -> None:
        """Tell that what a binding was built from is about to be replaced."""
        self._herald.hook("llama_orch_on_reload", binding.info)

    def learn(self, binding: Binding, health: WorkerHealth, props: WorkerProps) -> None:
        """Take in what a binding answered that serves nothing yet."""
        binding.gate.health.saw(health)
        self.cache.saw(binding, props)

    def seat(self, binding: Binding, policy: PoolPolicy | None = None) -> Binding | None:
        """Let a binding take tasks from now on; the one whose place it took is returned, to be retired."""
        before = self.place(binding, policy)
        self.present(binding, before)
        return before

    def place(self, binding: Binding, policy: PoolPolicy | None = None) -> Binding | None:
        """`seat` without a word of it, so that many can be seated at once; `present` says it."""
        before = self.registry.put(binding)
        self._served.add(binding)
        pool = self.registry.pool(binding.info.pool_id)
        if policy is not None:
            self.adopt(pool, policy)
        binding.gate.adopt(pool.policy)
        if before is not None:
            self.lookout.unwatch(before)
        self.watch(binding)
        return before

    def present(self, binding: Binding, before: Binding | None) -> None:
        """Tell that a binding was placed, and whose place it took."""
        if before is None:
            self._herald.tell(ReplicaBound, binding.info)
            self._herald.hook("llama_orch_on_bind", binding.info)
        else:
            self._herald.tell(ReplicaRebound, binding.info, leases=len(before.leases))
            self._herald.hook("llama_orch_on_rebind", binding.info)
            self.lookout.take_over(before, binding)

    def adopt(self, pool: Pool, policy: PoolPolicy) -> bool:
        """Treat a pool's tasks so from now on, which builds nothing anew; whether that is a change."""
        if policy == pool.policy:
            return False
        pool.adopt(policy)
        for binding in pool.order:
            binding.gate.adopt(policy)
            self.lookout.adopt(binding, policy.health)
        return True

    def unseat(self, binding: Binding) -> None:
        """Send no more tasks to a binding and take its name away from it; its streams run on."""
        self.registry.remove(binding)
        self.lookout.unwatch(binding)

    def watch(self, binding: Binding) -> None:
        """Ask the binding's health from now on, as its pool says."""
        self.lookout.watch(binding, self.registry.pool(binding.info.pool_id).policy.health)

    def refuse(self, binding: Binding, limit: float | None = None) -> None:
        """Let no more tasks in; streams run on for `limit` seconds, None: as its pool says. Twice is once."""
        if not binding.gate.draining:
            binding.gate.drain()
            limit = binding.timeouts.drain if limit is None else limit
            self._herald.tell(ReplicaDraining, binding.info, leases=len(binding.leases), limit=limit)
            self._herald.hook("llama_orch_on_drain", binding.info)

    async def drain(self, binding: Binding) -> int:
        """Let no more tasks in and wait for its streams, up to its pool's limit; how many were then cut."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        self.refuse(binding)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(binding.timeouts.drain):
                await binding.leases.none()
        left = tuple(binding.leases)
        cut = sum(lease.cut(_drained(binding)) for lease in left)
        await asyncio.gather(*(lease.stop() for lease in left))
        self.emptied(binding, cut, loop.time() - began)
        return cut

    def emptied(self, binding: Binding, cut: int, duration: float, *, stopping: bool = False) -> None:
        """Tell that no stream runs on a binding that lets none in. Twice is once."""
        if binding not in self._empty:
            self._empty.add(binding)
            self._herald.tell(ReplicaDrained, binding.info, cut=cut, duration=duration, stopping=stopping)

    async def retire(self, binding: Binding) -> int:
        """Take a binding out, drain it, close its adapter, once, and forget it; how many streams were cut."""
        self.unseat(binding)
        cut = await self.drain(binding)
        await self.discard(binding)
        return cut

    async def see_off(self, binding: Binding) -> int:
        """`retire` in the background, and wait for it: whoever stops waiting stops nothing else."""
        self.unseat(binding)
        return await self._through(binding, self.retire(binding))

    async def empty(self, binding: Binding) -> int:
        """`drain` in the background, and wait for it: as `see_off`."""
        return await self._through(binding, self.drain(binding))

    async def _through(self, binding: Binding, work: Coroutine[Any, Any, int]) -> int:
        """Wait for what a stop of the host may end, and nobody else."""
        self.refuse(binding)
        errand = self.errand(work)
        await asyncio.wait([errand])
        return 0 if errand.cancelled() else errand.result()

    async def discard(self, binding: Binding, limit: float = FAREWELL_LIMIT) -> None:
        """Close a binding's adapter and forget it, whether it was ever seated or not. Once begun it is finished.

        The adapter may take `limit` seconds.
        """
        self.unseat(binding)
        if self._by_key.pop(_key(binding.info), None) is not None:
            self._plans.pop(binding)
            self._breakers.forget(_key(binding.info))
            self.cache.forget(binding)
            self._closings[binding] = asyncio.get_running_loop().create_task(self._close(binding, limit))
        closing = self._closings.get(binding)
        if closing is not None:
            await asyncio.shield(closing)

    async def close(self, limit: float = FAREWELL_LIMIT) -> None:
        """Close every adapter, those that never served included, and end what runs in the background, in parallel.

        Each may take `limit` seconds.
        """
        errands = tuple(self._errands)
        for errand in errands:
            errand.cancel()
        await asyncio.gather(
            *(self.discard(binding, limit) for binding in (*self.bindings(), *self._closings)), _ended(errands, limit)
        )

    async def _close(self, binding: Binding, limit: float) -> None:
        await farewell(binding, "closing the adapter", binding.adapter.aclose, limit)
        self._empty.discard(binding)
        del self._closings[binding]
        if binding in self._served:
            self._served.discard(binding)
            self._herald.tell(ReplicaUnbound, binding.info)
            self._herald.hook("llama_orch_on_unbind", binding.info)

    # --- in the background

    def errand(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work in the background that a stop of the host ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    def _breaker_changed(self, key: str, state: State, open_for: float) -> None:
        binding = self._by_key[key]
        self._herald.tell(BreakerChanged, binding.info, state=state, open_for=open_for)
        if state == "open":
            self.lookout.ask_in(binding, open_for)


async def _ended(errands: Collection[asyncio.Task[Any]], limit: float) -> None:
    if errands:
        await asyncio.wait(errands, timeout=limit)


def _key(info: BindingInfo) -> str:
    return f"{info.pool_id}/{info.replica_id}#{info.generation}"


def _drained(binding: Binding) -> WorkerReset:
    return WorkerReset(
        f"the replica was drained, and {binding.timeouts.drain:g} s were not enough for this stream · "
        f"{binding.replica} · send it again, or raise timeouts.drain",
        detail="drained",
    )
