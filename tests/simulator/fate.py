"""What a fleet suffers in a day, drawn by seed: each fault at a moment, with its end."""

import asyncio
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

from .engine import STALE, Engine

HOUR = 3600.0


class Fault(NamedTuple):
    """At `moment` (seconds of the day) a fault of `kind` begins on the engine of that 0-based number, and lasts."""

    moment: float
    engine: int
    kind: str
    lasts: float


def faults(rng: random.Random, engines: int, hours: float, mean: float = HOUR) -> Iterator[Fault]:
    """The day's faults in order: on average one an engine in each `mean` seconds."""
    moment = 0.0
    while True:
        moment += rng.expovariate(engines / mean)
        if moment >= hours * HOUR:
            return
        kind = rng.choice(("crash", "crash", "hang", "slow", "overload", "errors", "resets", "blackout", "stale"))
        yield Fault(moment, rng.randrange(engines), kind, rng.uniform(5, 120))


class Fate:
    """Makes the faults happen on a running loop."""

    def __init__(self, engines: list[Engine]) -> None:
        self._engines = engines
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self.happened: list[str] = []

    def arm(self, fault: Fault) -> None:
        """Let it happen at its moment."""
        self._loop.call_at(self._began + fault.moment, self._happen, fault)

    def _happen(self, fault: Fault) -> None:
        self.happened.append(fault.kind)
        struck = self._engines if fault.kind == "blackout" else [self._engines[fault.engine]]
        for engine in struck:
            self._strike(engine, fault)

    def _strike(self, engine: Engine, fault: Fault) -> None:
        later = self._loop.call_later
        match fault.kind:
            case "crash" | "blackout":
                if engine.state != "gone":
                    engine.die()
                later(fault.lasts, engine.load)
                later(fault.lasts * 1.5, engine.serve)
            case "hang":
                if engine.state == "up":
                    engine.hang()
                    later(fault.lasts, engine.wake)
            case "slow":
                self._for_a_while(engine, fault, "speed", 0.05, 1.0)
            case "overload":
                self._for_a_while(engine, fault, "refuses", 0.9, 0.0)
            case "errors":
                self._for_a_while(engine, fault, "fails", 0.6, 0.0)
            case "resets":
                self._for_a_while(engine, fault, "resets", 0.5, 0.0)
            case "stale":
                self._for_a_while(engine, fault, "stale", 0.7, STALE)

    def _for_a_while(self, engine: Engine, fault: Fault, what: str, value: float, before: float) -> None:
        set_it: Callable[[Engine, str, float], None] = setattr
        set_it(engine, what, value)
        self._loop.call_later(fault.lasts, set_it, engine, what, before)
