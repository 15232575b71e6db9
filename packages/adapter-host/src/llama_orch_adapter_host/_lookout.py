"""Who watches each bound replica: its health, what it can do, when its breaker may be tried again."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any

from llama_orch_adapter_api import WorkerHealth, one_line

from ._binding import Binding
from ._capabilities import CapabilityCache
from ._events import CapabilitiesChanged, HealthChanged
from ._health import HealthPolicy
from ._herald import Herald
from ._probe import ask_props
from ._prober import Prober

FRESH = 60.0
"""Seconds after which a replica is asked again what it can do; after twice that, or three pauses, it is stale."""

Errand = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Work in the background that a stop of the host ends."""


class Lookout:
    """The probers of a host's replicas, and what they learnt."""

    def __init__(self, herald: Herald, errand: Errand) -> None:
        self.cache = CapabilityCache(2 * FRESH, _clock)
        self._herald = herald
        self._errand = errand
        self.probers: dict[Binding, Prober] = {}
        self._asked: dict[Binding, asyncio.Task[None]] = {}  # who is being asked what it can do

    def watch(self, binding: Binding, policy: HealthPolicy) -> None:
        """Ask the binding's health from now on, the first time soon. A second call changes nothing.

        Outside a running loop nothing can be asked: entering the host does it then.
        """
        if binding not in self.probers and _loop_runs():
            self.probers[binding] = Prober(binding, policy, self._saw, self._errand)
            self.probers[binding].ask_soon()

    def unwatch(self, binding: Binding) -> None:
        """Ask it no more."""
        prober = self.probers.pop(binding, None)
        if prober is not None:
            prober.stop()

    def adopt(self, binding: Binding, policy: HealthPolicy) -> None:
        """Ask as often as this says from now on."""
        prober = self.probers.get(binding)
        if prober is not None:
            prober.adopt(policy)

    def hurry(self, binding: Binding) -> None:
        """Ask a binding's health soon: it pushed a task back, and may take one again before its next turn."""
        prober = self.probers.get(binding)
        if prober is not None:
            prober.ask_soon()

    def ask_in(self, binding: Binding, seconds: float) -> None:
        """Ask a binding's health then: its breaker may be tried again."""
        prober = self.probers.get(binding)
        if prober is not None:
            prober.ask_in(seconds)

    def take_over(self, before: Binding, binding: Binding) -> None:
        """What was known of a binding is compared with what its next generation said."""
        self._told_changes(binding, self.cache.hand_over(before, binding))

    async def refresh(self, binding: Binding) -> None:
        """Ask a binding what it can do; whoever asks meanwhile shares the answer."""
        asked = self._asked.get(binding)
        if asked is None:
            asked = self._asked[binding] = self._errand(self._learn(binding))
            asked.add_done_callback(lambda _: self._asked.pop(binding, None))
        await asyncio.shield(asked)

    async def _learn(self, binding: Binding) -> None:
        answer = await ask_props(binding)
        if binding in self.probers:  # else another one has taken over, or it is gone
            self._told_changes(binding, self.cache.saw(binding, answer))

    def _told_changes(self, binding: Binding, changes: tuple[str, ...]) -> None:
        if changes:
            self._herald.tell(CapabilitiesChanged, binding.info, changes=changes)

    def _saw(self, binding: Binding, health: WorkerHealth) -> None:
        """A replica said how it is."""
        gate, now = binding.gate, asyncio.get_running_loop().time()
        was = gate.health.belief
        if gate.health.saw(health):
            detail = one_line(health.detail)
            self._herald.tell(HealthChanged, binding.info, was=was, now=gate.health.belief, detail=detail)
        if gate.breaker.due(now):
            if health.ready:
                gate.breaker.half_open(now)
            else:
                gate.breaker.postpone(now)
        news = was != gate.health.belief or self.cache.age(binding) >= FRESH
        if health.ready and news and binding not in self._asked:
            self._errand(self.refresh(binding))


def _loop_runs() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _clock() -> float:
    """The running loop's clock, else the one that loops go by."""
    return asyncio.get_running_loop().time() if _loop_runs() else time.monotonic()
