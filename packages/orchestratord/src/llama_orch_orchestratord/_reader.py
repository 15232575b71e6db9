"""Who reads a task's stream: an HTTP response that frames are written to, never faster than its client takes them."""

import asyncio
import socket
from collections import deque

import msgspec
from aiohttp import web

from ._job import Job
from ._sse import HEARTBEAT, narration

BOUND = 32 * 1024
"""Bytes that wait here for a client before its engine has to; the system's own buffer is set to the same."""

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}

_SENTENCES = 8
"""How many wait for their turn; the oldest give way."""


class Manner(msgspec.Struct, frozen=True):
    """How a stream is written. Spans in seconds; `heartbeat` 0 is none.

    `patience` is how long a client may take nothing at all before it counts as gone.
    """

    heartbeat: float
    narration: bool
    narration_every: float
    batch: bool
    patience: float


class Reader:
    """One response, from its head to its end.

    Frames are written by the task itself, in the same turn of the loop in which its token came. The handler waits
    beside it and writes what is not the task's, heartbeats and narration, only where nothing waits to be sent: two
    writers that wait for one client would be woken by one future, which dies with whichever is cancelled first.
    In batches, the frames that come within a moment after one that was written wait in the outbox for that to be over.
    """

    def __init__(self, job: Job, request: web.Request, manner: Manner) -> None:
        self._job = job
        self.response = web.StreamResponse(headers=_HEADERS)
        self._request = request
        self._writer = request.writer
        self._protocol = request.protocol
        self._manner = manner
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._written = 0  # frames; compared with what was seen at the last look
        self._seen = 0
        self._moved = self._loop.time()
        self._next_look = self._moved + self._period
        self._sentences: deque[str] = deque(maxlen=_SENTENCES)
        self._next_sentence = 0.0
        self._window: asyncio.TimerHandle | None = None
        self._left = False

    @property
    def _period(self) -> float:
        manner = self._manner
        return min(manner.heartbeat, manner.patience) if manner.heartbeat else manner.patience

    async def write(self, frame: bytes) -> None:
        """Send a frame, and wait while more than the bound waits. Raises `ConnectionError` where the client is gone."""
        await self._send(frame)
        if self._manner.batch:
            self._hold()

    def tell(self, sentence: str) -> None:
        """A line of narration, to be written when its turn comes."""
        self._sentences.append(sentence)
        self._woken.set()

    async def serve(self) -> None:
        """Write all that the task has to say. Raises `ConnectionError`, `TimeoutError` where the client is gone."""
        await self.response.prepare(self._request)
        self._bound()
        self._writer.send_headers()
        self._job.outbox.on_change = self._woken.set
        try:
            await self._attend()
            async with asyncio.timeout(self._manner.patience):
                await self.response.write_eof()
        finally:
            self._leave()

    def abort(self) -> None:
        """Cut the connection: its client takes nothing any more."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _attend(self) -> None:
        outbox = self._job.outbox
        while True:
            while outbox:
                async with asyncio.timeout(self._manner.patience):
                    await self._send(outbox.take(BOUND))
            if outbox.closed:
                return
            self._hold() if self._manner.batch else self._go_straight()
            await self._wait(self._next() - self._loop.time())
            await self._look(self._loop.time())

    async def _send(self, frames: bytes) -> None:
        self._written += 1
        await self._writer.write(frames)
        if self._protocol.writing_paused:
            await self._writer.drain()

    def _go_straight(self) -> None:
        """Have each frame written as it comes."""
        self._job.outbox.enough = 1
        self._job.reader = self

    def _hold(self) -> None:
        """Let what comes within the next moments come together, if that suits so many streams."""
        stream = self._job.stream
        if self._left or stream is None:
            return
        self._cancel_window()
        events, delay = stream.batch_hint
        if not delay:
            self._go_straight()
            return
        self._job.reader = None
        self._job.outbox.enough = events
        self._window = self._loop.call_later(delay, self._release)

    def _release(self) -> None:
        """The window is over: what came is written by the handler, and where nothing did the next goes straight."""
        self._window = None
        if self._job.outbox:
            self._woken.set()
        else:
            self._go_straight()

    def _cancel_window(self) -> None:
        if self._window is not None:
            self._window.cancel()
            self._window = None

    def _leave(self) -> None:
        self._left = True
        self._cancel_window()
        self._job.outbox.on_change = None
        self._job.outbox.enough = 1

    def _next(self) -> float:
        """When something is to be done though nothing comes."""
        return min(self._next_look, self._next_sentence) if self._sentences else self._next_look

    async def _wait(self, seconds: float) -> None:
        timer = self._loop.call_later(seconds, self._woken.set)
        try:
            await self._woken.wait()
        finally:
            timer.cancel()
        self._woken.clear()

    async def _look(self, now: float) -> None:
        """Write what is due, if the client takes it. Raises `TimeoutError` where it has taken nothing for too long."""
        if self._request.transport is None:
            raise ConnectionResetError("the client is gone")
        quiet = self._written == self._seen
        if now >= self._next_look:
            self._next_look = now + self._period
            self._seen = self._written
            if not quiet:
                self._moved = now
            elif self._protocol.writing_paused and now - self._moved >= self._manner.patience:
                raise TimeoutError
            elif self._manner.heartbeat and self._idle:
                await self._writer.write(HEARTBEAT)
        if self._sentences and now >= self._next_sentence and self._idle:
            self._next_sentence = now + self._manner.narration_every
            await self._writer.write(narration(self._sentences.popleft()))

    @property
    def _idle(self) -> bool:
        """Whether all that was written is on its way."""
        transport = self._request.transport
        return transport is not None and transport.get_write_buffer_size() == 0

    def _bound(self) -> None:
        """Let no more than so much wait for this client, here and in the system."""
        transport = self._request.transport
        if transport is None:
            raise ConnectionResetError("the client is gone")
        transport.set_write_buffer_limits(high=BOUND)
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BOUND)
