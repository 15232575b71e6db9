"""Who reads a task's stream: an HTTP response that frames are written to, never faster than its client takes them."""

import asyncio
import contextlib
import socket
from collections import deque

import msgspec
from aiohttp import web

from ._batches import Batches
from ._job import Job
from ._job import Reader as Taker
from ._replay import ReplayOutbox
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


class _Noting:
    """Notes in an outbox that remembers what was written past it. Apart, so that no other task pays for it."""

    def __init__(self, reader: Taker, outbox: ReplayOutbox) -> None:
        self._reader = reader
        self._outbox = outbox

    async def write(self, frame: bytes) -> None:
        """As the reader does."""
        await self._reader.write(frame)
        self._outbox.sent(frame)


class Reader:
    """One response, from its head to its end.

    Frames are written by the task itself, in the same turn of the loop in which its token came. The handler waits
    beside it and writes what is not the task's, heartbeats and narration, only where nothing waits to be sent. Where
    both wait for the client, at the end of a task, they wait for a third that does: aiohttp wakes all by one future,
    which dies with whichever is cancelled first.
    In batches, frames wait in the outbox until the loop's next turn, in which all that are there are written as one;
    for a client that takes none the handler is woken, and waits for it.
    """

    def __init__(self, job: Job, request: web.Request, manner: Manner, batches: Batches) -> None:
        self._job = job
        self.response = web.StreamResponse(headers=_HEADERS)
        self._request = request
        self._writer = request.writer
        self._protocol = request.protocol
        self._manner = manner
        self._batches = batches
        self._straight: Taker = _Noting(self, job.outbox) if isinstance(job.outbox, ReplayOutbox) else self
        self._loop = asyncio.get_running_loop()
        self._woken = asyncio.Event()
        self._draining: asyncio.Task[None] | None = None  # waits for the client, for all who do
        self._time = self._loop.time  # a bound method, made once
        self._wrote = self._time()  # when the task's latest frame was
        self._next_look = self._wrote + self._period
        self._sentences: deque[str] = deque(maxlen=_SENTENCES)
        self._next_sentence = 0.0

    @property
    def _period(self) -> float:
        manner = self._manner
        return min(manner.heartbeat, manner.patience) if manner.heartbeat else manner.patience

    async def write(self, frame: bytes) -> None:
        """Send a frame, and wait while more than the bound waits. Raises `ConnectionError` where the client is gone."""
        self._wrote = self._time()
        await self._writer.write(frame, drain=False)  # type: ignore[call-arg]  # the real one has it
        await self._room()

    async def send(self) -> None:
        """Write what waits, as one; where the client takes none, or is gone, the handler is woken for it."""
        outbox, transport = self._job.outbox, self._request.transport
        if outbox.closed or transport is None or transport.is_closing() or self._protocol.writing_paused:
            self._woken.set()
        elif outbox:
            self._wrote = self._time()
            await self._writer.write(outbox.take(BOUND), drain=False)  # type: ignore[call-arg]  # the real one has it
            if outbox:
                self._batches.add(self)

    def tell(self, sentence: str) -> None:
        """A line of narration, to be written when its turn comes."""
        self._sentences.append(sentence)
        self._woken.set()

    async def serve(self) -> None:
        """Write all that the task has to say. Raises `ConnectionError`, `TimeoutError` where the client is gone."""
        await self.response.prepare(self._request)
        self._bound()
        self._writer.send_headers()
        self._job.outbox.on_change = self._changed
        try:
            await self._attend()
            async with asyncio.timeout(self._manner.patience):
                await self.response.write_eof()
            self._job.outbox.deliver()
        finally:
            self._job.outbox.on_change = None
            if self._draining is not None:
                self._draining.cancel()

    def abort(self) -> None:
        """Cut the connection: its client takes nothing any more."""
        if self._request.transport is not None:
            self._request.transport.abort()

    async def _attend(self) -> None:
        outbox = self._job.outbox
        while True:
            while outbox:
                async with asyncio.timeout(self._manner.patience):
                    await self._room()
                    await self.write(outbox.take(BOUND))
            if outbox.closed:
                return
            if not self._manner.batch:
                self._job.reader = self._straight
            await self._wait(self._next() - self._loop.time())
            await self._look(self._loop.time())

    async def _room(self) -> None:
        """Wait while the client takes none. Raises `ConnectionError` where it is gone, or its handler is."""
        if self._protocol.writing_paused:
            if self._draining is None or self._draining.done():
                self._draining = self._loop.create_task(self._drained())
            draining = self._draining
            await asyncio.wait([draining])  # who is cancelled here ends nobody else's wait
            if draining.cancelled() or self._request.transport is None:
                raise ConnectionResetError("the client is gone")

    async def _drained(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._writer.drain()

    def _changed(self) -> None:
        """Something waits for the client: the handler comes for it, or in batches the next tick does."""
        if self._manner.batch and not self._job.outbox.closed:
            self._batches.add(self)
        else:
            self._woken.set()

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
        if now >= self._next_look:
            quiet_at = self._wrote + self._period
            self._next_look = quiet_at if quiet_at > now else now + self._period
            if quiet_at <= now:
                if self._protocol.writing_paused and now - self._wrote >= self._manner.patience:
                    raise TimeoutError
                if self._manner.heartbeat and self._idle:
                    await self._writer.write(HEARTBEAT)
        if self._sentences and now >= self._next_sentence:
            self._next_sentence = now + self._manner.narration_every  # also behind a client that has no room for it
            if self._idle:
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
