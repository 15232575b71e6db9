"""One sweeper over all flights, for the limits that would else need a timer per token, and one closer of those over."""

import asyncio
from collections.abc import Callable

from ._flight import Flight

INTERVAL = 0.05
"""Seconds between two looks: a limit is kept within about twice that."""


class Watch:
    """Looks at every flight in turn while there is one; `let_go` is told when its adapter is done with it."""

    def __init__(self, let_go: Callable[[Flight], None] = lambda _: None) -> None:
        self._flights: dict[Flight, None] = {}  # in the order they came, so that a run can be replayed
        self._over: dict[Flight, None] = {}  # whose adapter has not let go yet
        self._let_go = let_go
        self._timer: asyncio.TimerHandle | None = None
        self._closer: asyncio.Handle | None = None

    def add(self, flight: Flight) -> None:
        """Watch a flight until its adapter has let go of it."""
        self._flights[flight] = None
        flight.watch = self
        if self._timer is None:
            self._arm()

    def over(self, flight: Flight) -> None:
        """Its caller has the end: close it at the loop's next turn, unless the caller has pulled on by then."""
        self._over[flight] = None
        if self._closer is None:
            self._closer = flight.loop.call_soon(self._close_those_over)

    def discard(self, flight: Flight) -> None:
        """Look at this one no more."""
        self._flights.pop(flight, None)
        self._over.pop(flight, None)
        self._let_go(flight)

    def close(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_those_over(self) -> None:
        self._closer = None
        over, self._over = self._over, {}
        for flight in over:
            flight.begin_closing()

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for flight in tuple(self._flights):
            flight.check_silence(now)
        if self._flights:
            self._arm()
