"""One sweeper over all flights, for the limits that would else need a timer per token."""

import asyncio

from ._flight import Flight

INTERVAL = 0.05
"""Seconds between two looks: a limit is kept within about twice that."""


class Watch:
    """Looks at every flight in turn while there is one."""

    def __init__(self) -> None:
        self._flights: dict[Flight, None] = {}  # in the order they came, so that a run can be replayed
        self._timer: asyncio.TimerHandle | None = None

    def add(self, flight: Flight) -> None:
        """Watch a flight until its adapter has let go of it."""
        self._flights[flight] = None
        flight.watch = self
        if self._timer is None:
            self._arm()

    def discard(self, flight: Flight) -> None:
        """Look at this one no more."""
        self._flights.pop(flight, None)

    def close(self) -> None:
        """Stop looking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(INTERVAL, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        for flight in tuple(self._flights):
            flight.check_silence(now)
        if self._flights:
            self._arm()
