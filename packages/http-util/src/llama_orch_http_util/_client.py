"""The client of one engine: requests and streams over the loop's shared session."""

import asyncio
import io
from collections.abc import Mapping
from types import TracebackType
from typing import Generic, Self, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

import aiohttp
import msgspec
from llama_orch_adapter_api import AdapterError, Secret, WorkerError

from ._config import MIB, HttpConfig, check_key, check_url
from ._errors import (
    HOSTILE_JSON,
    TRANSPORT_FAILURES,
    error_of_exception,
    error_of_status,
    not_a_stream,
    not_the_json,
    quote,
)
from ._session import SharedSession, borrow, give_back
from ._stream import EventStream

T = TypeVar("T")


class Response(msgspec.Struct, frozen=True):
    """A whole answer with a 2xx status. Header names are lower-case; `http_version` is "1.1" or "2"."""

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
            raise not_the_json(self.where, what, error) from None


class HttpClient:
    """Speaks to one engine. Sockets belong to the event loop's shared session, borrowed at the first request.

    `reuse_after_stream` False asks for a connection of its own for each stream, closed after it: for engines that say
    Keep-Alive and close nevertheless, where a reuse would race the close.
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
    ) -> None:
        self._config = config or HttpConfig()
        self._url = check_url(url, self._config, with_key=api_key is not None)
        if api_key is not None:
            check_key(api_key)
        self.where = urlsplit(self._url).netloc
        self._key = api_key
        self._reuse_after_stream = reuse_after_stream
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=None, sock_connect=self._config.connect, sock_read=self._config.sock_idle
        )
        self._loans: WeakKeyDictionary[asyncio.AbstractEventLoop, SharedSession] = WeakKeyDictionary()

    async def request(self, method: str, path: str, body: object = None) -> Response:
        """One whole answer; `body` is sent as JSON where given. Anything but a 2xx is raised."""
        try:
            response = await self._send(method, path, body)
            try:
                return await self._read(response)
            finally:
                response.release()
        except TRANSPORT_FAILURES as error:
            raise error_of_exception(error, self.where, "first_token") from None

    def stream(self, path: str, body: object, decoder: msgspec.json.Decoder[T]) -> "StreamRequest[T]":
        """POST `body` as JSON and read the answer's events as they come: `async with client.stream(…) as events`.

        Leaving the block closes the connection unless the stream had come to its end.
        """
        return StreamRequest(self, path, body, decoder)

    async def open_stream(self, path: str, body: object, decoder: msgspec.json.Decoder[T]) -> EventStream[T]:
        """The stream of an answer whose head has come; whoever gets it must close it."""
        try:
            response = await self._send("POST", path, body, last=not self._reuse_after_stream)
            try:
                self._check_head(response)
                if response.status != 200:
                    raise await self._refusal(response)
                kind = response.headers.get("Content-Type", "no type")
                if not kind.lower().startswith("text/event-stream"):
                    raise not_a_stream(self.where, kind)
            except BaseException:
                response.close()
                raise
        except TRANSPORT_FAILURES as error:
            raise error_of_exception(error, self.where, "first_token") from None
        return EventStream(response, decoder, self._config, self.where)

    async def aclose(self) -> None:
        """Let go of the running loop's session; a second call does nothing."""
        shared = self._loans.pop(asyncio.get_running_loop(), None)
        if shared is not None:
            await give_back(shared)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.aclose()

    async def _send(self, method: str, path: str, body: object, *, last: bool = False) -> aiohttp.ClientResponse:
        headers = {"Connection": "close"} if last else {}
        if self._key is not None:
            headers["Authorization"] = f"Bearer {self._key.reveal()}"
        data: bytes | io.BytesIO | None = None
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = msgspec.json.encode(body)
            if len(data) >= MIB:  # aiohttp writes bytes in one go, which would hold the loop; a file goes in pieces
                data = io.BytesIO(data)
        return await self._session().request(
            method, self._url + path, data=data, headers=headers, timeout=self._timeout, allow_redirects=False
        )

    def _session(self) -> aiohttp.ClientSession:
        loop = asyncio.get_running_loop()
        shared = self._loans.get(loop)
        if shared is None:
            shared = self._loans[loop] = borrow()
        return shared.session

    async def _read(self, response: aiohttp.ClientResponse) -> Response:
        self._check_head(response)
        if not 200 <= response.status < 300:
            raise await self._refusal(response)
        body = await self._bounded(response, self._config.max_body)
        version = response.version or aiohttp.HttpVersion11
        return Response(
            status=response.status,
            headers=_lower(response),
            body=body,
            http_version=f"{version.major}.{version.minor}",
            where=self.where,
        )

    def _check_head(self, response: aiohttp.ClientResponse) -> None:
        encoding = response.headers.get("Content-Encoding", "identity")
        if encoding != "identity":
            raise AdapterError(
                f"the answer is encoded as {quote(encoding)}, which was not asked for · {self.where} · "
                "switch compression off in the proxy before the engine",
                detail="encoding",
            )

    async def _refusal(self, response: aiohttp.ClientResponse) -> WorkerError:
        try:
            body = await self._bounded(response, self._config.max_error_body, cut=True)
        except TRANSPORT_FAILURES:
            body = b""  # the status says what matters
        return error_of_status(response.status, _lower(response), body, self.where)

    async def _bounded(self, response: aiohttp.ClientResponse, limit: int, *, cut: bool = False) -> bytes:
        """The body, counted as it comes; past `limit` it is cut off there, or refused."""
        parts: list[bytes] = []
        size = 0
        while chunk := await response.content.readany():
            parts.append(chunk)
            size += len(chunk)
            if size > limit and cut:
                break
            if size > limit:
                raise AdapterError(f"the answer is larger than {limit} bytes · {self.where}", detail="too_large")
        return b"".join(parts)[:limit]


class StreamRequest(Generic[T]):
    """A stream not yet asked for; entering the block sends the request."""

    def __init__(self, client: HttpClient, path: str, body: object, decoder: msgspec.json.Decoder[T]) -> None:
        self._client = client
        self._path = path
        self._body = body
        self._decoder = decoder
        self._events: EventStream[T] | None = None

    async def __aenter__(self) -> EventStream[T]:
        self._events = await self._client.open_stream(self._path, self._body, self._decoder)
        return self._events

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._events is not None:
            await self._events.aclose()


def _lower(response: aiohttp.ClientResponse) -> dict[str, str]:
    return {name.lower(): value for name, value in response.headers.items()}
