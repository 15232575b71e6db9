"""What is not taken in: an HTTP status, and the error that is its body."""

from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerError


class Refusal(Exception):
    """An answer that is no success; `error` tells when to come again where that is known."""

    def __init__(self, status: int, error: WorkerError) -> None:
        super().__init__(error.message)
        self.status = status
        self.error = error


def invalid(message: str, *, status: int = 400, detail: str = "bad_request") -> Refusal:
    """What was asked cannot be, as it was asked."""
    return Refusal(status, AdapterError(message, detail=detail))


def unknown_task(task_id: str) -> Refusal:
    """It never was, or is forgotten."""
    return invalid(
        f"task {task_id} is not known · it was never sent here, or it is over for longer than tasks.keep",
        status=404,
        detail="not_found",
    )


def full(message: str, retry_after: float) -> Refusal:
    """No room now, but in a while; in seconds."""
    return Refusal(429, PoolUnavailable(message, detail="at_capacity", phase="queue", retry_after=retry_after))


def unavailable(error: PoolUnavailable, *, known: bool) -> Refusal:
    """The host would refuse it: as long as the pool is one of its own, that may change."""
    return Refusal(503 if known else 404, error)
