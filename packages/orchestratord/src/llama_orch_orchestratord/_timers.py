"""At most one timer for each of many things: a new one takes the place of the one before."""

import asyncio
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Timers(Generic[T]):
    """By what they are for, on the clock of a loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handles: dict[T, asyncio.TimerHandle] = {}

    def __contains__(self, item: T) -> bool:
        return item in self._handles

    def arm(self, item: T, at: float, then: Callable[[T], None]) -> None:
        """Call `then` with the item at a moment, instead of what was to come before."""
        self.disarm(item)
        self._handles[item] = self._loop.call_at(at, self._ring, item, then)

    def disarm(self, item: T) -> None:
        """Call nothing for it."""
        handle = self._handles.pop(item, None)
        if handle is not None:
            handle.cancel()

    def close(self) -> None:
        """Call nothing for any."""
        for item in tuple(self._handles):
            self.disarm(item)

    def _ring(self, item: T, then: Callable[[T], None]) -> None:
        del self._handles[item]
        then(item)
