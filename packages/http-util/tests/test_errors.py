"""From HTTP to the boundary: statuses, bodies, headers and exceptions, each in one table."""

import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_orch_adapter_api import (
    AdapterError,
    DecodeTimeout,
    InternalError,
    PoolUnavailable,
    WorkerError,
)
from llama_orch_adapter_testkit import captures
from llama_orch_http_util import ErrorObject, error_in_stream
from llama_orch_http_util._errors import (
    error_of_status,
    parse_error,
    retry_after,
)

CANARY = secrets.token_hex(16)
WHERE = "engine:8080"
YEAR = 365 * 86400.0

Meaning = tuple[type[WorkerError], str]

NAMED: dict[int, Meaning] = {
    400: (AdapterError, "bad_request"),
    401: (AdapterError, "auth"),
    403: (AdapterError, "auth"),
    404: (AdapterError, "not_found"),
    413: (AdapterError, "bad_request"),
    422: (AdapterError, "bad_request"),
    429: (PoolUnavailable, "overloaded"),
    500: (InternalError, "engine"),
    501: (AdapterError, "unsupported"),
    502: (InternalError, "engine"),
    503: (PoolUnavailable, "overloaded"),
    504: (DecodeTimeout, "first_token"),
}
BY_CLASS: dict[int, Meaning] = {
    1: (AdapterError, "decode"),
    2: (AdapterError, "decode"),
    3: (AdapterError, "redirect"),
    4: (AdapterError, "bad_request"),
    5: (InternalError, "engine"),
}


def test_every_status() -> None:
    """Each status means what the semantics' table says; other 4xx are the request's fault, other 5xx the engine's."""
    for status in range(100, 600):
        error = error_of_status(status, {}, b"", WHERE)

        assert (type(error), error.detail) == NAMED.get(status, BY_CLASS[status // 100]), status
        assert error.message.startswith(f"the engine answered {status} · {WHERE} · ")
        assert error.phase == "first_token"


@pytest.mark.parametrize(
    ("statuses", "retriable", "engine_fault"),
    [
        ([301, 307, 400, 401, 403, 404, 413, 418, 422, 501], False, False),
        ([429, 503], True, False),
        ([500, 502, 504, 507, 599], True, True),
    ],
)
def test_what_statuses_mean_for_retry_and_breaker(statuses: list[int], retriable: bool, engine_fault: bool) -> None:
    """Our fault is never retried, back pressure is retried and neutral, the engine's fault is retried and counted."""
    for status in statuses:
        error = error_of_status(status, {}, b"", WHERE)

        assert (error.retriable, error.engine_fault) == (retriable, engine_fault), status


CAPTURED: dict[str, Meaning] = {
    "llamacpp/bad_temp": (AdapterError, "bad_request"),
    "llamacpp/err_bad_json": (AdapterError, "bad_request"),
    "llamacpp/err_prompt_too_long": (AdapterError, "context_length"),
    "llamacpp/err_prompt_too_long_stream": (AdapterError, "context_length"),
    "llamacpp/err_unknown_path": (AdapterError, "not_found"),
    "llamacpp/err_wrong_method": (AdapterError, "not_found"),
    "llamacpp/key_wrong": (AdapterError, "auth"),
    "llamacpp/off_slots": (AdapterError, "unsupported"),
    "llamacpp/emb_too_long": (InternalError, "engine"),
    "llamacpp/loading_get_health": (PoolUnavailable, "loading"),
    "llamacpp/loading_post_completions": (PoolUnavailable, "loading"),
    "llamacpp/get_slots_fail_on_no_slot_busy": (PoolUnavailable, "overloaded"),
    "vllm/err_bad_temp": (AdapterError, "bad_request"),
    "vllm/err_prompt_too_long": (AdapterError, "context_length"),
    "vllm/err_max_tokens_too_large": (AdapterError, "context_length"),
    "vllm/err_chat_max_tokens_too_large": (AdapterError, "context_length"),
    "vllm/err_unknown_model": (AdapterError, "not_found"),
    "vllm/err_unknown_path": (AdapterError, "not_found"),
    "vllm/err_wrong_method": (AdapterError, "bad_request"),
    "vllm/key_wrong": (AdapterError, "auth"),
    "vllm/tools_unsupported": (AdapterError, "bad_request"),
}


@pytest.mark.parametrize("name", CAPTURED)
def test_real_refusals(name: str) -> None:
    """What the engines were seen to refuse has its meaning, with their own words in the message."""
    capture = captures.load(*name.split("/"))
    error = error_of_status(capture.status, capture.headers, capture.body, WHERE)

    assert (type(error), error.detail) == CAPTURED[name]
    assert f"the engine answered {capture.status}: " in error.message


class Body(NamedTuple):
    """An error's body and the words that are read in it."""

    body: bytes
    words: str


BODIES = [
    Body(b'{"error":{"message":"no","type":"t","code":400,"param":"p"}}', "no"),
    Body(b'{"error":{"message":"no","code":"invalid"}}', "no"),
    Body(b'{"error":{}}', ""),
    Body(b'{"error":"Unauthorized"}', "Unauthorized"),
    Body(b'{"detail":"Not Found"}', "Not Found"),
    Body(b'{"message":"no"}', "no"),
    Body(b'{"error":null,"detail":"no"}', "no"),
    Body(b'{"detail":[{"msg":"Field required","input":{"prompt":"secret"}}]}', ""),
    Body(b'{"message":{"a":1}}', ""),
    Body(b"{}", ""),
    Body(b"", ""),
    Body(b" \r\n", ""),
    Body(b"Bad Gateway\n", "Bad Gateway"),
    Body(b"<html>", "<html>"),
    Body(b"[1]", "[1]"),
    Body(b"null", "null"),
    Body(b'{"error":{"message":7}}', ""),
    Body(b'{"error":{"message":null,"type":1,"code":[],"param":{}}}', ""),
    Body(b'{"error":{"message":"no","param":{"a":1}}}', "no"),
    Body(b'{"error":{"message":"no","code":400.0}}', "no"),
    Body(b'{"error":"cut o', '{"error":"cut o'),
    Body(b"\xff\xfe", "\ufffd\ufffd"),
    Body(b'{"error":"\xff"}', '{"error":"\ufffd"}'),
    Body(b"[" * 100_000, "[" * 300),
    Body(b"x" * 100_000, "x" * 300),
]


@pytest.mark.parametrize("given", BODIES, ids=lambda given: repr(given.body[:40]))
def test_bodies(given: Body) -> None:
    """An error is read as object, string or detail; of anything else the beginning is its words."""
    assert parse_error(given.body).message == given.words


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b'{"message":null,"type":1,"code":[400],"param":{"a":1}}', ErrorObject()),
        (b'{"message":{"a":1},"type":[],"code":1.5,"param":false}', ErrorObject()),
        (b'{"message":"no","code":503.0}', ErrorObject("no", code=503)),
        (b'{"message":"no","type":"t","code":"c","param":"p"}', ErrorObject("no", "t", "c", "p")),
    ],
)
def test_open_fields(body: bytes, told: ErrorObject) -> None:
    """A field of another type than it should be is as one left out; a code that is a whole number is that number."""
    assert msgspec.json.decode(body, type=ErrorObject) == told


def test_a_prompt_too_long_is_told_whatever_its_parameters() -> None:
    """An error object that is odd in one field still says what it says in the others."""
    body = b'{"error":{"message":null,"type":"exceed_context_size_error","code":400.0,"param":{"n_ctx":4096}}}'

    assert error_of_status(400, {}, body, WHERE).detail == "context_length"


@pytest.mark.parametrize(
    ("told", "meaning"),
    [
        (ErrorObject("no", code=500), (InternalError, "engine")),
        (ErrorObject("no", code="500"), (InternalError, "engine")),
        (ErrorObject("no", code=503), (PoolUnavailable, "overloaded")),
        (ErrorObject("Loading model", code=503), (PoolUnavailable, "loading")),
        (ErrorObject("no", code=400), (AdapterError, "bad_request")),
        (ErrorObject("no", type="exceed_context_size_error", code=400), (AdapterError, "context_length")),
        (ErrorObject("no", param="input_tokens", code=400), (AdapterError, "context_length")),
        (ErrorObject("no"), (InternalError, "engine")),
        (ErrorObject("no", code="server_error"), (InternalError, "engine")),
        (ErrorObject("no", code=7), (InternalError, "engine")),
        (ErrorObject("no", code=-500), (InternalError, "engine")),
        (ErrorObject("no", code=10**400), (InternalError, "engine")),
        *((ErrorObject("no", code=code), (InternalError, "engine")) for code in (100, 200, 302, 399, 600, 999, "204")),
        (ErrorObject("no", code=599), (InternalError, "engine")),
        (ErrorObject("no", code="404"), (AdapterError, "not_found")),
        ("no", (InternalError, "engine")),
    ],
)
def test_error_objects_in_a_stream(told: ErrorObject | str, meaning: Meaning) -> None:
    """An error object in mid-stream means what its status means; without one, that the engine broke."""
    error = error_in_stream(told, WHERE)

    assert (type(error), error.detail) == meaning
    assert error.phase == "decode"
    assert error.message.startswith("the engine broke off with ")
    assert WHERE in error.message


def test_an_error_object_without_words() -> None:
    """Where the engine says nothing, nothing is quoted."""
    assert error_in_stream("", WHERE).message == (
        f"the engine broke off with 500 · {WHERE} · look at the engine's own log"
    )


NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("7\x1f", 7.0),
        ("31536001", YEAR),
        ("9" * 400, YEAR),
        ("9" * 5000, YEAR),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 13:00:30 +0100", 30.0),
        ("Monday, 23-Nov-26 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 11:59:59 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", YEAR),
        ("Mon, 23 Nov 2026 12:00:30 -0000", 30.0),
        ("Mon Nov 23 12:00:30 2026", 30.0),
        ("Mon Nov  2 12:00:30 2026", 0.0),
        ("Fri, 31 Dec 99999999999999999999 23:59:59 GMT", None),
        ("Mon, 23 Nov 2026 12:00:30 +9999", None),
        ("", None),
        ("soon", None),
        ("-1", None),
        ("1.5", None),
        ("1e3", None),
        ("²", None),
        ("\x00", None),
    ],
)
def test_retry_after(value: str | None, seconds: float | None) -> None:
    """Retry-After is read as seconds or as a date, never negative; a year stands for more, None for nonsense."""
    assert retry_after(value, NOW) == seconds


def test_retry_after_without_a_given_moment() -> None:
    """A date is compared with the time of now."""
    ahead = datetime.now(UTC) + timedelta(seconds=100)

    wait = retry_after(ahead.strftime("%a, %d %b %Y %H:%M:%S GMT"))

    assert wait is not None
    assert 90 < wait <= 100


DATES = st.from_regex(r"\w{0,9},? [0-9]{1,25}[ -]\w{1,9}[ -][0-9]{1,25} [0-9:]{0,12} ?[+-]?\w{0,8}", fullmatch=True)


@given(value=st.text(max_size=60) | DATES)
@settings(deadline=None)
def test_hostile_retry_after(value: str) -> None:
    """Whatever stands in the header, it is a wait of 0 s to a year or nothing."""
    wait = retry_after(value, NOW)

    assert wait is None or 0 <= wait <= YEAR


def test_retry_after_reaches_the_error() -> None:
    """The wait that the engine asks for is a fact of the error."""
    assert error_of_status(503, {"retry-after": "7"}, b"", WHERE).retry_after == 7.0
    assert error_of_status(429, {"retry-after": "x"}, b"", WHERE).retry_after is None


TOLD = [
    ("Failed to parse messages: Missing 'role' in message: {'rol':'user','content':'PRIVATE'}", "bad_request"),
    ("Failed to parse tools: Missing type in tool: {'name':'PRIVATE'}", "bad_request"),
    ("Failed to initialize samplers: failed to parse grammar", "bad_request"),
    ("image input is not supported - hint: if this is unexpected, provide the mmproj", "unsupported"),
]


@pytest.mark.parametrize(("words", "detail"), TOLD)
def test_llama_cpp_answers_500_to_what_it_should_refuse(words: str, detail: str) -> None:
    """A request that cannot be served is the caller's matter, no engine's fault, and is not repeated in the message."""
    body = json.dumps({"error": {"code": 500, "message": words.replace("'", '"'), "type": "server_error"}}).encode()
    error = error_of_status(500, {}, body, WHERE)

    assert (type(error), error.detail, error.retriable, error.engine_fault) == (AdapterError, detail, False, False)
    assert "PRIVATE" not in str(error)


@pytest.mark.parametrize(
    "words",
    [
        "Failed to parse input at pos 7: PRIVATE",
        "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] …; last read: 'PRIVATE'",
    ],
)
def test_output_that_llama_cpp_cannot_parse(words: str) -> None:
    """What its own model wrote is no fault of the request's, and is not repeated."""
    error = error_of_status(500, {}, json.dumps({"error": {"code": 500, "message": words}}).encode(), WHERE)

    assert (type(error), error.detail) == (InternalError, "engine")
    assert "PRIVATE" not in str(error)
