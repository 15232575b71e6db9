"""An event loop that does not wait: when nothing can happen before the next timer, it is at once that late."""

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from typing import Any, TypeVar, TypeVarTuple

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")

_GRACE = 0.002
"""Real seconds in which bytes under way on the loopback interface arrive."""


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """A loop whose `time()` begins at 0 and moves only by jumping to the next timer.

    Sockets work: what they have to say comes before any jump, if it comes within 2 ms. While a thread of the executor
    works, the clock stands.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._threads: set[asyncio.Future[Any]] = set()
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """The virtual time, in seconds."""
        return self.now

    @property
    def threads_at_work(self) -> bool:
        """Whether something was given to the executor and is not back yet."""
        return bool(self._threads)

    def run_in_executor(self, executor: Executor | None, func: Callable[[*_Ts], _T], *args: *_Ts) -> asyncio.Future[_T]:
        future = super().run_in_executor(executor, func, *args)
        self._threads.add(future)
        future.add_done_callback(self._threads.discard)
        return future

    async def shutdown_default_executor(self, _limit: float | None = None) -> None:
        """Wait for the executor without a limit: from 3.12 on there is one, and it would be over at once."""
        await super().shutdown_default_executor()


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualClockLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or self._loop.threads_at_work:
            return super().select(timeout)
        has_sockets = len(self.get_map()) > 1  # one is the loop's own
        ready = super().select(min(timeout, _GRACE) if has_sockets else 0)
        if not ready and timeout > 0:
            self._loop.now += timeout
        return ready


def run_virtual(main: Coroutine[object, object, _T]) -> _T:
    """Run `main` on a virtual clock of its own, and close the loop."""
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)
