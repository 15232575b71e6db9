"""One aiohttp session per event loop, shared by all clients on it and closed by the last one to let go."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any, cast
from weakref import WeakKeyDictionary

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

KEEPALIVE = 3.0
"""Seconds an idle connection is kept. Both engines drop theirs at 5 s, and a request on a dropped one is lost."""

READ_BUFFER = 64 * 1024
RECEIVE_BUFFER = 128 * 1024
"""SO_RCVBUF in bytes: with the kernel's default a stopped consumer holds 4 MB in flight, with this 640 KB."""


class _Answer(aiohttp.ClientResponse):
    """A response that mends two of aiohttp's ways.

    A request that said Connection: close is its connection's last, though the answer say Keep-Alive. And a body whose
    framing is broken ends with its connection: aiohttp would wait for the rest of it for ever, `sock_read` or not.
    """

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        protocol = cast("ResponseHandler", connection.protocol)  # None only once the connection was let go of
        if self.request_info.headers.get("Connection") == "close":
            protocol.force_close()
        await super().start(connection)
        lost = protocol.closed
        if lost is not None:
            lost.remove_done_callback(_take)
            lost.add_done_callback(_take)
            ended = partial(self._connection_lost, protocol)
            lost.add_done_callback(ended)
            self.content.on_eof(lambda: lost.remove_done_callback(ended))  # type: ignore[arg-type]  # it gives a count
        return self

    def _connection_lost(self, protocol: ResponseHandler, lost: asyncio.Future[None]) -> None:
        broken = lost.cancelled() or lost.exception()
        if not self.content.is_eof() and self.content.exception() is None:
            self.content.set_exception(protocol.exception() or aiohttp.ClientPayloadError(str(broken)))


def _take(lost: asyncio.Future[None]) -> None:
    """Take the reason why a connection ended, or the loop would log it as never retrieved."""
    if not lost.cancelled():
        lost.exception()


class SharedSession:
    """The session of one loop and how many clients hold it."""

    def __init__(self) -> None:
        self.borrowers = 0
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE, socket_factory=_open_socket),
            response_class=_Answer,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity", "User-Agent": "llama-orch"},
            auto_decompress=False,
            trust_env=False,
            read_bufsize=READ_BUFFER,
        )
        self._ending = False
        self._life = self._held_open()
        _run_now(self._life.asend(None))

    async def close(self) -> None:
        """Close the session; from now on the running loop's next borrower gets another."""
        self._leave()
        await self.session.close()
        if not self._ending:  # else the loop is at its end, and on its way through `_held_open`
            await self._life.aclose()

    def abandon(self) -> None:
        """Let go of the session of a loop that was closed under it and can run nothing any more."""
        connector = self.session.connector
        self.session.detach()
        if connector is not None:
            _run_now(connector.close())  # type: ignore[arg-type]  # it is a coroutine, though declared Awaitable

    async def _held_open(self) -> AsyncGenerator[None, None]:
        """Hold the session until closed; what nobody closes, the loop closes at its end (`shutdown_asyncgens`)."""
        try:
            yield
        finally:
            self._ending = True
            self._leave()
            await self.session.close()

    def _leave(self) -> None:
        loop = asyncio.get_running_loop()
        if _sessions.get(loop) is self:
            del _sessions[loop]


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, SharedSession] = WeakKeyDictionary()


def borrow() -> SharedSession:
    """The running loop's session, counted once more."""
    loop = asyncio.get_running_loop()
    shared = _sessions.get(loop)
    if shared is None:
        _forget_closed_loops()
        shared = _sessions[loop] = SharedSession()
    shared.borrowers += 1
    return shared


async def give_back(shared: SharedSession) -> None:
    """Count one borrower less; the last one closes the session."""
    shared.borrowers -= 1
    if not shared.borrowers:
        await shared.close()


def _run_now(steps: Coroutine[Any, Any, None]) -> None:
    """Run what has nothing to wait for."""
    with suppress(StopIteration):
        steps.send(None)


def _forget_closed_loops() -> None:
    for reference in _sessions.keyrefs():  # a list, whatever other threads' loops do meanwhile
        loop = reference()
        if loop is not None and loop.is_closed() and (shared := _sessions.pop(loop, None)):
            shared.abandon()


def _open_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return opened
