"""What is not taken in, as an HTTP status and the error that is its body; and what ends a task without an engine."""

import math
from collections.abc import Mapping
from typing import Literal

from llama_orch_adapter_api import AdapterError, DeadlineUnmet, Error, InternalError, PoolUnavailable, WorkerError

from ._job import Job

Reason = Literal["invalid", "unknown_pool", "duplicate", "queue_full", "table_full", "draining", "unavailable"]
"""Why a task was not taken in."""


_PUSH_BACKS = {"at_capacity", "overloaded", "loading"}
"""Details of `PoolUnavailable` for which a task waits: its pool will take it, only not now."""

_GONE = {"draining", "unknown_pool"}
"""Details for which waiting is in vain: the host tells each task so, however many still run."""


class Refusal(Exception):
    """An answer that is no success; `error` tells when to come again where that is known."""

    def __init__(
        self, status: int, error: WorkerError, reason: Reason = "invalid", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error
        self.reason = reason
        self.headers = headers or {}


def headers_of(refusal: Refusal) -> dict[str, str]:
    """Its own, and those that tell when to come again where that is known."""
    headers = dict(refusal.headers)
    if refusal.status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    wait = Error.of(refusal.error).retry_after_ms
    if wait is not None:
        headers |= {"Retry-After": str(math.ceil(wait / 1000)), "X-Backoff-Ms": str(wait)}
    return headers


def invalid(message: str, *, status: int = 400, detail: str = "bad_request") -> Refusal:
    """What was asked cannot be, as it was asked."""
    return Refusal(status, AdapterError(message, detail=detail))


def unknown_task(task_id: str) -> Refusal:
    """It never was, or is forgotten."""
    return invalid(
        f"task {task_id[:40]!a} is not known · it was never sent here, or is forgotten (tasks.keep)",
        status=404,
        detail="not_found",
    )


def known_task(task_id: str) -> Refusal:
    """Another one has this id."""
    message = f"task {task_id} is known already · leave task_id out to have one made"
    return Refusal(409, AdapterError(message, detail="duplicate_task"), "duplicate")


def full(message: str, retry_after: float, reason: Reason) -> Refusal:
    """No room now, but in a while; in seconds."""
    return Refusal(429, PoolUnavailable(message, detail="at_capacity", phase="queue", retry_after=retry_after), reason)


def unavailable(error: PoolUnavailable, *, known: bool) -> Refusal:
    """The host would refuse it: as long as the pool is one of its own, that may change."""
    if not known:
        return Refusal(404, error, "unknown_pool")
    return Refusal(503, error, "draining" if error.detail == "draining" else "unavailable")


def too_late(job: Job) -> DeadlineUnmet:
    """Its deadline passed while it waited."""
    return DeadlineUnmet(
        f"the deadline of task {job.task_id} passed in the queue of pool {job.pool_id!r} · "
        "allow more time, or come when fewer wait",
        detail="queue",
        phase="queue",
        pool=job.pool_id,
    )


def dropped(pool_id: str) -> PoolUnavailable:
    """A newer task took its place."""
    return PoolUnavailable(
        f"the queue of pool {pool_id!r} was full, and a newer task took this one's place (admission.policy drop-lru) · "
        "send it again later",
        detail="overloaded",
        phase="queue",
        pool=pool_id,
    )


def stopping(pool_id: str) -> PoolUnavailable:
    """This process ends."""
    return PoolUnavailable(
        "this orchestrator is stopping · use another one, or come again", detail="draining", phase="queue", pool=pool_id
    )


def own_fault(error: Exception) -> InternalError:
    """A bug of ours is one task's trouble, not all."""
    return InternalError(f"the orchestrator raised {type(error).__name__} · report it", detail="host")


def passes(error: WorkerError) -> bool:
    """Whether a task that is told this waits, and comes again."""
    return isinstance(error, PoolUnavailable) and error.detail in _PUSH_BACKS


def in_vain(error: PoolUnavailable | None) -> bool:
    """Whether no wait helps: the host tells each task so."""
    return error is not None and error.detail in _GONE


def open_again_in(error: PoolUnavailable) -> float | None:
    """Seconds after which a pool takes tasks again; None where nobody knows, since a stream that ends may do it."""
    return None if error.detail == "at_capacity" else error.retry_after
