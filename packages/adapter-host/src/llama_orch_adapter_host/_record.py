"""The flight record: what became of a task, attempt by attempt, and why."""

import time
from typing import Self

import msgspec
from llama_orch_adapter_api import End, TaskRequest, WorkerError, one_line

from ._events import Ending
from ._outcome import Outcome

# gc=False: a record leads to nothing that leads back, and thousands of them are kept.


class AttemptRecord(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """One call of one replica. Spans in seconds.

    `why` it was picked, with `in_flight` tasks running there then. `backoff` was waited before. `first_token` counts
    from the call; None where none came. `outcome` is what its ending meant, None while it runs.
    """

    replica: str
    engine: str
    generation: int
    why: str
    in_flight: int
    began_after: float
    backoff: float = 0.0
    first_token: float | None = None
    duration: float | None = None
    outcome: Outcome | None = None
    error_kind: str | None = None
    detail: str | None = None
    message: str | None = None
    retry_after: float | None = None

    def ended(self, ending: End | WorkerError, outcome: Outcome, duration: float) -> None:
        """Note how it ended."""
        self.outcome = outcome
        self.duration = duration
        if isinstance(ending, WorkerError):
            self.error_kind, self.detail = ending.code, ending.detail
            self.message, self.retry_after = one_line(ending.message), ending.retry_after


class FlightRecord(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False):
    """A task from admission to its end; it grows while the task runs.

    `admitted_at` is the wall clock (seconds since 1970); all else counts in seconds from it. `ending` is None while the
    task runs. `resets` is how many replicas the task ended in a reset, under the same id before this one included. It
    holds no prompt and no answer.
    """

    task_id: str
    pool_id: str
    admitted_at: float
    session_id: str | None = None
    correlation_id: str | None = None
    advice: tuple[str, ...] = ()
    attempts: list[AttemptRecord] = []
    resets: int = 0
    ending: Ending | None = None
    phase: str | None = None
    duration: float | None = None
    finish_reason: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    error_kind: str | None = None
    detail: str | None = None
    message: str | None = None

    @classmethod
    def of(cls, task: TaskRequest, pool_id: str) -> Self:
        """That of a task that is handed in now."""
        return cls(
            task_id=task.task_id,
            pool_id=pool_id,
            admitted_at=time.time(),
            session_id=task.session_id,
            correlation_id=task.correlation_id,
        )

    def ended(self, outcome: End | WorkerError, phase: str, duration: float) -> None:
        """Note the task's one outcome; `phase` is where it was, `duration` since it was taken in."""
        self.duration, self.phase = duration, phase
        if isinstance(outcome, End):
            self.ending = "cancelled" if outcome.finish_reason == "cancelled" else "ok"
            self.finish_reason = outcome.finish_reason
            self.tokens_in, self.tokens_out = outcome.tokens_in, outcome.tokens_out
        else:
            self.ending, self.phase = "failed", outcome.phase or phase
            self.error_kind, self.detail, self.message = outcome.code, outcome.detail, one_line(outcome.message)

    def lines(self) -> list[str]:
        """The record for people, a line an attempt, the last one the outcome."""
        told = [_line(number, attempt) for number, attempt in enumerate(self.attempts, 1)]
        return [
            f"task {self.task_id} in pool {self.pool_id}",
            *(f"  {word}" for word in self.advice),
            *told,
            self._last(),
        ]

    def _last(self) -> str:
        match self.ending:
            case None:
                return "  it runs"
            case "failed":
                return f"  failed after {self.duration:.3f} s: {self.error_kind} {self.detail} · {self.message}"
        tokens = "" if self.tokens_out is None else f" · {self.tokens_out} tokens"
        return f"  {self.ending} after {self.duration:.3f} s{tokens} · {self.finish_reason}"


def _line(number: int, attempt: AttemptRecord) -> str:
    waited = f" after a back-off of {attempt.backoff:.3f} s" if attempt.backoff else ""
    begun = f"  {number}. {attempt.replica} (generation {attempt.generation}){waited}: {attempt.why}"
    came = "" if attempt.first_token is None else f" · first token after {attempt.first_token:.3f} s"
    if attempt.outcome is None:
        return f"{begun}, {attempt.in_flight} in flight{came} · runs"
    how = attempt.outcome if attempt.detail is None else f"{attempt.outcome} ({attempt.error_kind} {attempt.detail})"
    return f"{begun}, {attempt.in_flight} in flight{came} · {how} after {attempt.duration:.3f} s"
