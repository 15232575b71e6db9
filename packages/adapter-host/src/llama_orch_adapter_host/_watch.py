"""One sweeper over all flights, for the limits that would else need a timer per token."""

import asyncio

from ._flight import Flight

INTERVAL = 0.05
"""Seconds between two looks: a limit is kept within about twice that."""


class Watch:
    """Looks at every flight in turn while there is one."""

    def __init__(self) -> None:
        self._flights: set[Flight] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, flight: Flight) -> None:
        """Watch a flight until its adapter has let go of it."""
        self._flights.add(flight)
        if self._timer is None:
            self._arm()

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
        self._flights = {flight for flight in self._flights if not flight.gone}
        for flight in tuple(self._flights):
            flight.check_silence(now)
        if self._flights:
            self._arm()
