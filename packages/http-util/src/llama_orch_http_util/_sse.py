"""A WHATWG event stream, as bytes come: chunks in, events out. No I/O, no JSON, no await.

The plan, from the wire up:

feed     one received chunk. It is cut into lines; what is left over waits in `_tail` for the next chunk. `feed_data`
         takes one that is whole events of one `data: …` line each, with nothing around them, and one such event, as a
         live stream's chunks are, with one search and one view.
_cut_lf  the usual stream: LF alone ends lines. Events that are one `data: …` line and an empty one are taken whole, in
         runs, each with one search and one view.
_cut_any CR, LF and CRLF, mixed. A CR ends its line at once; an LF that opens the next chunk belongs to it.
_take    one line: joined with its beginning if that came in an earlier chunk, then read as a field.
_field   data, event, id, retry; everything else says nothing. An empty line dispatches what was gathered.
_pass    after a line that said nothing, all that follow are passed over with one search.

Nothing is copied but a line that straddles chunks and data of more than one line. Nothing that waits is scanned again,
so chunks of one byte cost linear time; what waits is bounded by `max_line` and `max_event`.
"""

import re
from typing import Literal

import msgspec

_BOM = b"\xef\xbb\xbf"
_CR = 0x0D  # as a number: `in` finds it four times as fast as b"\r"
_LINE_END = re.compile(rb"\r\n?|\n")
_BEFORE_A_FIELD = re.compile(rb"[\r\n](?=data|event|id|retry)")
_BEFORE_A_FIELD_OR_AN_END = re.compile(rb"(?:\r\n?+|\n)(?=data|event|id|retry|[\r\n])")
_RETRY_DIGITS = 15
"""A longer `retry` is passed over: it is no span of time, and int() takes quadratic time or refuses."""


# gc=False is sound: views of bytes and strings lead to no container, so a frame can be in no reference cycle.
class Frame(msgspec.Struct, frozen=True, gc=False):
    """One event. `data` is read-only and keeps the whole received chunk alive: decode it, then let the frame go.

    `id` is the last one seen in the stream, of this event or an earlier one.
    """

    data: memoryview
    event: str = "message"
    id: str = ""


class FrameTooLarge(ValueError):
    """The peer sent a line or an event (`what`) of more than `limit` bytes.

    `frames` are the events of the same chunk that came before it.
    """

    def __init__(self, what: Literal["line", "event"], limit: int) -> None:
        super().__init__(
            f"{what} of the event stream is over {limit} bytes; raise max_{what} if the peer may send more"
        )
        self.what = what
        self.limit = limit
        self.frames: list[Frame] = []

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.what, self.limit)


class SSEDecoder:
    """The events of one response body.

    `max_line` bounds a line without its end, `max_event` the data of an event with the LFs that join its lines; both
    in bytes. `retry_ms` is the reconnection time the peer last asked for, None where it did not.
    """

    def __init__(self, *, max_line: int = 1 << 20, max_event: int = 8 << 20) -> None:
        self.retry_ms: int | None = None
        self._max_line = max_line
        self._max_event = max_event
        self._tail = bytearray()
        self._data: memoryview | bytearray | None = None
        self._event = ""
        self._id = ""
        self._first = True
        self._after_cr = False
        self._at_rest = False  # whether the next byte opens an event
        self._lower_bound = min(max_line, max_event)
        self._broken: tuple[Literal["line", "event"], int] | None = None

    @property
    def pending(self) -> int:
        """Bytes that wait for the rest of their event. More than 0 at the end: the body ended inside an event."""
        data = 0 if self._data is None else len(self._data) + 1
        return len(self._tail) + data + len(self._event)

    def feed(self, chunk: bytes) -> list[Frame]:
        """The events that `chunk` completes, in order.

        Raises FrameTooLarge as soon as a bound is passed, then and ever after; the first one carries the events before.
        """
        frames: list[Frame] = []
        self._feed(chunk, 0, frames)
        return frames

    def feed_data(self, chunk: bytes) -> list[memoryview]:
        """As `feed`, but the events' data alone: cheaper by half, for those who need neither names nor ids."""
        end = len(chunk) - 2
        alone = chunk.find(b"\n") == end and chunk.startswith(b"data: ") and chunk.endswith(b"\n\n")
        if alone and self._at_rest and _CR not in chunk and len(chunk) <= self._lower_bound:
            return [memoryview(chunk)[6:end]]
        return self._feed_data(chunk)

    def _feed_data(self, chunk: bytes) -> list[memoryview]:
        """Take a chunk that is more than an event, or less."""
        views: list[memoryview] = []
        start = 0
        at_rest = self._at_rest or (self._first and not self._tail and chunk.startswith(b"data: "))  # no BOM
        if at_rest and _CR not in chunk and len(chunk) <= self._lower_bound:
            start = self._take_run(chunk, 0, views)
            if start == len(chunk):
                self._first, self._at_rest = False, True
                return views
            self._first = self._first and not start
        frames: list[Frame] = []
        try:
            self._feed(chunk, start, frames)
        except FrameTooLarge as error:
            error.frames = [*map(Frame, views), *frames]
            raise
        return [*views, *(frame.data for frame in frames)]

    def _feed(self, chunk: bytes, start: int, frames: list[Frame]) -> None:
        """Take what a chunk holds from `start` on."""
        if self._broken:
            raise FrameTooLarge(*self._broken)
        if not chunk:
            return  # and whether a CR came last is known as before
        cut = self._cut_any if self._after_cr or _CR in chunk else self._cut_lf
        try:
            start = cut(chunk, start, frames)
            self._check_line(len(chunk) - start)
        except FrameTooLarge as error:
            error.frames = frames
            raise
        if start < len(chunk):
            self._tail += memoryview(chunk)[start:]
        self._at_rest = self._between_events and not self._after_cr

    def _cut_lf(self, chunk: bytes, start: int, frames: list[Frame]) -> int:
        """Take the lines of a chunk that holds no CR; where the unfinished last line begins."""
        bounded = len(chunk) <= self._lower_bound
        while start < len(chunk):
            if bounded and self._between_events:
                run: list[memoryview] = []
                start = self._take_run(chunk, start, run)
                frames += [Frame(view, "message", self._id) for view in run]
            if (end := chunk.find(b"\n", start)) < 0:
                break
            said = self._take(chunk, start, end, frames)
            start = end + 1 if said or not bounded else self._pass(chunk, end + 1)
        return start

    def _take_run(self, chunk: bytes, start: int, run: list[memoryview]) -> int:
        """Take a run of events that are one `data: …` line each; where the first line of another kind begins."""
        find, opens = chunk.find, chunk.startswith
        if not opens(b"data: ", start):
            return start
        add, view = run.append, memoryview(chunk)
        while opens(b"\n\ndata: ", end := find(b"\n", start)):
            add(view[start + 6 : end])
            start = end + 2
        if opens(b"\n\n", end):
            add(view[start + 6 : end])
            start = end + 2
        return start

    def _cut_any(self, chunk: bytes, start: int, frames: list[Frame]) -> int:
        """Take the lines of a chunk, whatever ends them; where the unfinished last line begins."""
        if self._after_cr and chunk.startswith(b"\n"):
            start += 1
        bounded = len(chunk) <= self._lower_bound
        line_ends = _LINE_END.finditer(chunk, start)
        while (line_end := next(line_ends, None)) is not None:
            end, after = line_end.span()
            said = self._take(chunk, start, end, frames)
            start = after
            if bounded and not said:
                start = self._pass(chunk, after)
                line_ends = _LINE_END.finditer(chunk, start)
        self._after_cr = chunk.endswith(b"\r")
        return start

    def _pass(self, chunk: bytes, start: int) -> int:
        """Pass over lines that say nothing: comments, unknown fields and, between events, empty ones."""
        search = (_BEFORE_A_FIELD if self._between_events else _BEFORE_A_FIELD_OR_AN_END).search
        found = search(chunk, start - 1)  # where the line before ended
        return found.end() if found else max(chunk.rfind(b"\n"), chunk.rfind(b"\r")) + 1

    @property
    def _between_events(self) -> bool:
        return self._data is None and not (self._tail or self._event or self._first)

    def _take(self, chunk: bytes, start: int, end: int, frames: list[Frame]) -> bool:
        """Whether the line said something."""
        self._check_line(end - start)
        if self._tail:
            chunk = b"".join((self._tail, memoryview(chunk)[start:end]))
            start, end = 0, len(chunk)
            self._tail.clear()
        if self._first:
            self._first = False
            start += len(_BOM) if chunk.startswith(_BOM) else 0
        if start < end:
            return self._field(chunk, start, end)
        if self._data is None:
            self._event = ""
            return False
        frames.append(Frame(_read_only(self._data), self._event or "message", self._id))
        self._data, self._event = None, ""
        return True

    def _field(self, chunk: bytes, start: int, end: int) -> bool:
        colon = chunk.find(b":", start, end)
        if colon < 0:
            colon = value = end
        else:
            value = colon + 1 + chunk.startswith(b" ", colon + 1, end)
        match chunk[start:colon]:
            case b"data":
                self._add_data(memoryview(chunk)[value:end])
            case b"event":
                self._event = chunk[value:end].decode(errors="replace")
            case b"id" if b"\0" not in chunk[value:end]:
                self._id = chunk[value:end].decode(errors="replace")
            case b"retry" if chunk[value:end].isdigit() and end - value <= _RETRY_DIGITS:
                self.retry_ms = int(chunk[value:end])
            case _:
                return False
        return True

    def _add_data(self, line: memoryview) -> None:
        held = self._data
        if (0 if held is None else len(held) + 1) + len(line) > self._max_event:
            self._break("event", self._max_event)
        if held is None:
            self._data = line
            return
        if isinstance(held, memoryview):
            held = self._data = bytearray(held)
        held += b"\n"
        held += line

    def _check_line(self, more: int) -> None:
        if len(self._tail) + more > self._max_line:
            self._break("line", self._max_line)

    def _break(self, what: Literal["line", "event"], limit: int) -> None:
        """Let go of everything that waits, and refuse from now on."""
        self._tail.clear()
        self._data, self._event = None, ""
        self._first = self._at_rest = False
        self._broken = (what, limit)
        raise FrameTooLarge(what, limit)


def _read_only(data: memoryview | bytearray) -> memoryview:
    return data if isinstance(data, memoryview) else memoryview(bytes(data))
