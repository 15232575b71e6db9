"""The body of an HTTP/1.1 answer between aiohttp's parser and who takes all of it: its `StreamReader`, doing less."""

from typing import Self

import aiohttp


class Body(aiohttp.StreamReader):
    """A `StreamReader` from which all that has come is taken at once.

    aiohttp notes where each HTTP chunk ends, hands out part by part, and after each of them lets the parser run and the
    socket go on, paused or not. Here nothing is noted, and what is paused goes on, nothing else. The bounds are
    aiohttp's: reading pauses over as many bytes, or parts (docs/decisions/live-events.md).
    """

    __slots__ = ()  # of the layout of what `of` is given

    @classmethod
    def of(cls, reader: aiohttp.StreamReader) -> Self | None:
        """The reader itself, which aiohttp's parser made and goes on to feed, as one of these.

        None where it was paused already: then the parser may hold back what comes next, though reading goes on.
        """
        if reader._protocol._reading_paused:  # noqa: SLF001
            return None
        reader.__class__ = cls
        assert isinstance(reader, cls)  # noqa: S101  # of which mypy is not aware
        reader._http_chunk_splits = None  # noqa: SLF001  # those noted until now would keep it paused, once it is
        return reader

    def feed_data(self, data: bytes, size: int = 0) -> bool:  # noqa: ARG002  # which aiohttp does not look at either
        """Part of the body came. False: no more of it is to be had without reading."""
        if not data:
            return False
        self._size += len(data)
        self._buffer.append(data)
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)
        elif self._size > self._high_water or len(self._buffer) > self._high_water_chunks:
            self._protocol.pause_reading()
        return False

    def begin_http_chunk_receiving(self) -> None:
        """Nobody asks where HTTP chunks begin."""

    def end_http_chunk_receiving(self) -> None:
        """Nor where they end."""

    def take_all(self) -> bytes:
        """All that has come, at least something, even before a failure, which public reads raise."""
        arrived = self._buffer
        if len(arrived) > 1:
            whole = b"".join(arrived)
            arrived.clear()
            arrived.append(whole)
        if self._protocol._reading_paused:  # noqa: SLF001
            return self._read_nowait(-1)
        self._size = 0
        return arrived.popleft()
