"""One running task: its caller pulls it, and anybody may interrupt it, once.

`pull` is the token path: it passes an event on and does next to nothing else. Whoever interrupts (cancel, deadline,
silence, shutdown) sets the outcome and, where the caller's task waits inside the adapter, has that wait cancelled;
`pull` takes the cancellation back and tells the outcome instead. A cancellation that came from outside as well stays
one. An adapter that swallows cancellation changes nothing: once there is an outcome, what it still yields or raises is
dropped. One that hangs in its clean-up is cancelled again.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from llama_orch_adapter_api import DeadlineUnmet, End, Phase, TaskRequest, Token, TokenEvent, WorkerError

from ._binding import Binding
from ._exits import is_strangers
from ._late import overdue, silent
from ._opening import BEFORE, amiss, failure_of, opened, plugin_error

CLOSE_LIMIT = 0.75
"""Seconds that an adapter may take to let go of a stream; then its clean-up is cancelled."""

STOP_LIMIT = 1.0
"""Seconds that a stop waits for it, whatever the adapter does."""

_COMMITS = (Token, End)

_TWO_READERS = "two tasks read one stream; let one of them read it and hand the events on"


def cancelled() -> End:
    """How a cancelled task ends."""
    return End(tokens_in=None, tokens_out=None, finish_reason="cancelled")


class Watched(Protocol):
    """Where flights are looked at until their adapter has let go of them."""

    def over(self, flight: "Flight") -> None:
        """Its caller has the end: close it soon. Most pull on at once, which closes it for less."""

    def discard(self, flight: "Flight") -> None:
        """Look at this one no more."""


class Flight:
    """A task on its replica, from the call of the adapter to its one outcome; `on_end` is called when there is one."""

    __slots__ = (
        "__weakref__",
        "_beside",
        "_cancels",
        "_closed",
        "_closing",
        "_due",
        "_events",
        "_gone",
        "_kept",
        "_on_end",
        "_seen",
        "_sent",
        "_silent_since",
        "_straight",
        "_timer",
        "_told",
        "_waiting",
        "binding",
        "committed",
        "gone",
        "loop",
        "outcome",
        "task",
        "untouched",
        "watch",
    )

    def __init__(
        self,
        task: TaskRequest,
        binding: Binding,
        on_end: Callable[["Flight", float], None],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
        began: float | None = None,
    ) -> None:
        self.task = task
        self.watch: Watched | None = None  # who looks at it now and then
        self.untouched = True  # its caller has pulled nothing yet
        self.binding = binding
        self.committed = False
        self.outcome: End | WorkerError | None = None
        self._on_end = on_end
        self.loop = loop or asyncio.get_running_loop()
        self._events = opened(binding, task)
        self._kept: list[TokenEvent] = []  # what came up to the commit, the last one first
        self._straight = True  # nothing is kept and nothing is over: a pull goes straight to the adapter
        self._told = False
        self._waiting: asyncio.Task[object] | None = None  # the task that waits inside the adapter
        self._cancels = 0  # what it had been sent before it began to wait
        self._sent = 0  # how often it was cancelled by us, and is owed an uncancel
        self._closing: asyncio.Task[None] | None = None
        self._closed = False
        self.gone = False  # the adapter has let go of it
        self._gone: asyncio.Future[None] | None = None  # for who waits for that
        self._timer: asyncio.Handle | None = None  # the deadline; after an interruption, the cancellation to come
        self._due = BEFORE  # the number of the next token, or that there was nothing yet
        self._beside = 0  # events passed on that were none; the sweeper compares their sum with what it saw last
        self._seen = -1  # nothing it could be: the caller was not waiting
        self._silent_since = self.loop.time() if began is None else began
        binding.leases.add(self)

    @property
    def phase(self) -> Phase:
        """Where the task is: before the adapter's first event, before its first token, or after it."""
        if self.committed:
            return "decode"
        return "connect" if self._due == BEFORE else "first_token"

    @property
    def holds_on(self) -> bool:
        """Whether its adapter may still be at work: it was interrupted, and has not let go of it."""
        return not self.gone and (not self._told or self._closing is not None)

    async def commit(self) -> None:
        """Wait for the first token, or for the end; what came before is kept, and pulled first.

        A task that is cancelled meanwhile ends in nothing but its `End`.
        """
        kept = self._kept
        while not self.committed:
            event = await self.pull()
            kept.append(event)
            self.committed = isinstance(event, _COMMITS)
        kept.reverse()
        self._straight = False

    async def pull(self) -> TokenEvent:
        """The next event. Raises the task's `WorkerError`, `StopAsyncIteration` when all has been told."""
        if not self._straight:
            return self._give_kept() if self._kept else await self._tell()
        if self._waiting is not None:
            raise RuntimeError(_TWO_READERS)
        task = asyncio.current_task(self.loop)
        assert task is not None  # noqa: S101  # a coroutine runs in a task
        self._waiting = task
        self._cancels = task.cancelling()
        try:
            event = await anext(self._events)
        except BaseException as error:  # noqa: BLE001  # whatever it is, _fell raises it again or tells the outcome
            return await self._fell(error, task)
        if self.outcome is not None:  # it was interrupted, and the adapter took no notice
            return await self._fell(None, task)
        self._waiting = None
        if type(event) is Token and event.i == self._due:
            self._due += 1
        elif wrong := amiss(event, self._due):
            return await self._fell(plugin_error(self.binding, wrong), task)
        else:
            self._take(event)
        return event

    def interrupt(self, outcome: End | WorkerError) -> bool:
        """End the task now, with nothing delivered afterwards. False where it was over already."""
        if self.outcome is not None:
            return False
        self._kept.clear()
        self._settle(outcome)
        if self._waiting is None:
            self.begin_closing()
        elif _runs(self._waiting):  # whoever interrupts is inside the adapter: no task may be cancelled where it runs
            self._timer = self.loop.call_soon(self._insist, self._waiting)
        else:
            self._insist(self._waiting)
        return True

    async def stop(self) -> None:
        """End the task if it runs, and wait until the adapter has let go of it, or too long to be waited for."""
        self.abandon()
        if not self.gone:
            self._gone = self._gone or self.loop.create_future()
            await asyncio.wait([self._gone], timeout=STOP_LIMIT)

    async def leave(self) -> None:
        """`stop` for its caller, who does not wait past its deadline."""
        if isinstance(self.outcome, DeadlineUnmet):
            self.abandon()
        else:
            await self.stop()

    def cut(self, error: WorkerError) -> bool:
        """End the task with an error. False where it was over already."""
        return self.interrupt(error)

    def abandon(self) -> None:
        """The caller dropped the stream without closing it: what `stop` does, for those who cannot wait."""
        if not self.interrupt(cancelled()):
            self.begin_closing()

    def begin_closing(self) -> None:
        """Close the adapter's iterator in a task of its own, unless that was begun, or a pull is about to do it."""
        if self._closing is None and not self._closed and self._waiting is None:
            self._closing = self.loop.create_task(self._close())

    def arm(self, deadline: float) -> None:
        """End the task at `deadline`, a moment on the loop's clock."""
        self._timer = self.loop.call_at(deadline, self._overdue)

    def check_silence(self, now: float) -> None:
        """Interrupt an engine that is silent for longer than its pool allows, and an adapter that does not let go.

        A caller that does not pull is no engine.
        """
        limits = self.binding.timeouts
        if self.outcome is not None:
            if self._waiting is not None and now - self._silent_since >= CLOSE_LIMIT:
                self._silent_since = now
                self._insist(self._waiting)
        elif not self.committed:
            if now - self._silent_since >= limits.first_token:
                self.interrupt(silent("first_token", limits.first_token, self.binding))
        elif (passed := self._due + self._beside) != self._seen:
            self._seen = passed if self._waiting is not None else -1
            self._silent_since = now
        elif now - self._silent_since >= limits.idle:
            self.interrupt(silent("idle", limits.idle, self.binding))

    def _give_kept(self) -> TokenEvent:
        self.untouched = False
        event = self._kept.pop()
        self._straight = not self._kept and self.outcome is None
        return event

    def _take(self, event: TokenEvent) -> None:
        """An event that is none of the many."""
        if isinstance(event, Token):
            self._due += 1
            return
        self._beside += 1
        if self._due == BEFORE:
            self._due = 0
        if isinstance(event, End):
            self._told = True
            self._settle(event)
            if self.watch is not None:
                self.watch.over(self)

    async def _fell(self, error: BaseException | None, task: asyncio.Task[object]) -> TokenEvent:
        """The adapter raised, or went on after an interruption: find out what that means for the caller."""
        from_outside = self._take_back(error, task)
        if from_outside is not None:
            self.abandon()
            raise from_outside
        if self.outcome is None and error is not None:
            self._settle(failure_of(error, self.binding))
        return await self._tell()

    def _insist(self, waiting: asyncio.Task[object]) -> None:
        """Cancel the task that waits inside the adapter; `_take_back` undoes it."""
        self._sent += 1
        waiting.cancel()

    def _take_back(self, error: BaseException | None, task: asyncio.Task[object]) -> BaseException | None:
        """Undo our own cancellations of a task that is back from the adapter, maybe with an error.

        What remains is a cancellation from outside, or the end of the world: to be raised whatever else is the case.
        """
        self._waiting = None
        if self._timer is not None:
            self._timer.cancel()
        sent = self._sent
        while self._sent:
            self._sent -= 1
            task.uncancel()
        ours = sent and isinstance(error, asyncio.CancelledError)
        if error is None or ours or isinstance(error, Exception) or is_strangers(error):
            return asyncio.CancelledError() if task.cancelling() > self._cancels else None
        return error

    async def _tell(self) -> TokenEvent:
        if self._waiting is not None and not self._closed:
            raise RuntimeError(_TWO_READERS)
        if isinstance(self.outcome, DeadlineUnmet):  # which nobody waits past, and after which nothing is sent again
            self.begin_closing()
        else:
            await self._close()
        if self._told or self.outcome is None:
            raise StopAsyncIteration
        self._told = True
        if isinstance(self.outcome, WorkerError):
            raise self.outcome
        return self.outcome

    def _settle(self, outcome: End | WorkerError) -> None:
        self._straight = False
        self.outcome = outcome
        if isinstance(outcome, WorkerError):
            info = self.binding.info
            outcome.placed(engine=info.engine, pool=info.pool_id, replica=info.replica_id)
            outcome.phase = outcome.phase or self.phase
        if self._timer is not None:
            self._timer.cancel()
        self._silent_since = self.loop.time()
        self._on_end(self, self._silent_since)

    async def _close(self) -> None:
        """Close the adapter's iterator, once: whoever comes first does it."""
        if self._closed:
            return
        self._closed = True
        task = asyncio.current_task(self.loop)
        assert task is not None  # noqa: S101  # as in pull
        self._waiting = task
        self._cancels = task.cancelling()
        try:
            close = getattr(self._events, "aclose", None)
            if close is not None:
                await close()
        except BaseException as error:  # noqa: BLE001  # as in pull
            self._let_go(error, task)
        else:
            self._let_go(None, task)

    def _let_go(self, error: BaseException | None, task: asyncio.Task[object]) -> None:
        """The adapter's iterator is closed, or as closed as it will ever be."""
        from_outside = self._take_back(error, task)
        self.binding.leases.discard(self)
        if self.watch is not None:
            self.watch.discard(self)
        self.gone = True
        if self._gone is not None and not self._gone.done():
            self._gone.set_result(None)
        if from_outside is not None:
            raise from_outside
        if error is not None:
            self.binding.broke("closing a stream", type(error).__name__)

    def _overdue(self) -> None:
        self.interrupt(overdue(self.task, self.phase, self.binding))


def _runs(task: asyncio.Task[object]) -> bool:
    """Whether a task is running at this moment, which is so for who calls this and whoever started that one eagerly."""
    return getattr(task.get_coro(), "cr_running", True)
