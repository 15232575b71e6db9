"""aiohttp's response, mended where it would wait, repeat, or keep a connection that it should not."""

import asyncio
import ssl
from functools import partial
from typing import cast
from weakref import WeakSet

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection

from ._errors import BrokenConnection, OnlyInterim, StaleConnection

_INTERIM = 8
"""1xx heads that may come before an answer's own; both engines send none."""

_kept: WeakSet[ResponseHandler] = WeakSet()
"""Connections that have carried an answer."""


class Response(aiohttp.ClientResponse):
    """A response that differs from aiohttp's in seven ways.

    - A request that said Connection: close is its connection's last, though the answer say Keep-Alive.
    - A body whose framing is broken ends with its connection, instead of never.
    - A kept connection on which something came unasked is stale: it would be taken for the answer to this request.
    - A connection that ends before the head says whether it was a kept one, and only then aiohttp repeats a GET.
    - A connection is dropped at once, also over TLS, where the peer would be given 30 s to say goodbye.
    - A head is waited for with one timer, not with another for whatever comes of it.
    - 1xx heads are counted, and a silence after one is too long when any other is: aiohttp's timer stops at each.
    """

    _interim = 0

    @property
    def _continue(self) -> None:  # type: ignore[override]  # nobody sets it: no request of ours says Expect
        """Nobody is asked to go on here; aiohttp looks at it after each 1xx head, and nowhere else."""
        self._interim += 1
        if self._interim > _INTERIM:
            raise OnlyInterim
        cast("ResponseHandler", self._protocol).start_timeout()

    async def start(self, connection: Connection) -> aiohttp.ClientResponse:
        """Wait for the head."""
        protocol = cast("ResponseHandler", connection.protocol)  # None only once the connection was let go of
        if self.request_info.headers.get("Connection") == "close":
            protocol.force_close()
        kept = protocol in _kept
        if kept and (protocol._buffer or protocol._tail):  # noqa: SLF001  # the request is only just written
            raise StaleConnection
        lost = protocol.closed
        if not kept and lost is not None:
            _kept.add(protocol)
            lost.add_done_callback(_take)
        limit, timer = protocol.read_timeout, protocol._read_timeout_handle  # noqa: SLF001
        if timer is not None:  # the request is written; what comes of the head stops this one no more, and sets none
            protocol.read_timeout = protocol._read_timeout_handle = None  # noqa: SLF001
        try:
            await super().start(connection)
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError) as error:
            raise _ended_before_the_head(error, kept=kept) from error
        finally:
            if timer is not None:
                timer.cancel()
        if timer is not None and protocol.is_connected() and not self.content.is_eof():
            protocol.read_timeout = limit
            protocol.start_timeout()
        if lost is not None and not self.content.is_eof():
            ended = partial(self._connection_lost, protocol)
            lost.add_done_callback(ended)
            self.content.on_eof(lambda: lost.remove_done_callback(ended))  # type: ignore[arg-type]  # it gives a count
        return self

    def close(self) -> None:
        """Drop the connection."""
        if self.connection is not None and self.connection.transport is not None:
            self.connection.transport.abort()
        super().close()

    def _connection_lost(self, protocol: ResponseHandler, lost: asyncio.Future[None]) -> None:
        broken = lost.cancelled() or lost.exception()
        if not self.content.is_eof() and self.content.exception() is None:
            self.content.set_exception(protocol.exception() or aiohttp.ClientPayloadError(str(broken)))


def _ended_before_the_head(
    error: aiohttp.ClientOSError | aiohttp.ServerDisconnectedError, *, kept: bool
) -> BrokenConnection | StaleConnection:
    begun = not isinstance(getattr(error, "message", ""), str)  # then it is the part of the head that had come
    ended = StaleConnection() if kept and not begun else BrokenConnection()
    ended.errno = None if isinstance(error.__cause__, ssl.SSLError) else getattr(error, "errno", None)
    if isinstance(ended, BrokenConnection):
        ended.begun = begun
    return ended


def _take(lost: asyncio.Future[None]) -> None:
    """Take the reason why a connection ended, or the loop would log it as never retrieved."""
    if not lost.cancelled():
        lost.exception()
