"""What the transport raises, and what it means on the boundary."""

import errno
import os
import secrets
import socket
import ssl
import traceback
from types import SimpleNamespace
from typing import NamedTuple

import aiohttp
import msgspec
import pytest
from aiohttp.client_reqrep import ConnectionKey
from aiohttp.http import HttpProcessingError
from llama_orch_adapter_api import (
    AdapterError,
    DecodeTimeout,
    Phase,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
)
from llama_orch_http_util._errors import (
    BrokenConnection,
    StaleConnection,
    error_of_exception,
    not_a_stream,
    not_the_json,
    truncated,
)
from yarl import URL

CANARY = secrets.token_hex(16)
WHERE = "engine:8080"
YEAR = 365 * 86400.0

Meaning = tuple[type[WorkerError], str]

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
        told = error_of_exception(error, WHERE, "decode")
    raise told


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure.error).__name__)
def test_nothing_is_told_of_the_exception(failure: Failure) -> None:
    """Raised as the client raises it, an error neither prints nor keeps the exception it stands for (battery 32)."""
    with pytest.raises(WorkerError) as caught:
        raise_as_the_client_does(failure.error)

    assert CANARY not in printed(caught.value)
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)
