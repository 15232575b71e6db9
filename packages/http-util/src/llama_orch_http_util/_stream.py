"""The typed events of one response: bytes → frames → Structs, with the response closed by any road."""

import asyncio
from typing import Generic, Self, TypeVar

import aiohttp
import msgspec
from llama_orch_adapter_api import AdapterError, WorkerError, WorkerReset

from ._config import HttpConfig
from ._errors import HOSTILE_JSON, TRANSPORT_FAILURES, error_of_exception, not_the_json, truncated
from ._sse import Frame, FrameTooLarge, SSEDecoder

T = TypeVar("T")

_DONE = b"[DONE]"
_NULL = b"null"
_LONGEST_WORD = len(_DONE)
_LAST_CHUNK = 0.05
"""Seconds to wait for the chunk that ends a finished response, so that its connection can be used again."""


class EventStream(Generic[T]):
    """The events of one response, in order, each decoded to `T`, handed over as lists of those that came together.

    It ends at the engine's `[DONE]` or at the end of the response, whichever comes first; whether that was a good end
    is for the reader of the events to tell (`truncated`). It raises `WorkerError`: the transport broke (`WorkerReset`),
    an event is not `T` (`AdapterError` decode) or too large. `data: null`, which llama.cpp sends, is passed over.
    """

    def __init__(
        self, response: aiohttp.ClientResponse, decoder: msgspec.json.Decoder[T], config: HttpConfig, where: str
    ) -> None:
        self._response = response
        self._content = response.content
        self._decode = decoder.decode
        self._frames = SSEDecoder(max_line=config.max_line, max_event=config.max_event)
        self._done = False
        self._failure: WorkerError | None = None
        self.where = where

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> list[T]:
        """The events that came together, at least one."""
        while not self._done:
            if self._failure is not None:
                raise self._failure
            chunk = await self._next_chunk()
            if not chunk and self._failure is None:
                break
            batch = self._events(chunk)
            if batch:
                return batch
        raise StopAsyncIteration

    def ended_early(self) -> WorkerReset:
        """What to raise when the events ended without the one that finishes the answer."""
        return truncated(self.where, self._frames.pending)

    async def aclose(self) -> None:
        """Close the response: for reuse of its connection if it came to its end, else by dropping the connection."""
        try:
            if self._done and not self._content.at_eof():
                await self._read_last_chunk()
        finally:
            if not self._content.at_eof():
                self._response.close()
            self._response.release()

    async def _next_chunk(self) -> bytes:
        """What came next, empty at the end. When the transport breaks, what had come before it is not lost."""
        try:
            return await self._content.readany()
        except TRANSPORT_FAILURES as error:
            self._failure = error_of_exception(error, self.where, "decode")
            return self._content._read_nowait(-1)  # noqa: SLF001  # its public reads raise the error first

    def _events(self, chunk: bytes) -> list[T]:
        """The chunk's events. A bad one is kept for later, so that those before it are not lost."""
        batch: list[T] = []
        decode = self._decode
        try:
            for frame in self._frames_of(chunk):
                data = frame.data
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

    def _frames_of(self, chunk: bytes) -> list[Frame]:
        try:
            return self._frames.feed(chunk)
        except FrameTooLarge as error:
            self._failure = AdapterError(f"{error} · {self.where}", detail="too_large", phase="decode")
            return error.frames

    async def _read_last_chunk(self) -> None:
        try:
            async with asyncio.timeout(_LAST_CHUNK):
                while await self._content.readany():
                    pass
        except TRANSPORT_FAILURES:
            self._response.close()
