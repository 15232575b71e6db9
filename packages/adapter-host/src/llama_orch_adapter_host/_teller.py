"""What is told of tasks: events, made of a flight record and an ending, and only where somebody wants them."""

from typing import TypedDict

from llama_orch_adapter_api import BindingInfo, End, TaskRequest, WorkerError, one_line

from ._binding import Binding
from ._bus import Bus
from ._events import (
    AttemptBegun,
    AttemptFailed,
    EngineIdle,
    FirstToken,
    HealthChanged,
    SetUpFailed,
    TaskAdmitted,
    TaskAdvised,
    TaskEnded,
)
from ._health import Belief
from ._record import FlightRecord


class _Whose(TypedDict):
    pool_id: str
    task_id: str
    session_id: str | None
    correlation_id: str | None
    stand_in: str


class Teller:
    """Emits the events of a host's tasks. Who wants to know that one was admitted follows it to its first token."""

    __slots__ = ("_emit", "_wants", "traced")

    def __init__(self, bus: Bus) -> None:
        self._emit = bus.emit
        self._wants = bus.wants
        self.traced = bus.traced

    def admitted(self, task: TaskRequest, record: FlightRecord) -> bool:
        """It was taken in; whether it is followed, so that `begun` and `first_token` are to be told."""
        followed = self._wants(TaskAdmitted)
        if followed:
            self._emit(
                TaskAdmitted(
                    workload=task.workload,
                    traceparent=task.traceparent,
                    chat=bool(task.messages),
                    model_ref=task.model_ref,
                    **_whose(record),
                )
            )
        return followed

    def begun(self, record: FlightRecord, info: BindingInfo) -> None:
        """A replica was picked, maybe of a pool that stands in for its own."""
        attempt = record.attempts[-1]
        self._emit(
            AttemptBegun(
                replica_id=info.replica_id,
                engine=info.engine,
                generation=info.generation,
                attempt=len(record.attempts),
                reason=attempt.why,
                waited=attempt.began_after,
                **_whose(record, info),
            )
        )

    def advised(self, record: FlightRecord, info: BindingInfo, advice: str) -> None:
        """Its adapter has advice."""
        self._emit(TaskAdvised(replica_id=info.replica_id, advice=advice, **_whose(record, info)))

    def failed(self, record: FlightRecord, info: BindingInfo, backoff: float) -> None:
        """It failed there, and is sent again."""
        if self._wants(AttemptFailed):
            attempt = record.attempts[-1]
            self._emit(
                AttemptFailed(
                    replica_id=info.replica_id,
                    engine=info.engine,
                    attempt=len(record.attempts),
                    error_kind=attempt.error_kind or "",
                    detail=attempt.detail or "",
                    message=attempt.message or "",
                    backoff=backoff,
                    duration=attempt.duration or 0.0,
                    retry_after=attempt.retry_after,
                    **_whose(record, info),
                )
            )

    def first_token(self, record: FlightRecord, info: BindingInfo, duration: float, total: float) -> None:
        """It is committed."""
        self._emit(
            FirstToken(
                replica_id=info.replica_id,
                engine=info.engine,
                attempt=len(record.attempts),
                duration=duration,
                total=total,
                **_whose(record, info),
            )
        )

    def ended(
        self,
        task: TaskRequest,
        record: FlightRecord,
        binding: Binding | None,
        outcome: End | WorkerError,
        *,
        refused: bool = False,
    ) -> None:
        """It has its outcome; `refused`: it was never taken in."""
        if not self._wants(TaskEnded):
            return
        info = None if binding is None else binding.info
        end = outcome if isinstance(outcome, End) else None
        self._emit(
            TaskEnded(
                ending=record.ending or "failed",
                attempts=len(record.attempts),
                duration=record.duration or 0.0,
                phase=record.phase or "queue",
                workload=task.workload,
                replica_id=None if info is None else info.replica_id,
                engine=None if info is None else info.engine,
                finish_reason=record.finish_reason,
                tokens_in=record.tokens_in,
                tokens_out=record.tokens_out,
                cached_tokens=None if end is None else end.cached_tokens,
                decode_time_ms=None if end is None else end.decode_time_ms,
                first_token=record.attempts[-1].first_token if record.attempts else None,
                error_kind=record.error_kind,
                detail=record.detail,
                message=record.message,
                retry_after=outcome.retry_after if isinstance(outcome, WorkerError) else None,
                refused=refused,
                **_whose(record, info),
            )
        )

    def idle(self, record: FlightRecord, info: BindingInfo, duration: float) -> None:
        """Its engine is idle after a cancel."""
        idle = EngineIdle(replica_id=info.replica_id, engine=info.engine, duration=duration, **_whose(record, info))
        self._emit(idle)

    def ails(self, info: BindingInfo, error: WorkerError) -> None:
        """It failed by how its replica is set up, which is news."""
        self._emit(
            SetUpFailed(
                pool_id=info.pool_id,
                replica_id=info.replica_id,
                engine=info.engine,
                generation=info.generation,
                error_kind=error.code,
                detail=error.detail,
                message=one_line(error.message),
            )
        )

    def health(self, binding: Binding, was: Belief) -> None:
        """What happened to a task changed what is believed of its replica."""
        info, health = binding.info, binding.gate.health
        self._emit(
            HealthChanged(
                pool_id=info.pool_id,
                replica_id=info.replica_id,
                engine=info.engine,
                generation=info.generation,
                was=was,
                now=health.belief,
                detail=health.detail,
            )
        )


def _whose(record: FlightRecord, info: BindingInfo | None = None) -> _Whose:
    return {
        "pool_id": record.pool_id,
        "task_id": record.task_id,
        "session_id": record.session_id,
        "correlation_id": record.correlation_id,
        "stand_in": "" if info is None or info.pool_id == record.pool_id else info.pool_id,
    }
