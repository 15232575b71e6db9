"""One client's connection to a scripted engine: its requests and their replies, one after the other."""

import asyncio
import json
import socket
import struct
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

from ._live import Cut, LiveReply
from ._message import layout
from ._reply import Ending, Reply

_RequestEnding = Literal["left", "answered", "stopped"]


@dataclass(eq=False)
class Request:
    """A request as an engine received it; `headers` have lower-case names.

    `ending` is None while the reply streams, then `left` (the client went away before the end of it), `answered` (the
    reply was brought to its end, as scripted) or `stopped` (the engine was closed, or its script failed). `number`
    counts the requests of its connection from 0; moments are on `time.monotonic()`; `sent` counts the bytes written.
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)
    keeps_alive: bool
    number: int = 0
    sent: int = 0
    received_at: float = field(default_factory=time.monotonic)
    ended_at: float | None = None
    ending: _RequestEnding | None = None
    _ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def route(self) -> tuple[str, str]:
        """What scripts are keyed by: method and path."""
        return self.method, self.path

    def json(self) -> dict[str, Any]:
        """The body, decoded; engines are sent objects."""
        document: dict[str, Any] = json.loads(self.body)
        return document

    async def disconnected(self) -> None:
        """Return as soon as the client has left while its reply streams; raise where the reply ends otherwise."""
        await self._ended.wait()
        if self.ending != "left":
            raise RuntimeError(f"{self.method} {self.path} was {self.ending}; its client did not leave before that")

    def end(self, ending: _RequestEnding) -> None:
        """Note how it ended. The first ending stays."""
        if self.ending is None:
            self.ending, self.ended_at = ending, time.monotonic()
        self._ended.set()


class Connection(asyncio.Protocol):
    """Reads requests, writes what `answer` gives for each, until either side ends it.

    A kept one is dropped where no further request comes for `idle` seconds. `opened` is called once at the start;
    `closed` once at the end, when the connection's task is done as well, with the exception that ended it, if one did.
    """

    def __init__(
        self,
        answer: Callable[[Request], Reply | LiveReply],
        opened: Callable[["Connection"], None],
        closed: Callable[["Connection", BaseException | None], None],
        idle: float | None = None,
    ) -> None:
        self._answer = answer
        self._idle = idle
        self._count = 0
        self._opened = opened
        self._closed = closed
        self._received = bytearray()
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._request: Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._task = asyncio.get_running_loop().create_task(self._serve())
        self._opened(self)

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._more.set()

    def eof_received(self) -> None:
        self._break_off("left")

    def connection_lost(self, _: Exception | None) -> None:
        self._break_off("left")
        self._task.add_done_callback(self._gone)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def stop(self) -> None:
        """Drop the client, whatever state it is in."""
        self._break_off("stopped")
        self._transport.abort()

    def _break_off(self, ending: _RequestEnding) -> None:
        if self._request is not None:
            self._request.end(ending)
        self._task.cancel()

    def _gone(self, task: asyncio.Task[None]) -> None:
        self._closed(self, None if task.cancelled() else task.exception())

    async def _serve(self) -> None:
        try:
            while await self._exchange():
                pass
        finally:
            if self._request is not None:
                self._request.end("stopped")
            self._transport.close()

    async def _exchange(self) -> bool:
        """Answer one request; whether another may follow."""
        request = self._request = await self._next_request()
        if request is None:
            return False
        reply = self._answer(request)
        then = await self._write(reply, request) if isinstance(reply, Reply) else await self._write_live(reply, request)
        if then == "hang":
            await asyncio.Event().wait()  # cancelled when the client leaves or the engine stops
        if then == "reset":
            self._reset()
        request.end("answered")
        self._request = None
        return then == "keep" and request.keeps_alive

    async def _next_request(self) -> Request | None:
        """The next request; None where it is waited for too long after the one before."""
        while (request := self._taken()) is None:
            self._more.clear()
            try:
                async with asyncio.timeout(self._idle if self._count else None):
                    await self._more.wait()
            except TimeoutError:
                return None
        self._count += 1
        return request

    def _taken(self) -> Request | None:
        """The first whole request among the received bytes, which are then rid of it."""
        data = bytes(self._received)
        message = layout(data)
        if message is None or message.end is None:
            return None
        del self._received[: message.end]
        method, target, version = message.first_line.split(" ")
        url = urlsplit(target)
        query = dict(parse_qsl(url.query, keep_blank_values=True))
        keeps_alive = version == "HTTP/1.1" and message.headers.get("connection", "").lower() != "close"
        return Request(method, url.path, query, message.headers, message.body(data), keeps_alive, self._count)

    async def _write(self, reply: Reply, request: Request) -> Ending:
        for index, piece in enumerate(reply.pieces):
            if index and reply.gate is not None:
                await reply.gate(index - 1)
            await self._send(piece, request)
            await turns()
        return reply.then

    async def _write_live(self, reply: LiveReply, request: Request) -> Ending:
        try:
            async with aclosing(reply.pieces) as pieces:
                async for piece in pieces:
                    await self._send(piece, request)
                    await turns(1)
        except Cut as cut:
            return cut.then
        return reply.then

    async def _send(self, piece: bytes, request: Request) -> None:
        self._transport.write(piece)
        request.sent += len(piece)
        await self._writable.wait()

    def _reset(self) -> None:
        sock: socket.socket = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()


async def turns(count: int = 2) -> None:
    """Let the loop go round so many times.

    Two let a client on the same loop receive what was just written, so that the next piece comes to it by itself: in
    one, our own wake-up runs before the client's socket is read.
    """
    for _ in range(count):
        await asyncio.sleep(0)
