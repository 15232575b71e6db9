"""Whether a connection is used, and whether its peer is alive: what to do about it, now and then. No I/O, no clock."""

from typing import Literal

Verdict = Literal["wait", "ping", "give_up", "close"]


class Pulse:
    """Looks at two counts, each time after the same span: what nobody counts costs nothing.

    A peer that was silent for a span is sent a PING if somebody waits for it; after another it is given up. A
    connection that nobody used for a span is closed.
    """

    def __init__(self) -> None:
        self._heard = -1
        self._opened = -1
        self._pinged = False

    def look(self, heard: int, opened: int, waiting: int) -> Verdict:
        """`heard`: how often the peer said something; `opened`, `waiting`: how many streams began, and are open."""
        silent, unused = heard == self._heard, opened == self._opened
        self._heard, self._opened = heard, opened
        if unused and not waiting:
            return "close"
        if silent and self._pinged:
            return "give_up"
        self._pinged = silent and bool(waiting)
        return "ping" if self._pinged else "wait"
