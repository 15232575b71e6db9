"""One client's connection: what is answered to bytes that are no request, and how long one may take to come."""

import asyncio
from typing import Any

import msgspec
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from llama_orch_adapter_api import AdapterError, Error, InternalError, WorkerError, get_logger

logger = get_logger(__name__)

SERVER = "orchestratord"
"""What answers name as their server: no versions, which would tell what it can be hurt by."""

HEADERS = 64
"""Lines that the head of a request may have."""

HEAD_PATIENCE = 20.0
"""Seconds in which the first request of a connection must have come, TLS not counted."""

KEEPALIVE = 75.0
"""Seconds that a connection may stay without a request."""


class Connections:
    """Those that are open."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._none = asyncio.Event()
        self._none.set()

    def add(self, connection: "Connection") -> None:
        """One more."""
        self._open.add(connection)
        self._none.clear()

    def discard(self, connection: "Connection") -> None:
        """One less."""
        self._open.discard(connection)
        if not self._open:
            self._none.set()

    async def gone(self, patience: float) -> None:
        """Wait until all have closed, and cut those that have not after so many seconds: TLS asks the client first."""
        try:
            async with asyncio.timeout(patience):
                await self._none.wait()
        except TimeoutError:
            for connection in self._open:
                connection.cut()
            await self._none.wait()


class Connection(web.RequestHandler):
    """aiohttp's own, with a limit of time, and without the bytes of the client in logs and answers."""

    __slots__ = ("_connections", "_line", "_patience")

    def __init__(
        self, server: web.Server, loop: asyncio.AbstractEventLoop, max_line: int, connections: Connections
    ) -> None:
        super().__init__(
            server,
            loop=loop,
            keepalive_timeout=KEEPALIVE,
            logger=logger,
            access_log=None,  # type: ignore[arg-type]  # which it takes for none
            max_line_size=max_line,
            max_field_size=max_line,
            max_headers=HEADERS,
            auto_decompress=False,
        )
        self._connections = connections
        self._line: asyncio.BaseTransport | None = None
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for a request."""
        super().connection_made(transport)
        self._line = transport
        self._connections.add(self)
        self._patience = asyncio.get_running_loop().call_later(HEAD_PATIENCE, transport.close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Wait no longer."""
        self.heard()
        self._connections.discard(self)
        super().connection_lost(exc)

    def cut(self) -> None:
        """Close it without a word to the client."""
        if isinstance(self._line, asyncio.WriteTransport):
            self._line.abort()

    def heard(self) -> None:
        """A request has come."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002  # as aiohttp calls it
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002
    ) -> web.StreamResponse:
        """The answer to what is no request of HTTP, and to a handler that failed; the connection is closed after it."""
        self.heard()
        if not isinstance(exc, HttpProcessingError):
            logger.error("%s %s failed; report it", request.method, request.path, exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        code, error = _told(exc)
        body, headers = msgspec.json.encode(Error.of(error)), {"Server": SERVER}
        answer = web.Response(status=code, body=body, content_type="application/json", headers=headers)
        answer.force_close()
        return answer


def _told(exc: BaseException | None) -> tuple[int, WorkerError]:
    if not isinstance(exc, HttpProcessingError):
        return 500, InternalError("the orchestrator failed · report it", detail="host")
    if isinstance(exc, LineTooLong) or exc.message.startswith("Too many headers"):
        return 431, AdapterError(
            f"the request's head is too large · send lines of at most server.max_header bytes, {HEADERS} at most",
            detail="bad_request",
        )
    return 400, AdapterError(f"this is no request of HTTP/1.1 ({type(exc).__name__})", detail="bad_request")


def heard(request: web.Request) -> None:
    """Tell its connection that a request has come."""
    protocol: Any = request.protocol
    if isinstance(protocol, Connection):
        protocol.heard()
