"""An engine that does what its script says, on a real socket of the loopback interface."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from ._connection import Connection, Request, turns
from ._live import LiveReply
from ._reply import Reply

Script = Mapping[tuple[str, str], Reply | Sequence[Reply]] | Callable[[Request], Reply | LiveReply]
"""By (method, path), a reply or one for each request in turn, the last one for all further; or a function."""


_BACKLOG = 1024
"""Connections that may wait to be accepted."""


class LoopbackEngine:
    """A server on 127.0.0.1, at `port` or a free one, that lives as long as its `async with` block.

    What the script does not name gets a 404. An exception in the script, in a gate or in reading a request closes
    that connection and is raised where the block ends. With a context of a server as `tls` it speaks https. It drops
    a kept connection on which no further request comes for `idle` seconds. `send_buffer`
    bounds, in bytes, what the system takes of an answer that nobody reads.
    """

    def __init__(
        self,
        script: Script,
        *,
        tls: ssl.SSLContext | None = None,
        idle: float | None = None,
        send_buffer: int | None = None,
        port: int = 0,
    ) -> None:
        self.requests: list[Request] = []
        self.connections_made = 0
        self._script = script
        self._tls = tls
        self._idle = idle
        self._send_buffer = send_buffer
        self._port = port
        self._connections: set[Connection] = set()
        self._failures: list[BaseException] = []
        self._changed = asyncio.Event()

    @property
    def url(self) -> str:
        """The base URL, without a slash at its end."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    @property
    def open_connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    @property
    def failures(self) -> tuple[BaseException, ...]:
        """What the script, a gate or the reading of a request raised so far."""
        return tuple(self._failures)

    async def request(self, index: int = 0) -> Request:
        """The request of that 0-based number, as soon as it is in."""
        await self._until(lambda: len(self.requests) > index)
        return self.requests[index]

    async def deserted(self) -> None:
        """Return as soon as no connection is open."""
        await self._until(lambda: not self._connections)

    async def __aenter__(self) -> Self:
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: Connection(self._answer, self._opened, self._closed, self._idle),
            "127.0.0.1",
            self._port,
            ssl=self._tls,
            backlog=_BACKLOG,
        )
        if self._send_buffer is not None:
            for listening in self._server.sockets:  # those that it accepts take it over
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_buffer)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._stop_listening()
        for connection in self._connections:
            connection.stop()
        await self.deserted()
        await self._server.wait_closed()
        if self._failures and error is None:
            raise self._failures[0]

    async def _stop_listening(self) -> None:
        """Close the server when no connection is halfway accepted: CPython 3.11 would leave that one open for ever."""
        for listening in self._server.sockets:
            asyncio.get_running_loop().remove_reader(listening.fileno())
        await turns(4)  # the steps in which asyncio accepts
        self._server.close()

    def _opened(self, connection: Connection) -> None:
        self.connections_made += 1
        self._connections.add(connection)

    def _closed(self, connection: Connection, failure: BaseException | None) -> None:
        self._connections.discard(connection)
        if failure is not None:
            self._failures.append(failure)
        self._tell()

    def _answer(self, request: Request) -> Reply | LiveReply:
        """Note the request, and say what it gets."""
        self.requests.append(request)
        self._tell()
        if callable(self._script):
            return self._script(request)
        scripted = self._script.get(request.route)
        if scripted is None:
            return Reply.json(404, {"error": f"nothing is scripted for {request.method} {request.path}"})
        if isinstance(scripted, Reply):
            return scripted
        earlier = sum(each.route == request.route for each in self.requests) - 1
        return scripted[min(earlier, len(scripted) - 1)]

    def _tell(self) -> None:
        """Wake those who wait in `_until`."""
        self._changed.set()
        self._changed = asyncio.Event()

    async def _until(self, holds: Callable[[], bool]) -> None:
        while not holds():
            await self._changed.wait()
