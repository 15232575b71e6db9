"""Limits of time that a busy machine does not use up.

What counts is the time that the loop had: what its thread computed, and what it waited for something to happen. While
the thread is ready to go on, and others have the processor, nothing counts, up to ten times the limit.
"""

import asyncio
import selectors
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

_T = TypeVar("_T")

WHATEVER = 10.0
"""How much longer than its limit something may take by the clock on the wall."""

_had: ContextVar[Callable[[], float]] = ContextVar("had", default=time.monotonic)
"""Seconds that the loop of this context had."""


class Selector(selectors.DefaultSelector):
    """Counts the seconds that a loop waits; those by which it wakes up late do not count."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """As any selector."""
        began = time.monotonic()
        ready = super().select(timeout)
        waited = time.monotonic() - began
        self.waited += waited if timeout is None else min(waited, max(timeout, 0.0))
        return ready

    def had(self) -> float:
        """Seconds that the loop had; called in its thread."""
        return time.thread_time() + self.waited


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """As `asyncio.run`, on a loop whose limits count the time that it had."""
    selector = Selector()
    token = _had.set(selector.had)
    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(selector)) as runner:
            return runner.run(main)
    finally:
        _had.reset(token)


@asynccontextmanager
async def within(seconds: float) -> AsyncIterator[asyncio.Timeout]:
    """As `asyncio.timeout`, but on the time that the loop had."""
    loop, had = asyncio.get_running_loop(), _had.get()
    until, at_the_latest = had() + seconds, loop.time() + WHATEVER * seconds

    watch: asyncio.TimerHandle

    def look() -> None:
        nonlocal watch
        left = min(until - had(), at_the_latest - loop.time())
        if left > 0:
            watch = loop.call_later(left, look)
        else:
            timer.reschedule(loop.time())

    async with asyncio.timeout(None) as timer:
        watch = loop.call_later(seconds, look)
        try:
            yield timer
        finally:
            watch.cancel()
