"""What is known of the origins on one event loop: which of them are spoken to over HTTP/1.1, and for how long.

It outlives the clients: a client that comes later need not find out again.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from weakref import WeakKeyDictionary

_MOST = 1024
"""Origins remembered at once; the one that was marked first is forgotten first."""


class Origins:
    """A memory of marks. Moments are on the clock of whoever asks, in seconds."""

    def __init__(self) -> None:
        self._marked_until: OrderedDict[Hashable, float] = OrderedDict()

    def is_marked(self, origin: Hashable, now: float) -> bool:
        """Whether HTTP/1.1 is spoken to it."""
        return now < self._marked_until.get(origin, now)

    def mark(self, origin: Hashable, now: float, span: float) -> bool:
        """Speak HTTP/1.1 to it for so long; whether that is news."""
        if self.is_marked(origin, now):
            return False
        self._marked_until[origin] = now + span
        self._marked_until.move_to_end(origin)
        if len(self._marked_until) > _MOST:
            self._marked_until.popitem(last=False)
        return True

    def forget(self, origin: Hashable) -> None:
        """Take a mark back."""
        self._marked_until.pop(origin, None)


_origins: WeakKeyDictionary[asyncio.AbstractEventLoop, Origins] = WeakKeyDictionary()


def origins() -> Origins:
    """The running loop's memory."""
    return _origins.setdefault(asyncio.get_running_loop(), Origins())
