"""Every way in which a task can fail.

WorkerError
├── DeadlineUnmet    DEADLINE_UNMET    queue · connect · first_token · decode
├── PoolUnavailable  POOL_UNAVAILABLE  unknown_pool · unreachable · overloaded · loading · at_capacity · all_open ·
│                                      draining
├── DecodeTimeout    DECODE_TIMEOUT    first_token · idle
├── WorkerReset      WORKER_RESET      reset · truncated · aborted · drained
├── AdapterError     ADAPTER           bad_request · context_length · auth · not_found · unsupported · redirect · tls ·
│                                      address · decode · too_large · encoding · duplicate_task · plugin
└── InternalError    INTERNAL          engine · host

Two questions are answered from (kind, detail) by one table: `retriable` (may the host try again, before the first
token?) and `engine_fault` (is this replica unwell, so that a breaker should count it?).
"""

from typing import ClassVar, Literal, NamedTuple, Self

Phase = Literal["queue", "connect", "first_token", "decode"]
"""Where the task was: before any attempt, reaching the engine, waiting for its first token, streaming."""


class Verdict(NamedTuple):
    """What a failure means for the host."""

    retriable: bool
    engine_fault: bool


_NEVER = Verdict(retriable=False, engine_fault=False)
_BACK_PRESSURE = Verdict(retriable=True, engine_fault=False)
_FAULT = Verdict(retriable=True, engine_fault=True)
_FINAL_FAULT = Verdict(retriable=False, engine_fault=True)


class WorkerError(Exception):
    """A task failed. `message` says what, where and the mend; it holds no prompt, header or query.

    `retry_after` is in seconds, None where nobody knows. `attempts` counts the calls of an engine, this one included.
    `engine`, `pool` and `replica` are filled in by the room that knows them. `answered`: a byte of the engine's answer
    was seen, or nobody knows that none was. `stale_connection`: a kept connection turned out to be closed, so that the
    request never began. `record` is the flight record of the host that ran the task, None where none did.
    """

    code: ClassVar[str] = ""
    verdicts: ClassVar[dict[str, Verdict]] = {}

    def __init__(
        self,
        message: str,
        *,
        detail: str,
        phase: Phase | None = None,
        retry_after: float | None = None,
        engine: str | None = None,
        pool: str | None = None,
        replica: str | None = None,
        attempts: int = 0,
        answered: bool = True,
        stale_connection: bool = False,
    ) -> None:
        if detail not in self.verdicts:
            known = ", ".join(self.verdicts) or "none: raise one of its subclasses"
            raise ValueError(f"{type(self).__name__} has no detail {detail!r}; known: {known}")
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.phase = phase
        self.retry_after = retry_after
        self.engine = engine
        self.pool = pool
        self.replica = replica
        self.attempts = attempts
        self.answered = answered
        self.stale_connection = stale_connection
        self.record: object | None = None

    @property
    def retriable(self) -> bool:
        """Whether the host may try again while no token has come."""
        return self.verdicts[self.detail].retriable

    @property
    def engine_fault(self) -> bool:
        """Whether this tells that the replica is unwell."""
        return self.verdicts[self.detail].engine_fault

    def placed(self, *, engine: str | None = None, pool: str | None = None, replica: str | None = None) -> Self:
        """This error with the places filled in that were not known where it was raised."""
        self.engine = self.engine or engine
        self.pool = self.pool or pool
        self.replica = self.replica or replica
        return self

    def __reduce__(self) -> tuple[object, ...]:
        return _revive, (type(self), dict(self.__dict__))


def _revive(kind: type[WorkerError], facts: dict[str, object]) -> WorkerError:
    """A pickled error back: facts are set as they were, keyword-only arguments notwithstanding."""
    error = kind.__new__(kind, facts["message"])
    error.__dict__.update(facts)
    return error


class DeadlineUnmet(WorkerError):
    """The task's own deadline passed; `detail` names the phase it was in."""

    code = "DEADLINE_UNMET"
    verdicts = {"queue": _NEVER, "connect": _NEVER, "first_token": _NEVER, "decode": _NEVER}


class PoolUnavailable(WorkerError):
    """No replica of the pool could take the task."""

    code = "POOL_UNAVAILABLE"
    verdicts = {
        "unknown_pool": _NEVER,
        "unreachable": _FAULT,
        "overloaded": _BACK_PRESSURE,
        "loading": _BACK_PRESSURE,
        "at_capacity": _BACK_PRESSURE,
        "all_open": _BACK_PRESSURE,
        "draining": _BACK_PRESSURE,
    }


class DecodeTimeout(WorkerError):
    """The engine was silent for longer than the pool allows, while the task still had time."""

    code = "DECODE_TIMEOUT"
    verdicts = {"first_token": _FAULT, "idle": _FINAL_FAULT}


class WorkerReset(WorkerError):
    """The engine took the task and did not bring it to an end."""

    code = "WORKER_RESET"
    verdicts = {"reset": _FAULT, "truncated": _FAULT, "aborted": _FAULT, "drained": _BACK_PRESSURE}


class AdapterError(WorkerError):
    """The request, the set-up or the conversation with the engine is wrong; trying again would not help."""

    code = "ADAPTER"
    verdicts = {
        "bad_request": _NEVER,
        "context_length": _NEVER,
        "auth": _NEVER,
        "not_found": _NEVER,
        "unsupported": _NEVER,
        "redirect": _NEVER,
        "tls": _NEVER,
        "address": _NEVER,
        "decode": _FINAL_FAULT,
        "too_large": _FINAL_FAULT,
        "encoding": _FINAL_FAULT,
        "duplicate_task": _NEVER,
        "plugin": _FINAL_FAULT,
    }


class InternalError(WorkerError):
    """The engine (or, with detail `host`, this software) broke."""

    code = "INTERNAL"
    verdicts = {"engine": _FAULT, "host": _NEVER}
