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
    """

    def __init__(self, request: web.Request, manner: Manner) -> None:
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

    @property
    def _period(self) -> float:
        manner = self._manner
        return min(manner.heartbeat, manner.patience) if manner.heartbeat else manner.patience

    async def write(self, frame: bytes) -> None:
        """Send a frame, and wait while more than the bound waits. Raises `ConnectionError` where the client is gone."""
        self._written += 1
        await self._writer.write(frame)
        if self._protocol.writing_paused:
            await self._writer.drain()

    def tell(self, sentence: str) -> None:
        """A line of narration, to be written when its turn comes."""
        self._sentences.append(sentence)
        self._woken.set()

    async def serve(self, job: Job) -> None:
        """Write all that a task has to say. Raises `ConnectionError` and `TimeoutError` where the client is gone."""
        await self.response.prepare(self._request)
        self._bound()
        self._writer.send_headers()
        job.outbox.on_change = self._woken.set
        try:
            await self._attend(job)
            async with asyncio.timeout(self._manner.patience):
                await self.response.write_eof()
        finally:
            job.outbox.on_change = None
            job.outbox.enough = 1

    def abort(self) -> None:
        """Cut the connection: its client takes nothing any more."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _attend(self, job: Job) -> None:
        while True:
            while job.outbox:
                async with asyncio.timeout(self._manner.patience):
                    await self.write(job.outbox.take(BOUND))
            if job.outbox.closed:
                return
            if not self._manner.batch:
                job.reader = self
            await self._wait(self._next() - self._loop.time())
            if self._manner.batch and job.outbox:
                await self._gather(job)
            await self._look(self._loop.time())

    async def _gather(self, job: Job) -> None:
        """Let tokens come together, for as long as suits so many streams."""
        hint = None if job.stream is None else job.stream.batch_hint
        if hint is None or job.outbox.closed or len(job.outbox) >= hint.events:
            return
        job.outbox.enough = hint.events
        await self._wait(hint.delay)
        job.outbox.enough = 1

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
