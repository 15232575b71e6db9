"""Failures as clients of OpenAI's API understand them."""

import json

import pytest
from llama_orch_adapter_api import (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    InternalError,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
)
from llama_orch_orchestratord._openai_errors import Unfit, body_of, cancelled, refusal_of, refused
from llama_orch_orchestratord._refusal import Refusal, full, invalid

NO_MODEL = Unfit(404, AdapterError("x", detail="not_found"), "model")


@pytest.mark.parametrize(
    ("error", "status", "kind", "code"),
    [
        (AdapterError("x", detail="bad_request"), 400, "invalid_request_error", "bad_request"),
        (AdapterError("x", detail="unsupported"), 400, "invalid_request_error", "unsupported"),
        (AdapterError("x", detail="context_length"), 400, "invalid_request_error", "context_length_exceeded"),
        (AdapterError("x", detail="duplicate_task"), 409, "invalid_request_error", "duplicate_task"),
        (AdapterError("x", detail="auth"), 502, "server_error", "auth"),
        (AdapterError("x", detail="not_found"), 502, "server_error", "not_found"),
        (AdapterError("x", detail="decode"), 502, "server_error", "decode"),
        (DeadlineUnmet("x", detail="queue"), 504, "server_error", "queue"),
        (DecodeTimeout("x", detail="idle"), 504, "server_error", "idle"),
        (PoolUnavailable("x", detail="all_open"), 503, "server_error", "all_open"),
        (WorkerReset("x", detail="reset"), 503, "server_error", "reset"),
        (InternalError("x", detail="engine"), 500, "server_error", "engine"),
    ],
    ids=lambda value: value.detail if isinstance(value, WorkerError) else "",
)
def test_what_ended_a_task_has_a_status(error: WorkerError, status: int, kind: str, code: str) -> None:
    """The engine's key, address and words are none of the client's: it is told of a bad gateway, not of its own key."""
    refusal = refusal_of(error)
    told = body_of(refusal).error

    assert (refusal.status, told.type, told.code, told.param) == (status, kind, code, None)


@pytest.mark.parametrize(
    ("refusal", "kind", "code", "param"),
    [
        (invalid("x", status=401, detail="auth"), "authentication_error", "invalid_api_key", None),
        (invalid("x", status=403, detail="auth"), "permission_error", "auth", None),
        (
            Unfit(404, AdapterError("x", detail="not_found"), "model"),
            "invalid_request_error",
            "model_not_found",
            "model",
        ),
        (invalid("x", status=404, detail="not_found"), "invalid_request_error", "not_found", None),
        (full("x", 1.5, "queue_full"), "rate_limit_error", "rate_limit_exceeded", None),
        (cancelled(), "invalid_request_error", "cancelled", None),
    ],
    ids=["key", "role", "model", "route", "full", "cancelled"],
)
def test_what_is_not_taken_in_has_a_code(refusal: Refusal, kind: str, code: str, param: str | None) -> None:
    """The codes that clients know, where there is one."""
    told = body_of(refusal).error

    assert (told.type, told.code, told.param) == (kind, code, param)


def test_a_client_is_told_whether_and_when_to_come_again() -> None:
    """In whole seconds, in milliseconds, and as the word that OpenAI's own clients heed."""
    come, stay = refused(full("x", 1.25, "queue_full")), refused(cancelled())
    (text,) = [come.body]

    assert (come.status, stay.status) == (429, 499)
    assert (come.headers["Retry-After"], come.headers["Retry-After-Ms"]) == ("2", "1250")
    assert (come.headers["X-Should-Retry"], stay.headers["X-Should-Retry"]) == ("true", "false")
    assert "Retry-After" not in stay.headers
    assert isinstance(text, bytes)
    assert json.loads(text)["error"]["message"] == "x"
