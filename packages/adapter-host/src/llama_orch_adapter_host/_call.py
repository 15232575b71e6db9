"""One task from its admission to its one outcome, over all its attempts."""

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Self

import msgspec
from llama_orch_adapter_api import BindingInfo, End, InternalError, Phase, TaskRequest, WorkerError

from ._binding import Binding
from ._breaker import Permit
from ._flight import Flight, cancelled
from ._outcome import EFFECTS, meaning_of
from ._pool import Pool
from ._record import AttemptRecord, FlightRecord
from ._routes import Pick
from ._teller import Teller


class Call:
    """What the host knows of a task.

    `on_over` is called when it has its outcome, `on_push_back` when a replica loads its model or is full. As a block
    it ends the task with whatever is raised inside; a flight that was committed in it outlives the block.
    """

    __slots__ = (
        "__weakref__",
        "_alarm",
        "_attempt",
        "_began",
        "_boarded_at",
        "_deadline",
        "_followed",
        "_on_over",
        "_on_push_back",
        "_permit",
        "_stale_before",
        "_tell",
        "binding",
        "flight",
        "loop",
        "outcome",
        "pool",
        "record",
        "task",
    )

    def __init__(
        self,
        task: TaskRequest,
        pool: Pool,
        tell: Teller,
        on_over: Callable[["Call"], None],
        on_push_back: Callable[[Binding], None],
        *,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.task = task
        self.pool = pool
        self.flight: Flight | None = None
        self.binding: Binding | None = None  # the latest one that was asked
        self.outcome: End | WorkerError | None = None
        self.record = FlightRecord.of(task, pool.id)
        self._tell = tell
        self._on_over = on_over
        self._on_push_back = on_push_back
        self.loop = loop or asyncio.get_running_loop()
        self._began = self.loop.time()
        self._deadline = None if task.deadline_ms is None else self._began + task.deadline_ms / 1000
        self._permit: Permit | None = None  # of the attempt that runs
        self._attempt: AttemptRecord | None = None  # the latest one
        self._boarded_at = 0.0  # when that began
        self._stale_before = False
        self._alarm: asyncio.Future[None] | None = None  # ends a back-off before its time
        pool.live.add(self)
        self._followed = tell.admitted(task, self.record)

    @property
    def phase(self) -> Phase:
        """Where the task is; in a back-off it waits as in a queue."""
        return "queue" if self._permit is None or self.flight is None else self.flight.phase

    @property
    def boarded(self) -> Binding | None:
        """The replica that has the task now."""
        return None if self._permit is None else self.binding

    def now(self) -> float:
        """The loop's clock; until the first attempt has begun, the moment at which the task was taken in."""
        return self._began if self._attempt is None else self.loop.time()

    def left(self, now: float) -> float:
        """Seconds until its deadline, infinite without one."""
        return float("inf") if self._deadline is None else self._deadline - now

    def board(self, pick: Pick, permit: Permit, backoff: float) -> Flight:
        """Call the picked replica's adapter. Raises what that raises at once."""
        began = self.now()
        self.binding = binding = pick.binding
        info = binding.info
        self._attempt = attempt = AttemptRecord(
            replica=binding.replica,
            engine=info.engine,
            generation=info.generation,
            why=pick.why,
            in_flight=len(binding.leases),
            began_after=began - self._began,
            backoff=backoff,
        )
        self._permit, self._boarded_at = permit, began
        self.record.attempts.append(attempt)
        if self._followed:
            self._tell.begun(self.record, info)
        try:
            self.flight = Flight(self._sent(began), binding, self._landed, loop=self.loop, began=began)
        except WorkerError as error:
            self._unseat(error, began)
            raise
        if self._deadline is not None:
            self.flight.task = self.task  # whose deadline it is that is told of
            self.flight.arm(self._deadline)
        return self.flight

    def _sent(self, now: float) -> TaskRequest:
        """The task as the adapter gets it: in the trace of this attempt, with what is left of its deadline."""
        task = self._tell.traced(self.task)
        if self._deadline is not None and now > self._began:
            task = msgspec.structs.replace(task, deadline_ms=max(1, math.ceil(self.left(now) * 1000)))
        return task

    def advised(self, info: BindingInfo, advice: str) -> None:
        """The adapter of a replica that it is about to be sent to has advice, told once."""
        if advice not in self.record.advice:
            self.record.advice = (*self.record.advice, advice)
            self._tell.advised(self.record, info, advice)

    def committed(self) -> None:
        """The first token is in: from now on the task is never sent again."""
        permit, attempt, binding = self._permit, self._attempt, self.binding
        if permit is None or attempt is None or binding is None:  # it ended without one
            return
        now = self.loop.time()
        took = attempt.first_token = now - self._boarded_at
        binding.gate.breaker.first_token(permit, now)
        self.pool.first_token.add(took)
        if self._followed:
            self._tell.first_token(self.record, binding.info, took, now - self._began)

    def failed(self, backoff: float) -> None:
        """The latest attempt failed, and another one follows after `backoff` seconds."""
        assert self.binding is not None  # noqa: S101  # an attempt failed there
        self._tell.failed(self.record, self.binding.info, backoff)

    def idle(self, info: BindingInfo, duration: float) -> None:
        """The engine was idle so many seconds after the task was cancelled."""
        self._tell.idle(self.record, info, duration)

    async def rest(self, seconds: float) -> None:
        """Wait between two attempts; an interruption ends it at once, and one before it leaves nothing to wait for."""
        if self.outcome is not None:
            return
        self._alarm = self.loop.create_future()
        timer = self.loop.call_later(seconds, _ring, self._alarm)
        try:
            await self._alarm
        finally:
            timer.cancel()
            self._alarm = None

    def interrupt(self, outcome: End | WorkerError) -> bool:
        """End the task now, wherever it is, for good. False where it was over already."""
        if self.outcome is not None:
            return False
        phase = self.phase
        if self.flight is not None and self.flight.interrupt(outcome):
            self.finish(outcome, phase)  # a flight that fails before its first token leaves that to its attempts
            return True
        self.finish(outcome)
        if self._alarm is not None:
            _ring(self._alarm)
        return True

    def finish(self, outcome: End | WorkerError, phase: Phase | None = None, now: float | None = None) -> None:
        """Set the one outcome; a second one is nothing. `phase` is where it was, None for where it is."""
        if self.outcome is not None:
            return
        self.outcome = outcome
        self.record.ended(outcome, phase or self.phase, (now or self.loop.time()) - self._began)
        if isinstance(outcome, WorkerError):
            outcome.attempts, outcome.record = len(self.record.attempts), self.record
        self.pool.live.discard(self)
        self._tell.ended(self.task, self.record, self.binding, outcome)
        self._on_over(self)
        self.flight = None  # which knows us: a circle would wait for the garbage collector

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or self.outcome is not None:
            return
        if isinstance(error, WorkerError):
            self.finish(error)
        elif isinstance(error, Exception):
            failure = InternalError(
                f"the host raised {type(error).__name__} · task {self.task.task_id} · report it",
                detail="host",
                phase=self.phase,
                pool=self.pool.id,
            )
            self.finish(failure)
            raise failure from error
        else:  # the caller was cancelled
            self.finish(cancelled())

    def _landed(self, flight: Flight, now: float) -> None:
        """A flight has its outcome. A failure before the first token may not be the task's."""
        ending = flight.outcome
        assert ending is not None  # noqa: S101  # else it would not have landed
        self._unseat(ending, now)  # first, so that who is told of the task's end finds its record complete
        if flight.committed or isinstance(ending, End):
            self.finish(ending, flight.phase, now)

    def _unseat(self, ending: End | WorkerError, now: float) -> None:
        """The attempt is over: its record and its replica are told what its ending means."""
        permit, attempt, binding = self._permit, self._attempt, self.binding
        self._permit = None
        assert permit and attempt and binding  # noqa: S101, PT018  # each attempt ends once
        meaning = meaning_of(ending, stale_before=self._stale_before, extra=bool(self.task.extra))
        attempt.ended(ending, meaning.outcome, now - self._boarded_at)
        was = binding.gate.left(permit, meaning, ending, now)
        if was is not None:
            self._tell.health(binding, was)
        if isinstance(ending, WorkerError):
            if binding.gate.ails(ending, self.task):
                self._tell.ails(binding.info, ending)
            self._stale_before |= meaning.outcome == "stale"
            self.record.resets += meaning.resets
            if EFFECTS[meaning.outcome].readiness != "as_it_was":
                self._on_push_back(binding)


def _ring(alarm: asyncio.Future[None]) -> None:
    if not alarm.done():
        alarm.set_result(None)
