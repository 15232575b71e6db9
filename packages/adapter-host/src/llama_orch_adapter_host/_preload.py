"""Generations that serve nothing yet: waiting until one is ready, and keeping those that wait for their reload."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from llama_orch_adapter_api import WorkerHealth, WorkerProps, one_line

from ._binding import Binding
from ._blueprint import Blueprint
from ._difference import Place
from ._probe import ask_health, ask_props
from ._report import ReloadError

HOLD = 600.0
"""Seconds that a preloaded generation waits for its reload."""

_FIRST_PAUSE = 0.05
"""Seconds between the first two questions; each pause is twice as long as the one before, up to the longest."""

_LONGEST_PAUSE = 1.0


class Answers(NamedTuple):
    """What a generation said that is ready."""

    health: WorkerHealth
    props: WorkerProps


async def ready(binding: Binding) -> Answers:
    """Wait until the replica is ready and tells what it can do: loading is waited for, and so is what is down.

    Raises `ReloadError` with its last answer after `timeouts.preload` seconds.
    """
    limit, pause = binding.timeouts.preload, _FIRST_PAUSE
    told = "did not answer"
    try:
        async with asyncio.timeout(limit):
            while True:
                health = await ask_health(binding)
                told = f"is {health.state}" + (f": {one_line(health.detail)}" if health.detail else "")
                if health.ready:
                    props = await ask_props(binding)
                    if isinstance(props, WorkerProps):
                        return Answers(health, props)
                    told = f"does not say what it can do: {props.message}"
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
    except TimeoutError:
        what = f"replica {binding.replica}: it was not ready within {limit:g} s, it {told}"
        raise ReloadError([f"{what} · look at the engine, or raise timeouts.preload"]) from None


class Held:
    """Preloaded generations, one a replica, for `HOLD` seconds each. `let_go` is called with each that is not taken."""

    def __init__(self, let_go: Callable[[Binding], object]) -> None:
        self._let_go = let_go
        self._held: dict[Place, tuple[Binding, asyncio.TimerHandle]] = {}

    def keep(self, binding: Binding) -> None:
        """Keep one, in the place of the one that was kept for its replica."""
        place = binding.info.pool_id, binding.info.replica_id
        self.drop(place)
        self._held[place] = binding, asyncio.get_running_loop().call_later(HOLD, self.drop, place)

    def take(self, blueprint: Blueprint, above: int) -> Binding | None:
        """The one that is kept for a replica, if it was built from the same and its generation is above that number."""
        place = blueprint.place
        kept, _ = self._held.get(place, (None, None))
        if kept is None or kept.fingerprint != blueprint.fingerprint or kept.info.generation <= above:
            self.drop(place)
            return None
        return self._pop(place)

    def drop(self, place: Place) -> None:
        """Let go of what is kept for a replica, if there is any."""
        if place in self._held:
            self._let_go(self._pop(place))

    def close(self) -> None:
        """Let go of all."""
        for place in tuple(self._held):
            self.drop(place)

    def _pop(self, place: Place) -> Binding:
        binding, timer = self._held.pop(place)
        timer.cancel()
        return binding
