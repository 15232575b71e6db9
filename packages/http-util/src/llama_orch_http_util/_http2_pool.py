"""The HTTP/2 connections to one origin, on one event loop: which takes the next stream, and when another is opened."""

import asyncio
from collections.abc import Iterable

import msgspec

from ._connect import Place, connect
from ._errors import AtCapacity, ClosedHere
from ._http2 import Connection
from ._http2_wire import Http2Limits
from ._setbacks import Setback


class Http2Origin(msgspec.Struct, frozen=True, cache_hash=True):
    """What makes clients share connections: where to, whom to trust, and with which limits."""

    place: Place
    where: str
    limits: Http2Limits
    connections: int
    connect: float
    settings_timeout: float

    def pool(self) -> "Http2Pool":
        """Its connections on the running loop: none yet."""
        return Http2Pool(self)


def pick(connections: Iterable[Connection]) -> Connection | None:
    """The one with the fewest streams of those that have room; None if none has."""
    able = [connection for connection in connections if connection.can_open]
    return min(able, key=lambda connection: connection.open_streams, default=None)


class Http2Pool:
    """Opens a connection when all have as many streams as they may, one at a time; whoever waits, waits for that one.

    Nobody waits for a stream to end. A connection at its end leaves by itself; until then it is the pool's to close.
    """

    def __init__(self, origin: Http2Origin) -> None:
        self._origin = origin
        self._connections: list[Connection] = []
        self._ending: set[Connection] = set()  # they take no stream, and have some
        self._opening: asyncio.Task[Exception | None] | None = None
        self._closed = False

    @property
    def connections(self) -> int:
        """How many take streams."""
        return len(self._connections)

    @property
    def open_streams(self) -> int:
        """How many are under way on these, and on those that take no more."""
        return sum(connection.open_streams for connection in (*self._connections, *self._ending))

    async def take(self) -> Connection:
        """One that has room for a stream at this moment. Raises `Setback`, and what aiohttp raises in connecting."""
        for _ in range(2 * self._origin.connections):
            if self._closed:
                raise Setback("closed", ClosedHere())
            connection = pick(self._connections)
            if connection is not None:
                return connection
            if self._opening is None:
                if len(self._connections) >= self._origin.connections:
                    break
                self._opening = asyncio.create_task(self._open())
            opening = self._opening
            await asyncio.wait([opening])  # which a cancelled waiter does not cancel
            if not opening.cancelled() and (failure := opening.result()) is not None:
                raise failure.with_traceback(None)
        raise Setback("crowded", AtCapacity())

    def close(self) -> None:
        """Drop every connection, and open none any more."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        for connection in (*self._connections, *self._ending):
            connection.close()

    async def _open(self) -> Exception | None:
        """Open one more; its failure is given, not raised, for all who wait for it."""
        try:
            self._connections.append(await self._open_one())
        except Exception as failure:  # noqa: BLE001  # whoever waits raises it
            return failure
        finally:
            self._opening = None
        return None

    async def _open_one(self) -> Connection:
        origin = self._origin
        connection = await connect(
            origin.place, lambda: Connection(origin.where, origin.limits, self._gone), origin.connect
        )
        try:
            async with asyncio.timeout(origin.settings_timeout):
                if connection.chosen == "h2":
                    await connection.greeted.wait()
        except TimeoutError:
            pass  # it is not usable
        except BaseException:
            connection.close()
            raise
        if not connection.is_usable:
            connection.close()
            raise connection.setback()
        return connection

    def _gone(self, connection: Connection) -> None:
        if connection in self._connections:
            self._connections.remove(connection)
        if connection.is_over:
            self._ending.discard(connection)
        else:
            self._ending.add(connection)
