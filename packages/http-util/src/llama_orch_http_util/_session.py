"""One aiohttp session per event loop, shared by all clients on it and closed by the last one to let go."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Coroutine, Hashable, Iterator
from contextlib import suppress
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import aiohttp

from ._resolver import CheckedResolver
from ._response import Response

KEEPALIVE = 3.0
"""Seconds an idle connection is kept. Both engines drop theirs at 5 s, and a request on a dropped one is lost."""

READ_BUFFER = 64 * 1024
RECEIVE_BUFFER = 128 * 1024
"""SO_RCVBUF in bytes: with the kernel's default a stopped consumer holds 4 MB in flight, with this 640 KB."""


HEADERS = {"Accept-Encoding": "identity", "User-Agent": "llama-orch"}
"""What every request says."""


class Closable(Protocol):
    """What lives beside the session, and ends with it."""

    def close(self) -> None:
        """Let go of all sockets, at once."""


class SharedSession:
    """The session of one loop and how many clients hold it; `beside` it live the pools of HTTP/2.

    What nobody closes, the loop closes: at its end it closes the async generators that it has seen begin.
    """

    def __init__(self) -> None:
        self.borrowers = 0
        self.beside: dict[Hashable, Closable] = {}
        self._opened: dict[tuple[bool, bool], aiohttp.ClientSession] = {}
        self.session = self.of()
        self._ending = False
        self._life = self._until_closed()
        _run_now(self._life.asend(None))

    def of(self, *, checked: bool = True, kept: bool = True) -> aiohttp.ClientSession:
        """The session for requests of one kind, opened when first asked for.

        Not `checked`: for those who may go to link-local addresses; nobody else is handed a connection of theirs. Not
        `kept`: each request has a new connection, which is closed after it.
        """
        session = self._opened.get((checked, kept))
        if session is None:
            session = self._opened[checked, kept] = _open_session(checked=checked, kept=kept)
        return session

    async def close(self) -> None:
        """Close the session; from now on the running loop's next borrower gets another. May be called again."""
        loop = asyncio.get_running_loop()
        if _sessions.get(loop) is self:
            del _sessions[loop]
        for pool in self.beside.values():
            pool.close()
        await asyncio.gather(*(session.close() for session in self._opened.values()))
        if not self._ending:  # else the loop is, and on its way through `_until_closed`
            await self._life.aclose()

    def abandon(self) -> None:
        """Let go of the session of a loop that was closed under it and can run nothing any more."""
        for session in self._opened.values():
            connector = session.connector
            session.detach()
            if connector is not None:
                _run_now(connector.close())  # type: ignore[arg-type]  # it is a coroutine, though declared Awaitable

    async def _until_closed(self) -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            self._ending = True
            await self.close()


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, SharedSession] = WeakKeyDictionary()


def borrow() -> SharedSession:
    """The running loop's session, counted once more."""
    loop = asyncio.get_running_loop()
    shared = _sessions.get(loop)
    if shared is None:
        for left in of_closed_loops(_sessions):
            left.abandon()
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


def of_closed_loops(sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, SharedSession]) -> Iterator[SharedSession]:
    """The sessions of loops that are closed, each taken out: it holds its loop, which would never be let go of."""
    for reference in sessions.keyrefs():  # a list, whatever other threads' loops do meanwhile
        loop = reference()
        if loop is not None and loop.is_closed() and (shared := sessions.pop(loop, None)):
            yield shared


def _open_session(*, checked: bool, kept: bool) -> aiohttp.ClientSession:
    resolver = CheckedResolver() if checked else aiohttp.ThreadedResolver()
    lasting = {"keepalive_timeout": KEEPALIVE} if kept else {"force_close": True}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, socket_factory=_open_socket, resolver=resolver, **lasting),
        response_class=Response,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=HEADERS,
        auto_decompress=False,
        trust_env=False,
        read_bufsize=READ_BUFFER,
    )


def _open_socket(address: tuple[Any, ...]) -> socket.socket:
    family, kind, protocol, _, _ = address
    opened = socket.socket(family, kind, protocol)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
    return opened
