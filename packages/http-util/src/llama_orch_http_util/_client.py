"""The client of one engine: requests and typed streams, with every failure a `WorkerError`."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType
from typing import Generic, Self, TypeVar
from urllib.parse import urlsplit

import msgspec
from llama_orch_adapter_api import AdapterError, Secret, WorkerError, get_logger

from ._asked import check_headers, check_path, json_of, method_of
from ._config import HttpConfig, check_key, check_url
from ._errors import HOSTILE_JSON, error_of_status, not_a_stream, not_the_json
from ._framing import framing_of
from ._http1 import Http1
from ._negotiated import Negotiated
from ._retry import retried
from ._stream import EventStream
from ._transport import Answer, Transport
from ._words import quote, sent_of

T = TypeVar("T")

_REFUSAL = 1.0
"""Seconds to wait for the body of a refusal, whose status is known already."""

_logger = get_logger("llama_orch_http_util")


class Response(msgspec.Struct, frozen=True):
    """A whole answer with a 2xx status. Header names are lower-case; `http_version` is "1.0", "1.1" or "2"."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    http_version: str
    where: str

    def decode(self, decoder: msgspec.json.Decoder[T], what: str) -> T:
        """The body as JSON of the decoder's type; `what` names it in the `AdapterError` (decode) otherwise raised."""
        try:
            return decoder.decode(self.body)
        except HOSTILE_JSON as error:
            failure = not_the_json(self.where, what, error)
        raise failure  # here, where the decoder's error, which may hold the body, is not its context

    def __repr__(self) -> str:
        return f"<Response {self.status} · {self.where} · {len(self.body)} bytes>"


class HttpClient:
    """Speaks to one engine. Sockets belong to the event loop's shared session, borrowed at the first request.

    `reuse_after_stream` False asks for a connection of its own for each stream, closed after it: for engines that say
    Keep-Alive and close nevertheless, where a reuse would race the close. `narrate` is told, once, of a peer whose
    certificate nobody checks, and of each origin whose HTTP/2 fails; it is logged where left out. `fallbacks` counts,
    by reason, the requests that were moved from HTTP/2 to HTTP/1.1; `count` is told of each, as `fallback_refused`.
    Raises `ValueError` for a URL it will not speak to (`check_url`) and for a key that cannot be sent. Every failure of
    a call is a `WorkerError`.
    """

    def __init__(
        self,
        url: str,
        config: HttpConfig | None = None,
        *,
        api_key: Secret | None = None,
        reuse_after_stream: bool = True,
        narrate: Callable[[str], None] = _logger.warning,
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._config = config or HttpConfig()
        url = check_url(url, self._config, with_key=api_key is not None)
        if api_key is not None:
            check_key(api_key)
        parts = urlsplit(url)
        self.where = parts.netloc
        self._key = api_key
        self.fallbacks: Counter[str] = Counter()
        self._count = count
        http1 = Http1(url, self._config, reuse_after_stream=reuse_after_stream)
        self._transport: Transport = http1
        if parts.scheme == "https" and self._config.http_version != "1.1":
            self._transport = Negotiated(url, self._config, http1, narrate, self._fell_back)
        if parts.scheme == "https" and self._config.insecure_tls:
            narrate(f"nobody checks the certificate of {self.where}: http.insecure_tls is on")

    async def request(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Response:
        """One whole answer; `body` is sent as JSON where given. Anything but a 2xx is raised."""
        check_path(path, self.where)
        data = json_of(body, self.where)
        answer = await self._send(method_of(method, self.where), path, data, headers)
        try:
            if not 200 <= answer.status < 300:
                raise await self._refusal(answer, path, data)
            self._check_encoding(answer, path, data)
            whole = await self._bounded(answer, self._config.max_body)
        finally:
            answer.close()
        return Response(answer.status, answer.headers, whole, answer.http_version, self.where)

    async def get(self, path: str, *, once: bool = False, headers: Mapping[str, str] | None = None) -> Response:
        """One whole answer to a GET, tried as often as `config.retry` allows; the error's `attempts` says how often.

        `once` is for what is asked on a task's way: the host retries the task, and nobody retries within its attempt.
        """
        send = partial(self.request, "GET", path, headers=headers)
        if once:
            return await send()
        policy = self._config.retry
        return await retried("GET", send, policy, deadline=asyncio.get_running_loop().time() + policy.patience)

    def stream(
        self, path: str, body: object, decoder: msgspec.json.Decoder[T], headers: Mapping[str, str] | None = None
    ) -> "StreamRequest[T]":
        """POST `body` as JSON and read the answer's events as they come: `async with client.stream(…) as events`.

        Leaving the block closes the connection unless the stream had come to its end.
        """
        return StreamRequest(self, path, body, decoder, headers)

    async def open_stream(
        self, path: str, body: object, decoder: msgspec.json.Decoder[T], headers: Mapping[str, str] | None = None
    ) -> EventStream[T]:
        """The stream of an answer whose head has come; whoever gets it must close it."""
        check_path(path, self.where)
        data = json_of(body, self.where)
        answer = await self._send("POST", path, data, headers, stream=True)
        try:
            if answer.status != 200:
                raise await self._refusal(answer, path, data)
            self._check_encoding(answer, path, data)
            kind = answer.headers.get("content-type", "no type")
            framing = framing_of(kind, self._config)
            if framing is None:
                raise not_a_stream(self.where, kind, sent_of(path, data))
        except BaseException:
            answer.close()
            raise
        return EventStream(answer, framing, decoder, self.where)

    async def aclose(self) -> None:
        """Let go of the running loop's session; a second call does nothing."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.aclose()

    def _fell_back(self, reason: str) -> None:
        self.fallbacks[reason] += 1
        self._count(f"fallback_{reason}")

    async def _send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        more: Mapping[str, str] | None = None,
        *,
        stream: bool = False,
    ) -> Answer:
        headers: dict[str, str] = dict(more or {})
        check_headers(headers, self.where)
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
        if data is not None:
            headers["Content-Type"] = "application/json"
        return await self._transport.send(method, path, headers, data, stream=stream)

    def _check_encoding(self, answer: Answer, path: str, data: bytes | None) -> None:
        if (encoding := _encoding_of(answer)) is not None:
            words = quote(encoding, sent_of(path, data))
            raise AdapterError(
                f"the answer is encoded as {words}, which was not asked for · {self.where} · "
                "switch compression off in the proxy before the engine",
                detail="encoding",
            )

    async def _refusal(self, answer: Answer, path: str, data: bytes | None) -> WorkerError:
        if _encoding_of(answer) is not None:
            return error_of_status(answer.status, answer.headers, b"", self.where)  # nobody reads its body
        try:
            async with asyncio.timeout(_REFUSAL):
                body = await self._bounded(answer, self._config.max_error_body, cut=True)
        except (WorkerError, TimeoutError):
            body = b""  # the status says what matters
        return error_of_status(answer.status, answer.headers, body, self.where, sent=sent_of(path, data))

    async def _bounded(self, answer: Answer, limit: int, *, cut: bool = False) -> bytes:
        """The body, counted as it comes; past `limit` it is cut off there, or refused."""
        parts: list[bytes] = []
        size = 0
        while not answer.ended:
            chunk = await answer.read()
            parts.append(chunk)
            size += len(chunk)
            if size > limit and cut:
                break
            if size > limit:
                raise AdapterError(
                    f"the answer is larger than {limit} bytes · {self.where} · raise http.max_body if it may be",
                    detail="too_large",
                )
        return b"".join(parts)[:limit]


def _encoding_of(answer: Answer) -> str | None:
    """How the body is encoded, None for not at all; codings have no case (RFC 9110 §8.4.1).

    What was put on for the transfer alone, other than chunks, nobody takes off again (RFC 9112 §6.1).
    """
    transfer, encoding = answer.headers.get("transfer-encoding"), answer.headers.get("content-encoding")
    if transfer is not None and transfer.strip().lower() not in {"chunked", "identity"}:
        return transfer
    if encoding is None or all(coding.strip().lower() == "identity" for coding in encoding.split(",")):
        return None
    return encoding


class StreamRequest(Generic[T]):
    """A stream not yet asked for; entering the block, once, sends the request."""

    def __init__(
        self,
        client: HttpClient,
        path: str,
        body: object,
        decoder: msgspec.json.Decoder[T],
        headers: Mapping[str, str] | None,
    ) -> None:
        self._client = client
        self._path = path
        self._body = body
        self._decoder = decoder
        self._headers = headers
        self._entered = False
        self._events: EventStream[T] | None = None

    async def __aenter__(self) -> EventStream[T]:
        if self._entered:
            raise RuntimeError("this stream was asked for already; call client.stream once for each block")
        self._entered = True
        self._events = await self._client.open_stream(self._path, self._body, self._decoder, self._headers)
        return self._events

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            await self._events.aclose()
