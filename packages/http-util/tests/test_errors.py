"""From HTTP to the boundary: statuses, bodies, headers and exceptions, each in one table."""

import errno
import json
import os
import random
import secrets
import socket
import ssl
import time
import traceback
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import NamedTuple

import aiohttp
import msgspec
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http import HttpProcessingError
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_orch_adapter_api import (
    AdapterError,
    DecodeTimeout,
    InternalError,
    Phase,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_testkit import captures
from llama_orch_http_util import ErrorObject, error_in_stream
from llama_orch_http_util._errors import (
    BrokenConnection,
    StaleConnection,
    error_of_exception,
    error_of_status,
    not_a_stream,
    not_the_json,
    parse_error,
    quote,
    retry_after,
    truncated,
)
from yarl import URL

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
    Body(b'{"error":{"message":7}}', '{"error":{"message":7}}'),
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
        (ErrorObject("no", code=200), (AdapterError, "decode")),
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


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("  around \n", "around"),
        ("naïve 🦙", "naïve 🦙"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\x1b[31mb\0", r"a\x1b[31mb\x00"),
        ("a\u202eb\u2066c\u200fd", r"a\u202eb\u2066c\u200fd"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("a\u00adb\ufeffc", r"a\xadb\ufeffc"),
        ("a\U000e0041b", r"a\U000e0041b"),
        ("a\udcffb", r"a\udcffb"),
        ("x" * 300, "x" * 300),
        ("x" * 301, "x" * 299 + "…"),
        ("bad 'input': 'a prompt'", "bad"),
        ('{"msg":"bad","input": "a prompt"}', ""),
        ("bad 'input' : a prompt", "bad"),
    ],
)
def test_quoted_words(text: str, shown: str) -> None:
    """Control, separator and bidi characters are escaped, length is capped, and what repeats the input is left out."""
    assert quote(text) == shown


@given(text=st.text(st.characters(), max_size=400))
@settings(deadline=None)
def test_quoted_words_are_one_line(text: str) -> None:
    """Whatever an engine says, its words are one printable line of bounded length (battery 36, log_injection)."""
    shown = quote(text)

    assert shown.isprintable()
    assert len(shown) <= 300 * len(r"\U00000000")


def evil(rng: random.Random, size: int) -> str:
    """A text of the pieces that the patterns begin with, over and over."""
    pieces = ["'input'", '"input"', "[", "{", " ", "\t", ":", "'", "sk-", "Bearer ", "a", "\\", "%5C", "key=", "\n"]
    few = rng.choices(pieces, k=rng.randint(1, 4))
    return "".join(rng.choices(few, k=size))[:size]


def test_quoting_takes_no_time() -> None:
    """Of 200 texts made to hurt, of 8 and 64 KiB, none takes long to quote: it is linear (battery 33, redos)."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for number in range(200):
        size = (8 if number % 2 else 64) * 1024
        text = evil(rng, size)
        begun = time.process_time()
        quote(text)
        assert time.process_time() - begun < 0.5 * size / 8192, (number, text[:80])


NOW = datetime(2026, 11, 23, 12, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        ("7", 7.0),
        (" 120 ", 120.0),
        ("31536001", YEAR),
        ("9" * 400, YEAR),
        ("9" * 5000, YEAR),
        ("Mon, 23 Nov 2026 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 13:00:30 +0100", 30.0),
        ("Monday, 23-Nov-26 12:00:30 GMT", 30.0),
        ("Mon, 23 Nov 2026 11:59:59 GMT", 0.0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", YEAR),
        ("Mon Nov 23 12:00:30 2026", None),
        ("Mon, 23 Nov 2026 12:00:30 -0000", None),
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


KEY = ConnectionKey("engine", 8080, is_ssl=True, ssl=True, proxy=None, proxy_auth=None, proxy_headers_hash=None)
REQUEST = aiohttp.RequestInfo(
    URL(f"http://engine/?key={CANARY}"),
    "POST",
    headers=SimpleNamespace(Authorization=CANARY),  # type: ignore[arg-type]  # what matters is that it can be printed
    real_url=URL(f"http://engine/?key={CANARY}"),
)
REFUSED = ConnectionRefusedError(errno.ECONNREFUSED, CANARY)
UNREACHABLE: Meaning = (PoolUnavailable, "unreachable")
TLS: Meaning = (AdapterError, "tls")
RESET: Meaning = (WorkerReset, "reset")
TRUNCATED: Meaning = (WorkerReset, "truncated")
NONSENSE: Meaning = (AdapterError, "decode")


class Failure(NamedTuple):
    """An exception of the transport, what it means, and the beginning of the message."""

    error: Exception
    meaning: Meaning
    says: str
    phase: Phase = "first_token"


FAILURES = [
    Failure(
        aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError(1, CANARY)),
        TLS,
        "its certificate is not trusted (ClientConnectorCertificateError)",
        "connect",
    ),
    Failure(
        aiohttp.ServerFingerprintMismatch(b"a", b"b", "engine", 8080),
        TLS,
        "its certificate is not trusted (ServerFingerprintMismatch)",
        "connect",
    ),
    Failure(
        ssl.SSLCertVerificationError(1, CANARY),
        TLS,
        "its certificate is not trusted (SSLCertVerificationError)",
        "connect",
    ),
    Failure(
        aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, CANARY)),
        UNREACHABLE,
        "its host name is not known (ClientConnectorDNSError)",
        "connect",
    ),
    Failure(
        aiohttp.ConnectionTimeoutError(CANARY),
        UNREACHABLE,
        "it took too long to connect (ConnectionTimeoutError)",
        "connect",
    ),
    Failure(
        aiohttp.ClientConnectorSSLError(KEY, ssl.SSLError(1, CANARY)),
        UNREACHABLE,
        "the TLS handshake failed (ClientConnectorSSLError)",
        "connect",
    ),
    Failure(
        aiohttp.ClientConnectorError(KEY, REFUSED),
        UNREACHABLE,
        f"cannot connect ({os.strerror(errno.ECONNREFUSED)})",
        "connect",
    ),
    Failure(aiohttp.ClientPayloadError(CANARY), TRUNCATED, "the answer broke off (ClientPayloadError)"),
    Failure(
        aiohttp.ClientResponseError(REQUEST, (), message=CANARY),
        NONSENSE,
        "the answer is not HTTP (ClientResponseError)",
    ),
    Failure(aiohttp.ServerDisconnectedError(CANARY), RESET, "the connection broke (ServerDisconnectedError)"),
    Failure(aiohttp.ClientConnectionResetError(CANARY), RESET, "the connection broke (ClientConnectionResetError)"),
    Failure(
        aiohttp.ClientOSError(errno.ECONNRESET, CANARY),
        RESET,
        f"the connection broke ({os.strerror(errno.ECONNRESET)})",
    ),
    Failure(BrokenPipeError(errno.EPIPE, CANARY), RESET, f"the connection broke ({os.strerror(errno.EPIPE)})"),
    Failure(StaleConnection(CANARY), RESET, "the kept connection was closed (StaleConnection) · engine:8080 · send it"),
    Failure(BrokenConnection(CANARY), RESET, "the connection broke (BrokenConnection)"),
    Failure(aiohttp.ServerTimeoutError(CANARY), RESET, "the connection broke (ServerTimeoutError)"),
    Failure(aiohttp.InvalidURL(f"http://engine?key={CANARY}"), NONSENSE, "the request failed (InvalidURL)"),
    Failure(aiohttp.ClientError(CANARY), NONSENSE, "the request failed (ClientError)"),
    Failure(
        aiohttp.SocketTimeoutError(CANARY),
        (DecodeTimeout, "first_token"),
        "the socket was silent too long · engine:8080",
    ),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure.error).__name__)
def test_failures_of_the_transport(failure: Failure) -> None:
    """Each exception of the transport has its kind, and its own text is in no message."""
    error = error_of_exception(failure.error, WHERE, "first_token")

    assert (type(error), error.detail) == failure.meaning
    assert error.message.startswith(failure.says)
    assert f" · {WHERE} · " in error.message
    assert error.phase == failure.phase
    assert CANARY not in error.message


def told_by_openssl(kind: type[ssl.SSLError], **facts: str) -> ssl.SSLError:
    """An error as OpenSSL's binding makes it: with what it was, by name."""
    error = kind(1, CANARY)
    vars(error).update(facts)
    return error


DISAGREES = "check that it speaks TLS, 1.2 or later, on this port"
HANDSHAKES = [
    Failure(
        told_by_openssl(ssl.SSLError, reason="NO_SHARED_CIPHER"), TLS, "the TLS handshake failed (NO_SHARED_CIPHER)"
    ),
    Failure(told_by_openssl(ssl.SSLEOFError, reason="UNEXPECTED_EOF_WHILE_READING"), UNREACHABLE, "the TLS handshake"),
    Failure(told_by_openssl(ssl.SSLZeroReturnError, reason="ZERO_RETURN"), UNREACHABLE, "the TLS handshake failed"),
    Failure(told_by_openssl(ssl.SSLSyscallError, reason="SYSCALL"), UNREACHABLE, "the TLS handshake failed (SYSCALL)"),
]


@pytest.mark.parametrize("failure", HANDSHAKES, ids=lambda failure: type(failure.error).__name__)
def test_handshakes(failure: Failure) -> None:
    """A handshake that broke may be tried again; one whose sides do not agree may not."""
    error = error_of_exception(aiohttp.ClientConnectorSSLError(KEY, failure.error), WHERE, "first_token")

    assert (type(error), error.detail, error.phase) == (*failure.meaning, "connect")
    assert error.message.startswith(failure.says)
    assert error.message.endswith(DISAGREES) == (failure.meaning == TLS)
    assert CANARY not in error.message


def test_why_a_certificate_is_not_trusted() -> None:
    """OpenSSL's reason is told, as safe as an engine's words."""
    inner = told_by_openssl(ssl.SSLCertVerificationError, verify_message="a\x1bb.", reason="CERTIFICATE_VERIFY_FAILED")
    error = error_of_exception(aiohttp.ClientConnectorCertificateError(KEY, inner), WHERE, "first_token")

    assert error.message.startswith(r"its certificate is not trusted (a\x1bb) · ")
    assert error.detail == "tls"


def begun_inside_the_head() -> BrokenConnection:
    error = BrokenConnection()
    error.begun = True
    return error


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize(
    ("failure", "whatever_the_head"),
    [
        (aiohttp.ClientConnectorError(KEY, REFUSED), False),
        (aiohttp.ClientConnectorDNSError(KEY, socket.gaierror(socket.EAI_NONAME, CANARY)), False),
        (aiohttp.ConnectionTimeoutError(), False),
        (aiohttp.ClientConnectorSSLError(KEY, told_by_openssl(ssl.SSLError, reason="NO_SHARED_CIPHER")), False),
        (aiohttp.ClientConnectorCertificateError(KEY, ssl.SSLCertVerificationError(1, CANARY)), False),
        (aiohttp.ClientResponseError(REQUEST, ()), True),
        (HttpProcessingError(), True),
        (begun_inside_the_head(), True),
        (BrokenConnection(), None),
        (StaleConnection(), None),
        (aiohttp.SocketTimeoutError(), None),
        (aiohttp.ClientOSError(errno.ECONNRESET, CANARY), None),
        (aiohttp.ClientPayloadError(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whether_a_byte_of_the_answer_was_seen(failure: Exception, whatever_the_head: bool | None, head: bool) -> None:
    """`answered` is False for what fails in connecting, True for half a head; else it is whether the head had come."""
    error = error_of_exception(failure, WHERE, "first_token", head=head)

    assert error.answered == (head if whatever_the_head is None else whatever_the_head)
    assert error.stale_connection == isinstance(failure, StaleConnection)


def test_silence_in_mid_stream() -> None:
    """A socket that falls silent while the answer streams is idle, not late."""
    error = error_of_exception(aiohttp.SocketTimeoutError(), WHERE, "decode")

    assert (type(error), error.detail, error.phase) == (DecodeTimeout, "idle", "decode")


@pytest.mark.parametrize("phase", ["connect", "first_token", "decode"])
def test_the_phase_is_kept(phase: Phase) -> None:
    """A reset is told with the phase it happened in."""
    assert error_of_exception(aiohttp.ServerDisconnectedError(), WHERE, phase).phase == phase


def test_other_exceptions_are_not_taken() -> None:
    """What is no failure of the transport is raised as it is, so that a defect of ours is not hidden."""
    with pytest.raises(ZeroDivisionError):
        error_of_exception(ZeroDivisionError(), WHERE, "decode")


def test_every_exception_of_aiohttp_is_mapped() -> None:
    """There is no client exception of aiohttp that the table lets through."""
    kinds: list[type[BaseException]] = [aiohttp.ClientError]
    for kind in kinds:
        kinds += kind.__subclasses__()

    assert len(kinds) > 20
    for kind in kinds:
        error = error_of_exception(kind.__new__(kind), WHERE, "decode")

        assert isinstance(error, WorkerError)


def test_a_value_of_the_wrong_type() -> None:
    """The path goes into the message; a value of the engine does not."""

    class Slots(msgspec.Struct):
        total: int

    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(b'{"total":"%s"}' % CANARY.encode(), type=Slots)
    error = not_the_json(WHERE, "the slots", caught.value)

    assert error.message == (
        f"the slots is not understood: Expected `int`, got `str` - at `$.total` · {WHERE} · "
        "check that url points at the engine"
    )
    assert (error.detail, error.retriable, error.engine_fault) == ("decode", False, True)


@pytest.mark.parametrize("hostile", [RecursionError(CANARY), msgspec.DecodeError(CANARY)])
def test_bytes_that_are_no_json(hostile: Exception) -> None:
    """Bytes that are no JSON are told by the exception's name alone."""
    error = not_the_json(WHERE, "the answer", hostile)

    assert f"not understood: {type(hostile).__name__} · " in error.message
    assert CANARY not in error.message


def test_not_a_stream() -> None:
    """The content type that came instead of a stream is told, as safe as an engine's words."""
    error = not_a_stream(WHERE, "text/html\x1b")

    assert error.message == (
        rf"the answer is text/html\x1b, not an event stream · {WHERE} · check that url points at the engine"
    )
    assert error.detail == "decode"


@pytest.mark.parametrize(("held", "inside"), [(0, ""), (17, " inside an event (17 bytes of it had come)")])
def test_truncated(held: int, inside: str) -> None:
    """A stream without its finish event is cut, inside an event or between two."""
    error = truncated(WHERE, held)

    assert error.message == f"the stream ended without a finish event{inside} · {WHERE} · look at the engine's own log"
    assert (error.detail, error.phase) == ("truncated", "decode")


def printed(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error) + str(vars(error))


def raise_as_the_client_does(failure: Exception) -> None:
    try:
        raise failure
    except (aiohttp.ClientError, OSError) as error:
        raise error_of_exception(error, WHERE, "decode") from None


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure.error).__name__)
def test_raised_from_none_nothing_is_told(failure: Failure) -> None:
    """Raised as the client raises it, an error prints nothing of the exception it stands for (battery 32's part)."""
    with pytest.raises(WorkerError) as caught:
        raise_as_the_client_does(failure.error)

    assert CANARY not in printed(caught.value)


TOLD = [
    ("Failed to parse messages: Missing 'role' in message: {'rol':'user','content':'PRIVATE'}", "bad_request"),
    ("image input is not supported - hint: if this is unexpected, provide the mmproj", "unsupported"),
]


@pytest.mark.parametrize(("words", "detail"), TOLD)
def test_llama_cpp_answers_500_to_what_it_should_refuse(words: str, detail: str) -> None:
    """A request that cannot be served is the caller's matter, no engine's fault, and is not repeated in the message."""
    body = json.dumps({"error": {"code": 500, "message": words.replace("'", '"'), "type": "server_error"}}).encode()
    error = error_of_status(500, {}, body, WHERE)

    assert (type(error), error.detail, error.retriable, error.engine_fault) == (AdapterError, detail, False, False)
    assert "PRIVATE" not in str(error)
