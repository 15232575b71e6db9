"""One task's life: queued, running, ended; what it has to say, and who reads it."""

from typing import Literal, Protocol

import msgspec
from llama_orch_adapter_api import End, Metrics, TaskRequest, TokenEvent, WorkerError
from llama_orch_adapter_host import TokenStream
from llama_orch_adapter_host.events import Ending

from ._outbox import Outbox
from ._sse import FRAMES
from ._wire import State, TaskView

CANCELLED = End(tokens_in=None, tokens_out=None, finish_reason="cancelled")


class Reader(Protocol):
    """Who a task's frames are written to."""

    async def write(self, frame: bytes) -> None:
        """Hand a frame over, and wait while the client takes none. Raises `ConnectionError` where it is gone."""


class Form(Protocol):
    """What a task's events are written as; `number` counts them from 0."""

    def event(self, number: int, event: TokenEvent) -> bytes:
        """What is written for an event, which may be nothing. A `WorkerError` raised here ends the task."""

    def failure(self, number: int, error: WorkerError) -> bytes:
        """What is written last of a task that failed."""


class Job:
    """A task of a pool from its admission until it is forgotten.

    Moments are on the clock of the loop, in seconds. `reader` is set while frames go straight to one; what comes while
    it is None is kept in the outbox, which makes the engine wait when it is full. Metrics are dropped before that, and
    the ids, which count all events, show it. What the task asked is kept no longer than it is needed.
    """

    __slots__ = (
        "_form",
        "_number",
        "_task",
        "admitted",
        "deadline",
        "ended",
        "ending",
        "expired",
        "freed",
        "hushed",
        "left",
        "outbox",
        "pool_id",
        "priority",
        "ran_at",
        "read",
        "reader",
        "replica_id",
        "started",
        "stream",
        "taken",
        "task_id",
    )

    def __init__(self, pool_id: str, task: TaskRequest, outbox: Outbox, now: float, form: Form = FRAMES) -> None:
        self.pool_id = pool_id
        self.task_id = task.task_id
        self.priority = task.priority
        self.replica_id = task.replica_id
        self.ran_at: str | None = None  # the replica that was done with it
        self.deadline = None if task.deadline_ms is None else now + task.deadline_ms / 1000
        self.outbox = outbox
        self.admitted = now
        self.started: float | None = None
        self.freed: float | None = None  # the engine is done; the client may have to take something yet
        self.ended: float | None = None
        self.ending: Ending | None = None
        self.stream: TokenStream | None = None  # while it comes
        self.reader: Reader | None = None
        self.taken = False  # somebody reads it, from wherever
        self.read = False  # to its end
        self.expired = False
        self.left = False  # by its reader, which ends it
        self.hushed = False  # cancelled: no further token
        self._task: TaskRequest | None = task
        self._form = form
        self._number = 0  # of the next event

    @property
    def state(self) -> State:
        """Where it is in its life."""
        if self.ended is not None or self.freed is not None:
            return "ended"
        return "queued" if self.started is None else "running"

    @property
    def reading(self) -> Literal["unread", "reading", "read", "expired"]:
        """How its stream stands with readers."""
        if self.expired or self.left:
            return "expired"
        if self.read:
            return "read"
        return "reading" if self.taken else "unread"

    def waited(self, now: float) -> float:
        """Seconds from its admission until it had a slot, or ended without one; until now where neither has been."""
        until = self.started if self.started is not None else self.ended
        return (now if until is None else until) - self.admitted

    def view(self, queue_position: int | None, now: float) -> TaskView:
        """How it is now."""
        until = min(moment for moment in (self.freed, self.ended, now) if moment is not None)
        return TaskView(
            task_id=self.task_id,
            pool_id=self.pool_id,
            state=self.state,
            read=self.reading,
            unread_events=len(self.outbox),
            queue_position=queue_position,
            queued_ms=_ms(self.waited(now)),
            running_ms=None if self.started is None else _ms(until - self.started),
        )

    @property
    def events(self) -> int:
        """How many came so far; the next one's id."""
        return self._number

    @property
    def told(self) -> int:
        """How many tokens it has told so far, and what else came between its begin and its end."""
        return max(0, self._number - (1 if self.ended is None else 2))

    def due(self, now: float) -> TaskRequest:
        """The task as the host is to have it: with what is left of its time. Not for one that is over."""
        assert self._task is not None  # noqa: S101  # what is over is not sent again
        if self.deadline is None:
            return self._task
        return msgspec.structs.replace(self._task, deadline_ms=max(1, round((self.deadline - now) * 1000)))

    async def tell(self, event: TokenEvent) -> None:
        """Hand an event to the reader, or keep it until there is one; waits for as long as neither can be done."""
        rendered = self._form.event(self._count(), event)
        while rendered and not self.hushed:
            reader = self.reader
            if reader is None:
                if type(event) is Metrics:
                    self.outbox.offer_spare(rendered)
                    return
                if self.outbox.offer(rendered):
                    return
                await self.outbox.room()
                continue
            try:
                await reader.write(rendered)
            except ConnectionError:
                self.reader = None  # for whom the frame was not
            else:
                return

    def detach(self) -> None:
        """Nobody reads it for now."""
        self.reader = None

    def end(self, outcome: End | WorkerError, now: float) -> None:
        """It is over. What is unread stays so; a second time is nothing."""
        if self.ended is None:
            self.ended = now
            self.ending = _ending(outcome)
            self._task = None
            form, number = self._form, self._count()
            last = form.failure(number, outcome) if isinstance(outcome, WorkerError) else form.event(number, outcome)
            self.outbox.close(last)

    def hush(self) -> None:
        """Not one token of it is to be handed out any more, unread ones included."""
        self.hushed = True
        if not self.outbox.closed:
            self.outbox.clear()

    def _count(self) -> int:
        number = self._number
        self._number = number + 1
        return number


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)


def _ending(outcome: End | WorkerError) -> Ending:
    if isinstance(outcome, WorkerError):
        return "failed"
    return "cancelled" if outcome.finish_reason == "cancelled" else "ok"
