"""One request and its answer on an HTTP/2 connection: what came and was not read, and how it ended."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from typing import Any, Protocol

import aiohttp
from llama_orch_adapter_api import Phase, WorkerError

from ._errors import BrokenAnswer, BrokenConnection, ClosedHere, StaleConnection, error_of_exception
from ._setbacks import Reason, Setback

_FINAL = 300
"""From this status on nobody reads the rest of the request."""


class Carrier(Protocol):
    """What a stream asks of its connection."""

    def room(self, number: int) -> int:
        """Bytes that may be sent on this stream now."""

    def send(self, number: int, part: bytes, *, last: bool) -> None:
        """Send a part of the request's body, no larger than the room there is."""

    def acknowledge(self, exchange: "Exchange", size: int) -> None:
        """So many bytes were read: the peer may send as many more."""

    def leave(self, number: int, *, reset: bool) -> None:
        """The stream is over for us; `reset`: the peer, who may not know, is told."""


class Exchange:
    """What an `Http2Answer` reads, once `head` has returned. Its connection and its timer hold on to it until its end.

    What came waits here, at most a window full: the peer is given room again only for what was read. `idle` bounds each
    wait for more, in seconds; one timer looks now and then. Ends by the answer's end, by `fail`, or by `close`.
    """

    def __init__(self, carrier: Carrier, number: int, where: str, *, window: int, idle: float) -> None:
        self.number = number
        self.status = 0
        self.headers: Mapping[str, str] = {}
        self.phase: Phase = "first_token"
        self.sent = False
        self.heard_before = 0  # how often its connection had been heard when it began
        self.bodiless = False  # its answer has no body, whatever length that tells
        self.room = window  # bytes that the peer may still send
        self._missing: int | None = None  # bytes of the length that was told which have not come
        self._carrier = carrier
        self._where = where
        self._window = window
        self._parts: list[bytes] = []
        self._owed = 0  # bytes read, or never to be, for which the peer was not given room again
        self._over = False
        self._closed = False
        self._setback: Setback | None = None
        self._failure: WorkerError | None = None
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._waits_since = 0.0
        self._idle = idle
        self._timer = self._loop.call_later(idle, self._look)

    @property
    def ended(self) -> bool:
        """See `Answer`."""
        return self._over and not self._parts and self._setback is None

    @property
    def is_too_long(self) -> bool:
        """Whether more came than was told."""
        return self._missing is not None and self._missing < 0

    @property
    def is_too_short(self) -> bool:
        """Whether less came than was told."""
        return self._missing is not None and self._missing > 0

    async def upload(self, body: bytes) -> None:
        """Send the body as the peer has room for it; an answer that refuses the request ends it before, or a failure.

        Which failure `head` tells, or `read` where the head had come: what was answered is not sent again.
        """
        at = 0
        while not self.sent and not self._over and self.status < _FINAL:
            room = self._carrier.room(self.number)
            if room or at == len(body):
                part = body[at : at + room]
                at += len(part)
                self.sent = at == len(body)
                self._carrier.send(self.number, part, last=self.sent)
            else:
                await self._wait()

    async def head(self) -> None:
        """Wait for the answer's head. Raises `Setback`."""
        while not self.status:
            if self._setback is not None:
                raise self._setback
            await self._wait()

    def answer(self) -> "Http2Answer":
        """What whoever asked holds of it."""
        return Http2Answer(self)

    async def read(self) -> bytes:
        """See `Answer`."""
        while not self._parts:
            if self._setback is not None:
                if self._failure is None:
                    self._failure = error_of_exception(self._setback.error, self._where, self.phase)
                raise self._failure
            if self._over:
                return b""
            await self._wait()
            if not self._parts:  # perhaps padding came, and nothing else
                self._give_room()
        parts, self._parts = self._parts, []
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        self._owed += len(data)
        self._give_room()
        return data

    def close(self) -> None:
        """See `Answer`: a stream that is not over is reset; to whoever reads it yet, that is no good end."""
        if self._closed:
            return
        self._closed = True
        whole = self._over and not self._parts
        self._parts.clear()
        if not self._over:
            self._carrier.leave(self.number, reset=True)
        if not whole and self._setback is None:
            self.fail("closed")

    def forget(self) -> None:
        """Nobody holds its answer any more: close it on its loop, whose thread need not be the collector's."""
        if not self._closed and not self._over:
            with suppress(RuntimeError):  # the loop is closed, and its sockets with it
                self._loop.call_soon_threadsafe(self.close)

    def began(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        """The head is here; `length` of the body, where it tells that."""
        self.status = status
        self.headers = headers
        self._missing = length
        self.wake()

    def came(self, data: bytes, padding: int) -> None:
        """A part of the body is here; its padding counts as read."""
        self._owed += padding
        if data:
            self._parts.append(data)
            if self._missing is not None:
                self._missing -= len(data)
        self.wake()

    def finished(self) -> None:
        """The answer is whole. Of a request that was not, the rest will not be sent."""
        self._over = True
        self._timer.cancel()
        self._carrier.leave(self.number, reset=not self.sent)
        self.wake()

    def fail(self, reason: Reason, told: str | None = None, errno: int | None = None) -> None:
        """The peer, the connection or we ended it: `told` is the peer's reason, `errno` the system's."""
        if reason == "closed":
            self._end(Setback(reason, ClosedHere()))
            return
        broken = StaleConnection if reason == "stale" else BrokenConnection
        error = BrokenAnswer() if self.status else broken()
        error.told, error.errno = told, errno
        self._end(Setback(reason, error))

    def wake(self) -> None:
        """Whoever waits looks again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _end(self, setback: Setback) -> None:
        self._over = True
        self._setback = setback
        self._timer.cancel()
        self.wake()

    def _give_room(self) -> None:
        if 2 * self._owed >= self._window and not self._over:
            self.room += self._owed
            self._carrier.acknowledge(self, self._owed)
            self._owed = 0

    async def _wait(self) -> None:
        if self._waiter is not None:
            raise RuntimeError("two tasks read one answer; let one of them do it")
        self._waiter = self._loop.create_future()
        self._waits_since = self._loop.time()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _look(self) -> None:
        """End a wait that is too long, or look again when it would be."""
        waited = 0.0 if self._waiter is None else self._loop.time() - self._waits_since
        if waited < self._idle:
            self._timer = self._loop.call_later(self._idle - waited, self._look)
            return
        self._carrier.leave(self.number, reset=True)
        self._end(Setback("broken", aiohttp.SocketTimeoutError()))


class Http2Answer:
    """An `Answer`: what whoever asked holds of an exchange, which is reset when nobody holds it any more."""

    http_version = "2"

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self.status = exchange.status
        self.headers = exchange.headers

    @property
    def ended(self) -> bool:
        """See `Answer`."""
        return self._exchange.ended

    def read(self) -> Coroutine[Any, Any, bytes]:
        """See `Answer`."""
        return self._exchange.read()

    def close(self) -> None:
        """See `Answer`."""
        self._exchange.close()

    def __del__(self) -> None:
        self._exchange.forget()
