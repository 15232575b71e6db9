"""The typed events of one response: bytes → frames → Structs, with the response closed by any road."""

import asyncio
from typing import Generic, Self, TypeVar

import msgspec
from llama_orch_adapter_api import AdapterError, WorkerError, WorkerReset

from ._errors import HOSTILE_JSON, not_the_json, truncated
from ._framing import Framing
from ._sse import FrameTooLarge
from ._transport import Answer

T = TypeVar("T")

_DONE = b"[DONE]"
_NULL = b"null"
_LONGEST_WORD = len(_DONE)
_LAST_CHUNK = 0.05
"""Seconds to wait for the chunk that ends a finished response, so that its connection can be used again."""
_EPILOGUE = 1.0
"""Seconds to wait for what may follow the event that finishes an answer: its usage, and `[DONE]`."""


class EventStream(Generic[T]):
    """The events of one response, in order, each decoded to `T`, handed over as lists of those that came together.

    `each()` gives them one at a time. It ends at the engine's `[DONE]` or at the end of the response, whichever comes
    first; whether that was a good end is for the reader of the events to tell (`ended_early`). It raises `WorkerError`:
    the transport broke (`WorkerReset`), an event is not `T` (`AdapterError` decode) or too large. `data: null`, which
    llama.cpp sends, is passed over.
    """

    def __init__(self, answer: Answer, framing: Framing, decoder: msgspec.json.Decoder[T], where: str) -> None:
        self._answer = answer
        self._framing = framing
        self._decode = decoder.decode
        self._ahead: list[T] = []  # the last one first
        self._done = False
        self._failure: WorkerError | None = None
        self._epilogue: float | None = None  # until when to wait for what follows a whole answer
        self.http_version = answer.http_version
        self.where = where

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[T]:
        """The events that came together, at least one."""
        if self._ahead:
            batch, self._ahead = self._ahead[::-1], []
            return batch
        while not self._done:
            if self._failure is not None:
                if self._epilogue is not None:
                    break
                raise self._failure
            chunk = await (self._answer.read() if self._epilogue is None else self._read_epilogue(self._epilogue))
            try:
                frames = self._framing.feed_data(chunk)
            except FrameTooLarge as error:
                frames = self._refused(error)
            batch = self._events(frames) if chunk else self._last_events()
            if batch:
                return batch
            if not chunk and self._failure is None:
                break
        raise StopAsyncIteration

    def each(self) -> "EachEvent[T]":
        """The events one at a time, for a tenth of a microsecond more; they and the lists may be taken in turns."""
        return EachEvent(self)

    def complete(self) -> None:
        """The answer is whole: what follows is waited for until a second has passed since the first call.

        No failure of what follows is told. Events are, so that an error object among them still counts.
        """
        if self._epilogue is None:
            self._epilogue = asyncio.get_running_loop().time() + _EPILOGUE

    def ended_early(self) -> WorkerReset:
        """What to raise when the events ended without the one that finishes the answer."""
        return truncated(self.where, self._framing.pending)

    async def aclose(self) -> None:
        """Close the response: for reuse of its connection if it came to its end, else by dropping the connection."""
        try:
            if self._done and not self._answer.ended:
                await self._read_last_chunk()
        finally:
            self._answer.close()

    async def _read_epilogue(self, until: float) -> bytes:
        try:
            async with asyncio.timeout_at(until):
                return await self._answer.read()
        except (WorkerError, TimeoutError):
            self._done = True
            return b""

    def _refused(self, error: FrameTooLarge) -> list[memoryview]:
        """What came before it. The failure itself is kept for later, so that those are not lost."""
        what = f"{error.what} of the stream is larger than {error.limit} bytes"
        mend = f"raise http.max_{error.what} if it may be"
        self._failure = AdapterError(f"{what} · {self.where} · {mend}", detail="too_large", phase="decode")
        return [frame.data for frame in error.frames]

    def _events(self, views: list[memoryview]) -> list[T]:
        """The events of a chunk. A bad one is kept for later, so that those before it are not lost."""
        batch: list[T] = []
        decode = self._decode
        try:
            for data in views:
                if len(data) > _LONGEST_WORD:
                    batch.append(decode(data))
                elif data == _DONE:
                    self._done = True
                    break
                elif data != _NULL:
                    batch.append(decode(data))
        except HOSTILE_JSON as error:
            self._failure = not_the_json(self.where, "an event of the stream", error)
        return batch

    def _last_events(self) -> list[T]:
        """What the end of the body completes; if that is no event, the body was cut."""
        cut = self.ended_early()
        batch = self._events(self._framing.finish())
        if self._failure is not None:
            self._failure = cut
        return batch

    async def _read_last_chunk(self) -> None:
        try:
            async with asyncio.timeout(_LAST_CHUNK):
                while await self._answer.read():
                    pass
        except (WorkerError, TimeoutError):
            self._answer.close()


class EachEvent(Generic[T]):
    """The events of a stream, one at a time."""

    def __init__(self, stream: EventStream[T]) -> None:
        self._stream = stream

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next event; those that came with it wait in the stream."""
        stream = self._stream
        if not stream._ahead:  # noqa: SLF001  # of this room
            stream._ahead = (await stream.__anext__())[::-1]  # noqa: SLF001
        return stream._ahead.pop()  # noqa: SLF001
