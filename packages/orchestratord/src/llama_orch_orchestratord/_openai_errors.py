"""Failures as clients of OpenAI's API understand them: a status, and an object `error`."""

import msgspec
from aiohttp import web
from llama_orch_adapter_api import AdapterError, DeadlineUnmet, DecodeTimeout, InternalError, WorkerError

from ._refusal import Reason, Refusal, headers_of
from ._routes import answer

_CLIENT_FAULTS = {"bad_request": 400, "context_length": 400, "unsupported": 400, "duplicate_task": 409}
"""Statuses of an `AdapterError`; all others are the engine's side's, which is none of the client's."""

_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_CODES = {401: "invalid_api_key", 429: "rate_limit_exceeded", 499: "cancelled"}


class ErrorObject(msgspec.Struct, frozen=True):
    """`param` is the field at fault, null where it is none alone."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct, frozen=True):
    """The body of every answer from 400 up, and the last event of a stream that failed."""

    error: ErrorObject


class Unfit(Refusal):
    """A refusal of a request; `param` is the field at fault, None where it is none alone."""

    def __init__(self, status: int, error: WorkerError, param: str | None, reason: Reason = "invalid") -> None:
        super().__init__(status, error, reason)
        self.param = param


def refusal_of(error: WorkerError) -> Refusal:
    """What ended a task, as an answer for it."""
    if isinstance(error, AdapterError):
        return Refusal(_CLIENT_FAULTS.get(error.detail, 502), error)
    if isinstance(error, DeadlineUnmet | DecodeTimeout):
        return Refusal(504, error)
    return Refusal(500 if isinstance(error, InternalError) else 503, error)


def cancelled() -> Refusal:
    """Somebody ended the task, which no client is to send again for that."""
    return Refusal(499, AdapterError("the task was cancelled · send it again if it is wanted", detail="bad_request"))


def body_of(refusal: Refusal) -> ErrorBody:
    """What is told."""
    status, detail = refusal.status, refusal.error.detail
    param = refusal.param if isinstance(refusal, Unfit) else None
    code = _CODES.get(status, detail)
    if detail == "context_length":
        code = "context_length_exceeded"
    elif (status, param) == (404, "model"):
        code = "model_not_found"
    kind = _TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return ErrorBody(ErrorObject(refusal.error.message, kind, param, code))


def refused(refusal: Refusal) -> web.Response:
    """The answer. Besides when to come again it tells whether to, which OpenAI's own clients heed."""
    headers = {**headers_of(refusal), "X-Should-Retry": "true" if refusal.error.retriable else "false"}
    if (wait := headers.get("X-Backoff-Ms")) is not None:
        headers["Retry-After-Ms"] = wait
    return answer(refusal.status, body_of(refusal), headers)
