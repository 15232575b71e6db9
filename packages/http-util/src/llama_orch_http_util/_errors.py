"""From what HTTP says to what the boundary says: status, error object and exception to `WorkerError`.

Messages are built from facts (status, host:port, the engine's own words), never from an exception's text: aiohttp's
exceptions hold headers and URLs. An engine's words are redacted: some repeat the key that they refuse.
"""

import os
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import aiohttp
import msgspec
from aiohttp.http import HttpProcessingError
from llama_orch_adapter_api import (
    AdapterError,
    DecodeTimeout,
    InternalError,
    Phase,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
)
from msgspec.structs import force_setattr

from ._words import QUOTE, quote

_YEAR = 365 * 86_400.0


class ErrorObject(msgspec.Struct, frozen=True, gc=False):
    """An engine's own account of an error; llama.cpp's and vLLM's fields fit, and those of proxies before them.

    A field that is of another type than it should be reads as one that was left out: the error still counts.
    """

    message: Any = ""
    type: Any = None
    code: Any = None
    param: Any = None

    def __post_init__(self) -> None:
        if not isinstance(self.message, str):
            force_setattr(self, "message", "")
        for name in ("type", "param"):
            if not isinstance(getattr(self, name), str):
                force_setattr(self, name, None)
        if isinstance(self.code, float) and self.code.is_integer():
            force_setattr(self, "code", int(self.code))
        if not isinstance(self.code, int | str):
            force_setattr(self, "code", None)


class _ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorObject | str | None = None
    detail: Any = None
    message: Any = None


_BODY = msgspec.json.Decoder(_ErrorBody)

HOSTILE_JSON = (msgspec.MsgspecError, RecursionError, UnicodeDecodeError)
"""All that msgspec raises on bytes that are not the JSON that was asked for."""


TRANSPORT_FAILURES = (aiohttp.ClientError, HttpProcessingError, OSError)
"""All that aiohttp raises where the peer or the network is at fault."""


class Meaning(NamedTuple):
    """What a status means on the boundary, and what the user may do about it."""

    kind: type[WorkerError]
    detail: str
    mend: str


_STATUS: dict[int, Meaning] = {
    400: Meaning(AdapterError, "bad_request", "correct the request"),
    401: Meaning(AdapterError, "auth", "set api_key of this replica to the key the engine was started with"),
    403: Meaning(AdapterError, "auth", "use an api_key that may do this"),
    404: Meaning(AdapterError, "not_found", "check url and model: the engine does not have what was asked for"),
    429: Meaning(PoolUnavailable, "overloaded", "wait, or add replicas"),
    501: Meaning(AdapterError, "unsupported", "start the engine with this feature, or use another pool"),
    503: Meaning(PoolUnavailable, "overloaded", "wait, or add replicas"),
    504: Meaning(DecodeTimeout, "first_token", "raise the time limit of the proxy before the engine"),
}
_CLASS: dict[int, Meaning] = {
    3: Meaning(AdapterError, "redirect", "give the url that it redirects to; redirects are never followed"),
    4: Meaning(AdapterError, "bad_request", "correct the request"),
    5: Meaning(InternalError, "engine", "look at the engine's own log"),
}
_TELLING: tuple[tuple[int, str, Meaning], ...] = (
    (503, "loading", Meaning(PoolUnavailable, "loading", "wait until it is ready")),
    (500, "failed to parse messages", _STATUS[400]),
    (500, "failed to parse tools", _STATUS[400]),
    (500, "failed to parse grammar", _STATUS[400]),
    (500, "is not supported", _STATUS[501]),
)
"""Words that say more than the status: llama.cpp answers 500 to some requests that it should refuse.

It fails to parse its own model's output as well, cut off or malformed: that stays a fault of the engine's.
"""

_TOO_LONG = Meaning(AdapterError, "context_length", "shorten the prompt or max_tokens, or give the engine more context")
_NONSENSE = Meaning(AdapterError, "decode", "check that url points at the engine")


def error_of_status(
    status: int, headers: Mapping[str, str], body: bytes, where: str, *, sent: bytes = b""
) -> WorkerError:
    """What an answer that is no 2xx means. `where` is `host:port`; what was `sent` is not repeated."""
    told = parse_error(body)
    meaning = _meaning(status, told)
    return meaning.kind(
        f"the engine answered {status}{_said(told, sent)} · {where} · {meaning.mend}",
        detail=meaning.detail,
        phase="first_token",
        retry_after=retry_after(headers.get("retry-after")),
    )


def error_in_stream(told: ErrorObject | str, where: str) -> WorkerError:
    """What an error object in the middle of a stream means; without an error's status in it, the engine broke."""
    if isinstance(told, str):
        told = ErrorObject(message=told)
    code = str(told.code)
    status = int(code) if code.isdecimal() and len(code) == 3 and 400 <= int(code) < 600 else 500
    meaning = _meaning(status, told)
    return meaning.kind(
        f"the engine broke off with {status}{_said(told)} · {where} · {meaning.mend}",
        detail=meaning.detail,
        phase="decode",
    )


def _said(told: ErrorObject, sent: bytes = b"") -> str:
    words = quote(told.message, sent)
    return f": {words}" if words else ""


def _meaning(status: int, told: ErrorObject) -> Meaning:
    for telling, words, meaning in _TELLING:
        if status == telling and words in told.message.lower():
            return meaning
    if status == 400 and _is_too_long(told):
        return _TOO_LONG
    return _STATUS.get(status) or _CLASS.get(status // 100) or _NONSENSE


def _is_too_long(told: ErrorObject) -> bool:
    """llama.cpp gives it a type of its own; vLLM has only words, and a parameter for one of the two cases."""
    return (
        told.type == "exceed_context_size_error"
        or told.param == "input_tokens"
        or "max_model_len" in told.message
        or "maximum context length" in told.message
    )


def parse_error(body: bytes) -> ErrorObject:
    """The error in a body: an object, a string, `{"detail": …}`; from anything else, its beginning as text."""
    try:
        parsed = _BODY.decode(body)
    except HOSTILE_JSON:
        return ErrorObject(message=body[:QUOTE].decode(errors="replace").strip())
    if isinstance(parsed.error, ErrorObject):
        return parsed.error
    words = next((w for w in (parsed.error, parsed.detail, parsed.message) if isinstance(w, str)), "")
    return ErrorObject(message=words)


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Seconds asked for by a Retry-After header (RFC 9110 §10.2.3: seconds or an HTTP date); None if unreadable.

    More than a year is given as a year.
    """
    if value is None:
        return None
    if (seconds := value.strip()).isdecimal():
        return min(float(seconds), _YEAR)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:  # C's asctime names no zone, -0000 says that none is known; HTTP's dates are all in UTC
        moment = moment.replace(tzinfo=UTC)
    return min(max(0.0, (moment - (now or datetime.now(UTC))).total_seconds()), _YEAR)


class BrokenConnection(aiohttp.ClientConnectionError):
    """A connection ended before the answer's head was whole. `begun`: some of the head had come.

    A reset inside the head is taken for one before it: nobody tells.
    """

    errno: int | None = None
    told: str | None = None
    begun = False


class ForbiddenAddress(aiohttp.ClientError):
    """A name leads to nothing but addresses that are refused; the text says to which, and what it is."""


class StaleConnection(aiohttp.ServerDisconnectedError):
    """A kept connection ended without a byte of the answer. aiohttp repeats a GET that met one, and no other."""

    errno: int | None = None
    told: str | None = None


class BrokenAnswer(aiohttp.ClientPayloadError):
    """An HTTP/2 stream ended before the answer was whole. `told`: the peer's reason, in the protocol's words."""

    errno: int | None = None
    told: str | None = None


class OnlyInterim(HttpProcessingError):
    """One 1xx head came after the other, and no answer."""

    told = "1xx heads without end"


class ClosedHere(aiohttp.ClientError):
    """The client was closed, or the last that shared its connections, while the request was under way."""


class OtherVersion(aiohttp.ClientConnectionError):
    """The peer does not speak the version of HTTP that it is to speak."""


class AtCapacity(aiohttp.ClientConnectionError):
    """Every HTTP/2 connection that may be opened has all the streams it may have."""


_UNREACHABLE = Meaning(PoolUnavailable, "unreachable", "check that the engine runs and that url is right")
_RESET = Meaning(WorkerReset, "reset", "look at the engine's own log")
_STALE = Meaning(WorkerReset, "reset", "send it again")
_TRUNCATED = Meaning(WorkerReset, "truncated", "look at the engine's own log")
_TLS = Meaning(AdapterError, "tls", "name its certificate authority in http.ca_file, or correct the host name in url")
_ADDRESS = Meaning(AdapterError, "address", "correct url, or set http.allow_link_local = true if you mean it")
_TLS_WORDS = Meaning(AdapterError, "tls", "check that it speaks TLS, 1.2 or later, on this port")

_VERSION = Meaning(AdapterError, "unsupported", 'set http.http_version to "auto"')
_FULL = Meaning(PoolUnavailable, "at_capacity", "wait, or raise http.http2_connections")
_IN_CONNECT = frozenset({_UNREACHABLE, _TLS, _TLS_WORDS, _ADDRESS, _VERSION, _FULL})

_EXCEPTIONS: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str, Meaning], ...] = (
    (
        (aiohttp.ClientConnectorCertificateError, aiohttp.ServerFingerprintMismatch, ssl.SSLCertVerificationError),
        "its certificate is not trusted",
        _TLS,
    ),
    (OtherVersion, "it does not speak HTTP/2", _VERSION),
    (AtCapacity, "all HTTP/2 connections have all the streams they may", _FULL),
    (ForbiddenAddress, "its host name leads where nobody is to go", _ADDRESS),
    (aiohttp.ClientConnectorDNSError, "its host name is not known", _UNREACHABLE),
    (aiohttp.ConnectionTimeoutError, "it took too long to connect", _UNREACHABLE),
    (aiohttp.ClientConnectorSSLError, "the TLS handshake failed", _UNREACHABLE),
    (aiohttp.ClientConnectorError, "cannot connect", _UNREACHABLE),
    (aiohttp.ClientPayloadError, "the answer broke off", _TRUNCATED),
    ((aiohttp.ClientResponseError, HttpProcessingError), "the answer is not HTTP", _NONSENSE),
    (StaleConnection, "the kept connection was closed", _STALE),
    ((aiohttp.ServerDisconnectedError, aiohttp.ClientConnectionError, OSError), "the connection broke", _RESET),
    (aiohttp.ClientError, "the request failed", _NONSENSE),
)
"""First match wins; subclasses stand before their bases."""


def error_of_exception(error: BaseException, where: str, phase: Phase, *, head: bool = True) -> WorkerError:
    """What a failure of the transport means; `head`: that of the answer had come.

    The result is to be raised where `error` is no longer handled, or it would be kept as the context, secrets and all.
    """
    if isinstance(error, aiohttp.SocketTimeoutError):
        detail = "idle" if phase == "decode" else "first_token"
        message = f"the socket was silent too long · {where} · check the engine"
        return DecodeTimeout(message, detail=detail, phase=phase, answered=head)
    if isinstance(error, ClosedHere):
        message = f"this client was closed · {where} · send it again, by another"
        return WorkerReset(message, detail="drained", phase=phase, answered=head)
    for kinds, what, meaning in _EXCEPTIONS:
        if isinstance(error, kinds):
            means = _TLS_WORDS if _disagrees(error) else meaning
            in_connect = means in _IN_CONNECT
            return means.kind(
                f"{what} ({_facts(error)}) · {where} · {means.mend}",
                detail=means.detail,
                phase="connect" if in_connect else phase,
                answered=not in_connect and (head or _had_begun(error)),
                stale_connection=means is _STALE,
            )
    raise error


def _had_begun(error: BaseException) -> bool:
    """Whether some of the answer had come, though not its head."""
    return isinstance(error, aiohttp.ClientResponseError | HttpProcessingError) or getattr(error, "begun", False)


def _disagrees(error: BaseException) -> bool:
    """Whether a handshake failed for what was said in it, and not because the connection broke."""
    inner = getattr(error, "os_error", None)
    broke = isinstance(inner, ssl.SSLEOFError | ssl.SSLZeroReturnError | ssl.SSLSyscallError)
    return isinstance(error, aiohttp.ClientConnectorSSLError) and not broke and bool(getattr(inner, "reason", None))


def _facts(error: BaseException) -> str:
    """The system's words for an errno, TLS's and HTTP/2's for their own; the resolver's numbers (below 0) have none."""
    if isinstance(error, ForbiddenAddress):
        return str(error)
    if words := getattr(error, "told", None):
        return quote(words)
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", error)
    if isinstance(inner, ssl.SSLError):
        told = getattr(inner, "verify_message", None) or getattr(inner, "reason", None)
        return quote(told).rstrip(".") if told else type(error).__name__
    number: int | None = getattr(error, "errno", None)
    if number is None or number <= 0:
        return type(error).__name__
    return os.strerror(number)


def not_the_json(where: str, what: str, error: Exception) -> AdapterError:
    """Bytes that are not what was asked for; msgspec's message names a path, never a value."""
    facts = quote(str(error)) if isinstance(error, msgspec.ValidationError) else type(error).__name__
    return AdapterError(f"{what} is not understood: {facts} · {where} · {_NONSENSE.mend}", detail="decode")


def no_certificates(where: str, ca_file: object, error: OSError) -> AdapterError:
    """The file of certificate authorities to trust cannot be used."""
    return AdapterError(
        f"http.ca_file {quote(str(ca_file))} cannot be used ({_facts(error)}) · {where} · name a file of certificates",
        detail="tls",
        phase="connect",
        answered=False,
    )


def not_a_stream(where: str, kind: str, sent: bytes = b"") -> AdapterError:
    """A good answer of another content type than a stream's."""
    return AdapterError(
        f"the answer is {quote(kind, sent)}, not an event stream · {where} · {_NONSENSE.mend}", detail="decode"
    )


def truncated(where: str, held: int) -> WorkerReset:
    """The stream ended in order, yet without its finish event; `held` bytes of an event had come."""
    inside = f" inside an event ({held} bytes of it had come)" if held else ""
    return WorkerReset(
        f"the stream ended without a finish event{inside} · {where} · {_TRUNCATED.mend}",
        detail="truncated",
        phase="decode",
    )
