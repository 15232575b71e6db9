"""Listening, and stopping: refuse new tasks, let running ones end, close."""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

from aiohttp import web
from llama_orch_adapter_host import ConfigError

from ._config import ServerSettings, unheard
from ._connection import Connection, Connections
from ._tls import TLS, Tls, tls_context

BACKLOG = 1024
"""Connections that the system keeps while we come to accept them."""

HANDSHAKE = 10.0
"""Seconds in which a client must have agreed on TLS."""

LAST_WORDS = 0.2
"""Seconds that a client has, when all is over, to answer that TLS ends."""

LAST_WRITES = 2.0
"""Seconds that answers may take which are being written when all tasks are over."""


class Signals:
    """SIGINT and SIGTERM: the first one asks to stop, the second one to do so at once.

    Before `serving` is called, nothing is to be drained, and a signal cancels the task that it was made in.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.current_task()
        self._serving = False
        self._asked = asyncio.Event()
        self._urged = asyncio.Event()
        self.first: signal.Signals | None = None

    def come(self, number: signal.Signals) -> None:
        """One has come."""
        if self._asked.is_set():
            self._urged.set()
        self.first = self.first or number
        self._asked.set()
        if not self._serving and self._task is not None:
            self._task.cancel()

    async def asked(self) -> None:
        """Wait for the first; from now on signals cancel nothing."""
        self._serving = True
        await self._asked.wait()

    async def urged(self) -> None:
        """Wait for the second."""
        await self._urged.wait()


@contextlib.contextmanager
def signals() -> Iterator[Signals]:
    """Within the block, they come to it instead of ending the process. Main thread only."""
    loop = asyncio.get_running_loop()
    heard = Signals()
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    for number in numbers:
        loop.add_signal_handler(number, heard.come, number)
    try:
        yield heard
    finally:
        for number, handler in zip(numbers, before, strict=True):
            loop.remove_signal_handler(number)
            signal.signal(number, handler)


@contextlib.asynccontextmanager
async def listening(app: web.Application, settings: ServerSettings) -> AsyncIterator[str]:
    """Serve an application within the block, which gets its base URL. Raises `ConfigError` where it cannot listen."""
    tls = None if settings.tls is None else Tls(await asyncio.to_thread(tls_context, settings.tls))
    if tls is not None:
        app[TLS] = tls
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=LAST_WRITES)
    connections = Connections()
    try:
        await runner.setup()
        server = await _listen(runner, settings, tls, connections)
        try:
            yield _url(server, settings)
        finally:
            await _hang_up(server)
    finally:
        await runner.cleanup()
        await connections.gone(LAST_WORDS)


async def _listen(
    runner: web.AppRunner, settings: ServerSettings, tls: Tls | None, connections: Connections
) -> asyncio.Server:
    loop, address = asyncio.get_running_loop(), settings.address
    manager = runner.server
    assert manager is not None  # noqa: S101  # it is set up

    def connection() -> Connection:
        return Connection(manager, loop, settings.max_header, connections)

    secured: dict[str, Any] = {} if tls is None else {"ssl": tls.context, "ssl_handshake_timeout": HANDSHAKE}
    try:
        return await loop.create_server(connection, address.host, address.port, backlog=BACKLOG, **secured)
    except OSError as error:
        raise ConfigError([unheard(address, error)]) from None


async def _hang_up(server: asyncio.Server) -> None:
    """Accept no more. A connection of this very turn is taken yet: closing under it makes asyncio stumble."""
    loop = asyncio.get_running_loop()
    for listener in server.sockets:
        loop.remove_reader(listener.fileno())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    server.close()


def _url(server: asyncio.Server, settings: ServerSettings) -> str:
    port = server.sockets[0].getsockname()[1]
    scheme = "http" if settings.tls is None else "https"
    return f"{scheme}://{settings.address._replace(port=port)}"


async def until_urged(signals: Signals, drain: Coroutine[Any, Any, None]) -> None:
    """Drain until that is done, or until a second signal gives it up."""
    loop = asyncio.get_running_loop()
    draining, urged = loop.create_task(drain), loop.create_task(signals.urged())
    try:
        await asyncio.wait([draining, urged], return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in (draining, urged):
            task.cancel()
        await asyncio.wait([draining, urged])
    if not draining.cancelled():
        draining.result()
