"""Asks each replica how it is, in the background: one question at a time, sooner where it is awaited."""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

from llama_orch_adapter_api import WorkerHealth

from ._binding import Binding
from ._health import HealthPolicy
from ._probe import ask_health

_WHILE_AWAITED = 1.0
"""Seconds between two questions while an engine is about to be ready, and the least between two made urgent."""

_SOON = 0.05
"""Seconds before a question that something just made urgent: so that many such reasons make one."""


class Prober:
    """Of one binding. `saw` is told each answer; a question is a task of `spawn`, between two is a timer alone."""

    def __init__(
        self,
        binding: Binding,
        policy: HealthPolicy,
        saw: Callable[[Binding, WorkerHealth], None],
        spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]],
        chance: Callable[[], float] = random.random,
    ) -> None:
        self._binding = binding
        self._policy = policy
        self._saw = saw
        self._spawn = spawn
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._question: asyncio.Task[None] | None = None
        self._asked_at = float("-inf")
        self._stopped = False

    def adopt(self, policy: HealthPolicy) -> None:
        """Ask as often as this says from now on; a question that waits is put no later than it would be so."""
        self._policy = policy
        self.ask_in(self.next_in(self._loop.time()))

    def ask_in(self, seconds: float) -> None:
        """Ask after so many seconds, unless it is asked earlier or just now."""
        when = self._loop.time() + seconds
        if self._stopped or self._question is not None or (self._timer is not None and self._timer.when() <= when):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._ask)

    def ask_soon(self) -> None:
        """Something happened that the replica's health may explain."""
        self.ask_in(max(_SOON, self._asked_at + _WHILE_AWAITED - self._loop.time()))

    def stop(self) -> None:
        """Ask no more."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._question is not None:
            self._question.cancel()

    def next_in(self, now: float) -> float:
        """Seconds until the next question: the interval, or less where a breaker or an engine is waited for."""
        policy, gate = self._policy, self._binding.gate
        wait = policy.interval * (1 + policy.spread * (2 * self._chance() - 1))
        if gate.health.awaited:
            wait = min(wait, _WHILE_AWAITED)
        if gate.breaker.state == "open":
            wait = min(wait, max(gate.breaker.reopens_in(now), _SOON))
        return wait

    def _ask(self) -> None:
        self._timer = None
        self._asked_at = self._loop.time()
        question = self._spawn(self._hear())
        self._question = None if question.done() else question  # a task that starts eagerly may be over already

    async def _hear(self) -> None:
        try:
            health = await ask_health(self._binding)
            if not self._stopped:
                self._saw(self._binding, health)
        finally:  # whatever came of it, it is asked again
            self._question = None
            if not self._stopped:
                self.ask_in(self.next_in(self._loop.time()))
