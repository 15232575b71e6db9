"""Newline-delimited JSON, as bytes come: chunks in, lines out. No I/O, no JSON, no await.

LF and CRLF end lines, and empty lines are passed over. Nothing is copied but a line that straddles chunks, and nothing
that waits is scanned again.
"""

from ._sse import Frame, FrameTooLarge

_CR = 0x0D


class NDJSONDecoder:
    """The lines of one response body. `max_line` bounds what comes before a line's LF, in bytes."""

    def __init__(self, *, max_line: int = 1 << 20) -> None:
        self._max_line = max_line
        self._tail = bytearray()
        self._broken = False

    @property
    def pending(self) -> int:
        """Bytes of a line that has not ended."""
        return len(self._tail)

    def feed(self, chunk: bytes) -> list[memoryview]:
        """The lines that `chunk` completes, in order, without their ends. A view keeps the whole chunk alive.

        Raises FrameTooLarge as soon as the bound is passed, then and ever after; the first carries the lines before.
        """
        lines: list[memoryview] = []
        view = memoryview(chunk)
        start = 0
        try:
            while (end := chunk.find(b"\n", start)) >= 0:
                if line := self._whole(view[start:end]):
                    lines.append(line)
                start = end + 1
            self._check(len(chunk) - start)
        except FrameTooLarge as error:
            error.frames = [Frame(line) for line in lines]
            raise
        self._tail += view[start:]
        return lines

    def finish(self) -> list[memoryview]:
        """What waits, as the last line of a body that ends without a LF."""
        line = self._whole(memoryview(b""))
        return [line] if line else []

    def _whole(self, end: memoryview) -> memoryview:
        """The line that ends so, with its beginning if that came in an earlier chunk."""
        self._check(len(end))
        if self._tail:
            self._tail += end
            end = memoryview(self._tail).toreadonly()
            self._tail = bytearray()
        return end[:-1] if end and end[-1] == _CR else end

    def _check(self, more: int) -> None:
        """Refuse a line over the bound: let go of what waits, and refuse from now on."""
        if self._broken or len(self._tail) + more > self._max_line:
            self._broken = True
            self._tail.clear()
            raise FrameTooLarge("line", self._max_line)
