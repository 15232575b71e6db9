"""One client's connection to a scripted engine: its requests and their replies, one after the other."""

import asyncio
import json
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, cast
from urllib.parse import parse_qsl, urlsplit

from ._message import layout
from ._reply import Reply

_RequestEnding = Literal["left", "answered", "stopped"]


@dataclass(eq=False)
class Request:
    """A request as an engine received it; `headers` have lower-case names.

    `ending` is None while the reply streams, then `left` (the client went away before the end of it), `answered` (the
    reply was brought to its end, as scripted) or `stopped` (the engine was closed, or its script failed).
    """

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = field(repr=False)
    keeps_alive: bool
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
        self.ending = self.ending or ending
        self._ended.set()


class Connection(asyncio.Protocol):
    """Reads requests, writes what `answer` gives for each, until either side ends it.

    `opened` is called once at the start; `closed` once at the end, when the connection's task is done as well, with
    the exception that ended it, if one did.
    """

    def __init__(
        self,
        answer: Callable[[Request], Reply],
        opened: Callable[["Connection"], None],
        closed: Callable[["Connection", BaseException | None], None],
    ) -> None:
        self._answer = answer
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
        reply = self._answer(request)
        await self._write(reply)
        if reply.then == "hang":
            await asyncio.Event().wait()  # cancelled when the client leaves or the engine stops
        if reply.then == "reset":
            self._reset()
        request.end("answered")
        self._request = None
        return reply.then == "keep" and request.keeps_alive

    async def _next_request(self) -> Request:
        while (request := self._taken()) is None:
            self._more.clear()
            await self._more.wait()
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
        return Request(method, url.path, query, message.headers, message.body(data), keeps_alive)

    async def _write(self, reply: Reply) -> None:
        for index, piece in enumerate(reply.pieces):
            if index and reply.gate is not None:
                await reply.gate(index - 1)
            self._transport.write(piece)
            await self._writable.wait()
            await turns()

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
