"""Where to cut a stream so that a reader who trusts the pieces he gets is found out."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise

from ._message import Message, layout

_BLANK_LINE = re.compile(rb"\r\n\r\n|\n\n|\r\r")
_DATA_FIELD = re.compile(rb"^data:", re.MULTILINE)
_HEAD_JOINT = re.compile(rb"[\r\n: ]")
_FOLLOWING = range(0x80, 0xC0)
"""UTF-8's bytes that are not the first of their character."""

_BYTEWISE = 24


def splits(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """`data` in pieces, cut before each of the offsets; none is empty, and joined they are `data` again."""
    inner = {cut for cut in cuts if 0 < cut < len(data)}
    return [data[start:stop] for start, stop in pairwise(sorted(inner | {0, len(data)}))]


def sse_cuts(body: bytes) -> dict[str, list[int]]:
    """The offsets to cut an event stream at, by kind. Left out are kinds that the stream has no place for.

    `events`: between events; `blank_line`: inside what ends an event; `data_prefix`: inside a line's `data:`;
    `character`: inside a character of several bytes; `bytes`: at every byte around the end of the first event.
    """
    events = [found.end() for found in _BLANK_LINE.finditer(body)]
    kinds = {
        "events": events,
        "blank_line": [cut for found in _BLANK_LINE.finditer(body) for cut in range(found.start() + 1, found.end())],
        "data_prefix": [found.start() + 1 + i % 5 for i, found in enumerate(_DATA_FIELD.finditer(body))],
        "character": [cut for cut, byte in enumerate(body) if byte in _FOLLOWING],
        "bytes": _around(events[0]) if events else [],
    }
    return _inside(kinds, len(body))


def all_kinds_of_cuts(response: bytes) -> dict[str, list[int]]:
    """The kinds of `sse_cuts` as offsets of a whole HTTP response, and those of its framing.

    `head`: in the status line and the headers; `chunk_size`: at each byte of the framing between chunks.
    `bytes` also goes over the end of the head.
    """
    message = layout(response)
    if message is None:
        raise ValueError("the response ends inside its head; give at least the whole head")
    kinds = {kind: [_raw(message, cut) for cut in cuts] for kind, cuts in sse_cuts(message.body(response)).items()}
    kinds["head"] = [found.end() for found in _HEAD_JOINT.finditer(response, 0, message.body_start)]
    kinds["chunk_size"] = list(_framing(message))
    kinds["bytes"] = kinds.get("bytes", []) + _around(message.body_start)
    return _inside(kinds, len(response))


def _around(offset: int) -> list[int]:
    return list(range(offset - _BYTEWISE, offset + _BYTEWISE))


def _inside(kinds: dict[str, list[int]], length: int) -> dict[str, list[int]]:
    inner = {kind: sorted({cut for cut in cuts if 0 < cut < length}) for kind, cuts in kinds.items()}
    return {kind: cuts for kind, cuts in inner.items() if cuts}


def _raw(message: Message, offset: int) -> int:
    """The offset in the message of an offset in its body; at a chunk's end it is that chunk's, not the next one's."""
    ends = list(accumulate(stop - start for start, stop in message.spans))
    chunk = bisect_left(ends, offset)
    return message.spans[chunk][1] - (ends[chunk] - offset)


def _framing(message: Message) -> Iterator[int]:
    """Each offset between one chunk's data and the next one's: at its line end, and inside the next size line."""
    before = message.body_start
    if message.headers.get("transfer-encoding", "").lower() != "chunked":
        return
    for start, stop in message.spans:
        yield from range(before, start)
        before = stop
    if message.end is not None:
        yield from range(before, message.end)
