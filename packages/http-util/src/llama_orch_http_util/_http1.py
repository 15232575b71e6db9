"""HTTP/1.1 to one engine, over the loop's shared aiohttp session."""

import asyncio
import io
import ssl
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from urllib.parse import urlsplit
from weakref import ReferenceType, WeakKeyDictionary, ref

import aiohttp
from aiohttp.streams import EmptyStreamReader
from llama_orch_adapter_api import Phase, WorkerError

from ._body import Body
from ._config import MIB, HttpConfig
from ._errors import TRANSPORT_FAILURES, ClosedHere, StaleConnection, error_of_exception, no_certificates
from ._retry import IDEMPOTENT
from ._session import SharedSession, borrow, give_back, of_closed_loops
from ._tls import context_for
from ._transport import headers_of

_DISTRUST = 0.5
"""Seconds after a stale connection in which requests get new ones: a repeat must not meet the next stale one."""


class Http1:
    """A `Transport`. Sockets belong to the event loop's shared session, borrowed at the first request."""

    def __init__(self, url: str, config: HttpConfig, *, reuse_after_stream: bool) -> None:
        parts = urlsplit(url)
        self._url = url
        self._where = parts.netloc
        self._config = config
        self._reuse_after_stream = reuse_after_stream
        self._tls: ssl.SSLContext | None = None
        self._secure = parts.scheme == "https"
        self._timeout = aiohttp.ClientTimeout(total=None, connect=config.connect, sock_read=config.sock_idle)
        self._timeout_of_streams = aiohttp.ClientTimeout(total=None, connect=config.connect)
        self._distrusts_until = 0.0  # on the loop's clock
        self._latest: tuple[asyncio.AbstractEventLoop, aiohttp.ClientSession] | None = (
            None  # looking it up takes a while
        )
        self._loans: WeakKeyDictionary[asyncio.AbstractEventLoop, SharedSession] = WeakKeyDictionary()

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, *, stream: bool = False
    ) -> "Http1Answer":
        """See `Transport`. A GET that aiohttp sent again into a second stale connection gets a new one."""
        try:
            return await self._send(method, path, headers, body, stream=stream)
        except WorkerError as error:
            if not error.stale_connection or method not in IDEMPOTENT:
                raise
        return await self._send(method, path, headers, body, stream=stream)

    async def _send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, *, stream: bool
    ) -> "Http1Answer":
        if stream and not self._reuse_after_stream:
            headers = {**headers, "Connection": "close"}
        if self._secure and self._tls is None:
            self._tls = await self._load_tls()
        session = self.session()
        asked = session.request(
            method,
            self._url + path,
            data=_in_pieces(body),
            headers=headers,
            timeout=self._timeout_of_streams if stream else self._timeout,
            ssl=self._tls or True,
            allow_redirects=False,
        )
        timed = stream or _is_large(body)  # sock_read begins only when a body was sent to its end
        try:
            if not timed:
                return Http1Answer(await asked, session, self._where, "first_token")
            async with asyncio.timeout(self._config.sock_idle) as limit:
                response = await asked
        except TRANSPORT_FAILURES as error:
            broken = aiohttp.SocketTimeoutError() if timed and limit.expired() else error
            if session.closed:
                broken = ClosedHere()
            elif isinstance(error, StaleConnection):
                self._distrusts_until = asyncio.get_running_loop().time() + _DISTRUST
            failure = error_of_exception(broken, self._where, "first_token", head=False)
        else:
            if not stream:
                return Http1Answer(response, session, self._where, "first_token")
            return Http1Answer(response, session, self._where, "decode", idle=self._config.sock_idle)
        raise failure  # here, where aiohttp's error is not its context: that one holds the request's headers

    async def aclose(self) -> None:
        """See `Transport`."""
        self._latest = None
        shared = self._loans.pop(asyncio.get_running_loop(), None)
        if shared is not None:
            await give_back(shared)

    def session(self) -> aiohttp.ClientSession:
        """The running loop's session; soon after a stale connection, the one that keeps none."""
        loop = asyncio.get_running_loop()
        latest = self._latest  # read once: loops in other threads set it too
        kept = loop.time() >= self._distrusts_until
        if kept and latest is not None and latest[0] is loop:
            return latest[1]
        session = self.shared().of(checked=not self._config.allow_link_local, kept=kept)
        self._latest = (loop, session) if kept else None
        return session

    def shared(self) -> SharedSession:
        """The running loop's sessions with what lives beside them, borrowed at the first call."""
        loop = asyncio.get_running_loop()
        shared = self._loans.get(loop)
        if shared is None:
            for _ in of_closed_loops(self._loans):
                pass  # whoever borrows next on any loop abandons them
            shared = self._loans[loop] = borrow()
        return shared

    async def _load_tls(self) -> ssl.SSLContext:
        ca_file, insecure = self._config.ca_file, self._config.insecure_tls
        try:
            return await asyncio.to_thread(context_for, ca_file, insecure=insecure)
        except OSError as error:
            raise no_certificates(self._where, ca_file, error) from None


_LOOKS = 32
"""How often a wait is looked at until it is too long: it may last longer than its limit by one look."""


class Http1Answer:
    """An `Answer`.

    `idle` bounds each wait for more of the body, in seconds. It is kept by one timer that looks now and then whether it
    is still the same wait, so that an event sets no timer and reads no clock: aiohttp's own (`sock_read`) is set anew
    with whatever comes, which costs a third of a paced stream. `read` does by itself what aiohttp's `readany` does in
    two more coroutines (docs/decisions/live-events.md), and joins what waits before it is taken, not after.
    """

    def __init__(
        self,
        response: aiohttp.ClientResponse,
        session: aiohttp.ClientSession,
        where: str,
        phase: Phase,
        *,
        idle: float | None = None,
    ) -> None:
        version = response.version or aiohttp.HttpVersion11
        self.status = response.status
        self.headers: Mapping[str, str] = headers_of(response.headers.items())
        self.http_version = f"{version.major}.{version.minor}"
        self._response = response
        self._session = session
        content = self._content = response.content
        no_body = isinstance(content, EmptyStreamReader)
        self._arrived: deque[bytes] = deque() if no_body else content._buffer  # noqa: SLF001
        body = None if no_body else Body.of(content)
        self._take = partial(content._read_nowait, -1) if body is None else body.take_all  # noqa: SLF001
        self._where = where
        self._phase: Phase = phase
        self._failure: WorkerError | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._idle = idle
        self._seen: asyncio.Future[None] | None = None  # the wait that was last looked at
        self._looks = 0  # since it was first seen
        self._closed = False
        self._timer = None if idle is None else self._loop.call_later(idle / _LOOKS, _look_at, ref(self))

    @property
    def ended(self) -> bool:
        """See `Answer`."""
        return self._content.at_eof()

    async def read(self) -> bytes:
        """See `Answer`."""
        content = self._content
        while not self._arrived:
            if self._failure is not None:
                raise self._failure
            if self._waiter is not None:
                raise RuntimeError("two tasks read one answer; let one of them do it")
            try:
                if (broken := content.exception()) is not None:
                    raise broken
                if content.is_eof():
                    return b""
                content._waiter = self._waiter = self._loop.create_future()  # noqa: SLF001
                await self._waiter
            except TRANSPORT_FAILURES as error:
                broken = ClosedHere() if self._session.closed else error
                self._failure = error_of_exception(broken, self._where, self._phase)
            finally:
                content._waiter = self._waiter = None  # noqa: SLF001
        return self._take()

    def close(self) -> None:
        """See `Answer`."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        if not self._content.at_eof():  # else aiohttp took the connection back at the body's end
            self._response.close()

    def __del__(self) -> None:
        """Drop the connection of an answer that nobody closed: a callback of its own would keep it for ever."""
        if not getattr(self, "_closed", True) and not self._content.at_eof():
            with suppress(RuntimeError):  # the loop is closed, and its sockets with it
                self._loop.call_soon_threadsafe(self._response.close)  # whose thread need not be the collector's

    def look(self) -> None:
        """End a wait that is too long, or look again, until nothing more is to come."""
        assert self._idle is not None  # noqa: S101  # else there is no timer
        if self._content.is_eof():
            return
        if self._waiter is None or self._waiter is not self._seen:
            self._seen, self._looks = self._waiter, 0
        else:
            self._looks += 1
        if self._looks < _LOOKS:
            self._timer = self._loop.call_later(self._idle / _LOOKS, _look_at, ref(self))
        else:
            self._content.set_exception(aiohttp.SocketTimeoutError())


def _look_at(answer: ReferenceType[Http1Answer]) -> None:
    """A timer's look at an answer, which it does not keep alive."""
    if (alive := answer()) is not None:
        alive.look()


def _in_pieces(body: bytes | None) -> bytes | io.BytesIO | None:
    """A large body as a file: aiohttp writes bytes in one go, which would hold the loop."""
    return io.BytesIO(body) if body is not None and _is_large(body) else body


def _is_large(body: bytes | None) -> bool:
    return body is not None and len(body) >= MIB
