"""The bound replicas and all that watches over each: its gate, its breaker, who asks its health, what it can do."""

import asyncio
import contextlib
import random
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any, TypeVar

from llama_orch_adapter_api import (
    Advise,
    BindingInfo,
    Capabilities,
    TaskRequest,
    WorkerHealth,
    WorkerProps,
    WorkerReset,
    one_line,
)

from ._binding import Binding
from ._blueprint import Blueprint
from ._breaker import Breakers, State
from ._bus import Bus
from ._call import Call
from ._capabilities import CapabilityCache
from ._events import (
    AdapterBroke,
    AdapterSpoke,
    BreakerChanged,
    CapabilitiesChanged,
    HealthChanged,
    ReplicaBound,
    ReplicaDrained,
    ReplicaDraining,
    ReplicaEvent,
    ReplicaPreloading,
    ReplicaRebound,
    ReplicaUnbound,
)
from ._gate import Gate
from ._health import Health
from ._leash import Leash
from ._offer import never_awaited
from ._plugins import Plugins
from ._policy import PoolPolicy
from ._pool import Pool
from ._probe import FAREWELL_LIMIT, ask_props, farewell
from ._prober import Prober
from ._registry import Registry

T = TypeVar("T")

FRESH = 60.0
"""Seconds after which a replica is asked again what it can do; after twice that, or three pauses, it is stale."""


class Fleet:
    """Builds bindings, seats them in the registry, watches them and lets them go, and tells events and hooks of it."""

    def __init__(self, plugins: Callable[[], Plugins], bus: Bus) -> None:
        self.registry = Registry()
        self.cache = CapabilityCache(2 * FRESH, _clock)
        self._plugins = plugins
        self._bus = bus
        self._breakers = Breakers(random=random.random, on_change=self._breaker_changed)
        self._by_key: dict[str, Binding] = {}
        self._probers: dict[Binding, Prober] = {}
        self._errands: set[asyncio.Task[Any]] = set()
        self._asked: dict[Binding, asyncio.Task[None]] = {}  # who is being asked what it can do
        self._served: set[Binding] = set()  # those that were seated, until they are closed
        self._empty: set[Binding] = set()  # those that were told to be drained
        self._closings: dict[Binding, asyncio.Task[None]] = {}
        self._leashes: dict[str, Leash] = {}  # of advice, by engine

    def bindings(self) -> tuple[Binding, ...]:
        """Every binding whose adapter is not closed: seated, not yet seated, or taken over from."""
        return tuple(self._by_key.values())

    # --- a binding's life

    def build(self, blueprint: Blueprint) -> Binding:
        """A binding that serves nothing yet, its replica's next generation. Raises `ConfigError`."""
        info = blueprint.info(self.registry.next_generation(blueprint.pool_id, blueprint.replica_id))
        self._tell(ReplicaPreloading, info)
        self._hook("llama_orch_on_preload", info)
        adapter = blueprint.build(lambda words: self._tell(AdapterSpoke, info, words=one_line(words)))
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
            broke=lambda what, error: self._tell(AdapterBroke, info, what=what, error=error),
        )
        return binding

    def reloading(self, binding: Binding) -> None:
        """Tell that what a binding was built from is about to be replaced."""
        self._hook("llama_orch_on_reload", binding.info)

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
            self._unwatch(before)
        self.watch(binding)
        return before

    def present(self, binding: Binding, before: Binding | None) -> None:
        """Tell that a binding was placed, and whose place it took."""
        if before is None:
            self._tell(ReplicaBound, binding.info)
            self._hook("llama_orch_on_bind", binding.info)
        else:
            self._tell(ReplicaRebound, binding.info, leases=len(before.leases))
            self._hook("llama_orch_on_rebind", binding.info)
            self._told_changes(binding, self.cache.hand_over(before, binding))

    def adopt(self, pool: Pool, policy: PoolPolicy) -> bool:
        """Treat a pool's tasks so from now on, which builds nothing anew; whether that is a change."""
        if policy == pool.policy:
            return False
        pool.adopt(policy)
        for binding in pool.order:
            binding.gate.adopt(policy)
            prober = self._probers.get(binding)
            if prober is not None:
                prober.adopt(policy.health)
        return True

    def unseat(self, binding: Binding) -> None:
        """Send no more tasks to a binding and take its name away from it; its streams run on."""
        self.registry.remove(binding)
        self._unwatch(binding)

    def watch(self, binding: Binding) -> None:
        """Ask the binding's health from now on, the first time soon. A second call changes nothing.

        Outside a running loop nothing can be asked: entering the host does it then.
        """
        if binding not in self._probers and _loop_runs():
            policy = self.registry.pool(binding.info.pool_id).policy.health
            self._probers[binding] = Prober(binding, policy, self._saw, self.errand)
            self._probers[binding].ask_soon()

    def refuse(self, binding: Binding, limit: float | None = None) -> None:
        """Let no more tasks in; streams run on for `limit` seconds, None: as its pool says. Twice is once."""
        if not binding.gate.draining:
            binding.gate.draining = True
            limit = binding.timeouts.drain if limit is None else limit
            self._tell(ReplicaDraining, binding.info, leases=len(binding.leases), limit=limit)
            self._hook("llama_orch_on_drain", binding.info)

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
            self._tell(ReplicaDrained, binding.info, cut=cut, duration=duration, stopping=stopping)

    async def retire(self, binding: Binding) -> int:
        """Take a binding out, drain it, close its adapter, once, and forget it; how many streams were cut."""
        self.unseat(binding)
        cut = await self.drain(binding)
        await self.discard(binding)
        return cut

    async def see_off(self, binding: Binding) -> int:
        """`retire` in the background, and wait for it: whoever stops waiting stops nothing else."""
        self.unseat(binding)
        self.refuse(binding)
        errand = self.errand(self.retire(binding))
        await asyncio.wait([errand])
        return 0 if errand.cancelled() else errand.result()

    async def discard(self, binding: Binding) -> None:
        """Close a binding's adapter and forget it, whether it was ever seated or not. Once begun it is finished."""
        self.unseat(binding)
        if self._by_key.pop(_key(binding.info), None) is not None:
            self._breakers.forget(_key(binding.info))
            self.cache.forget(binding)
            self._closings[binding] = asyncio.get_running_loop().create_task(self._close(binding))
        closing = self._closings.get(binding)
        if closing is not None:
            await asyncio.shield(closing)

    async def close(self) -> None:
        """Close every adapter, those that never served included, and end what runs in the background, in parallel."""
        errands = tuple(self._errands)
        for errand in errands:
            errand.cancel()
        await asyncio.gather(
            *(self.discard(binding) for binding in (*self.bindings(), *self._closings)), _ended(errands)
        )

    async def _close(self, binding: Binding) -> None:
        await farewell(binding, "closing the adapter", binding.adapter.aclose)
        self._empty.discard(binding)
        del self._closings[binding]
        if binding in self._served:
            self._served.discard(binding)
            self._tell(ReplicaUnbound, binding.info)
            self._hook("llama_orch_on_unbind", binding.info)

    # --- looking at it

    def advise(self, binding: Binding, call: Call) -> None:
        """Tell what the adapter advises on a task that is about to go there; it goes nevertheless."""
        ask = binding.advise
        known = None if ask is None else self.cache.known(binding)
        if ask is None or known is None:
            return
        engine = binding.info.engine
        leash = self._leashes.get(engine) or self._leashes.setdefault(engine, Leash())
        if leash.off:
            return
        advice, fault = leash.call(lambda: _advice(ask, call.task, known))
        if fault:
            self._tell(AdapterBroke, binding.info, what="advise()", error=fault)
            if leash.off:
                self._plugins().drop_advice(engine, fault)
        if advice is not None:
            call.advised(binding.info, advice)

    async def refresh(self, binding: Binding) -> None:
        """Ask a binding what it can do; whoever asks meanwhile shares the answer."""
        asked = self._asked.get(binding)
        if asked is None:
            asked = self._asked[binding] = self.errand(self._learn(binding))
            asked.add_done_callback(lambda _: self._asked.pop(binding, None))
        await asyncio.shield(asked)

    def errand(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Work in the background that a stop of the host ends."""
        task = asyncio.get_running_loop().create_task(work)
        self._errands.add(task)
        task.add_done_callback(self._errands.discard)
        return task

    async def _learn(self, binding: Binding) -> None:
        answer = await ask_props(binding)
        if binding in self._probers:  # else another one has taken over, or it is gone
            self._told_changes(binding, self.cache.saw(binding, answer))

    def _told_changes(self, binding: Binding, changes: tuple[str, ...]) -> None:
        if changes:
            self._tell(CapabilitiesChanged, binding.info, changes=changes)

    def _saw(self, binding: Binding, health: WorkerHealth) -> None:
        """A replica said how it is."""
        gate, now = binding.gate, asyncio.get_running_loop().time()
        was = gate.health.belief
        if gate.health.saw(health):
            self._tell(HealthChanged, binding.info, was=was, now=gate.health.belief, detail=one_line(health.detail))
        if gate.breaker.due(now):
            if health.ready:
                gate.breaker.half_open(now)
            else:
                gate.breaker.postpone(now)
        news = was != gate.health.belief or self.cache.age(binding) >= FRESH
        if health.ready and news and binding not in self._asked:
            self.errand(self.refresh(binding))

    def _breaker_changed(self, key: str, state: State, open_for: float) -> None:
        binding = self._by_key[key]
        self._tell(BreakerChanged, binding.info, state=state, open_for=open_for)
        prober = self._probers.get(binding)
        if prober is not None and state == "open":
            prober.ask_in(open_for)

    def hurry(self, binding: Binding) -> None:
        """Ask a binding's health soon: it pushed a task back, and may take one again before its next turn."""
        prober = self._probers.get(binding)
        if prober is not None:
            prober.ask_soon()

    def _unwatch(self, binding: Binding) -> None:
        prober = self._probers.pop(binding, None)
        if prober is not None:
            prober.stop()

    # --- telling

    def _tell(self, kind: type[ReplicaEvent], info: BindingInfo, **facts: Any) -> None:  # noqa: ANN401  # the event's own
        self._bus.emit(
            kind(  # type: ignore[arg-type]  # every kind is one of the union
                pool_id=info.pool_id,
                replica_id=info.replica_id,
                engine=info.engine,
                generation=info.generation,
                **facts,
            )
        )

    def _hook(self, hook: str, info: BindingInfo) -> None:
        self._plugins().notify(hook, info)


def _advice(ask: Advise, task: TaskRequest, known: Capabilities) -> str | None:
    """What an adapter advises, in one line. Raises whatever it raises, `TypeError` where that is no text."""
    advice: object = ask(task, known)
    if never_awaited(advice):
        raise TypeError("advise is a plain function")
    if advice is not None and not isinstance(advice, str):
        raise TypeError("advice is a text, or None")
    return None if advice is None else one_line(advice)


async def _ended(errands: Collection[asyncio.Task[Any]]) -> None:
    """Wait until they are, no longer than for a farewell."""
    if errands:
        await asyncio.wait(errands, timeout=FAREWELL_LIMIT)


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _clock() -> float:
    """The running loop's clock, else the one that loops go by."""
    return asyncio.get_running_loop().time() if _loop_runs() else time.monotonic()


def _key(info: BindingInfo) -> str:
    return f"{info.pool_id}/{info.replica_id}#{info.generation}"


def _drained(binding: Binding) -> WorkerReset:
    return WorkerReset(
        f"the replica was drained, and {binding.timeouts.drain:g} s were not enough for this stream · "
        f"{binding.replica} · send it again, or raise timeouts.drain",
        detail="drained",
    )
