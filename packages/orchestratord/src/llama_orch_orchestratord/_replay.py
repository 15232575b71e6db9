"""An outbox that remembers what it handed out last, for readers that may lose their connection and come back."""

import re
from collections import deque

import msgspec

from ._outbox import Outbox

MEMORY = 64 * 1024
"""Bytes of frames that were handed out and are kept for each task: a client that is gone can lose no more than wait
for it here and in the system, 32 KiB each, but for frames that are larger."""

_ID = re.compile(rb"id: ([0-9]+)\n")

_encode = msgspec.json.Encoder().encode


class Gap(msgspec.Struct, frozen=True):
    """The ids of the first and the last event that were handed to an earlier reader, and are not repeated."""

    first: int
    last: int


class GapFrame(msgspec.Struct, frozen=True, tag_field="event", tag="gap"):
    """None of the task's events, so that it has no id: some that stood here went to an earlier reader."""

    data: Gap


class ReplayOutbox(Outbox):
    """Frames with an id, each kept for a while after it was handed out; those without one are not.

    Who hands out a frame that was never in here says so with `sent`.
    """

    __slots__ = ("_forgotten", "_memory", "_sent", "_sent_bytes", "_told")

    def __init__(self, most: int, most_bytes: int, memory: int = MEMORY) -> None:
        super().__init__(most, most_bytes)
        self._memory = memory
        self._sent: deque[bytes] = deque()
        self._sent_bytes = 0
        self._forgotten = -1  # the id of the last one that was handed out and is kept no more
        self._told = False  # all was written, and the response finished

    @property
    def spent(self) -> bool:
        """Whether nobody is likely to want to read it any more: all was taken, and its response was finished."""
        return self._told and super().spent

    def take(self, most_bytes: int) -> bytes:
        """As of any outbox; they are kept."""
        frames = self._pop(most_bytes)
        for frame in frames:
            self.sent(frame)
        return b"".join(frames)

    def sent(self, frame: bytes) -> None:
        """A frame was handed out."""
        if _id_of(frame) is None:
            return
        self._sent.append(frame)
        self._sent_bytes += len(frame)
        while self._sent_bytes > self._memory and len(self._sent) > 1:
            self._forget()

    @property
    def repeats(self) -> bool:
        """Whether some of what was handed out is kept."""
        return bool(self._sent)

    def resume(self, seen: int | None) -> None:
        """Have what follows the event of that id handed out again, what is no more kept as a gap; None is no event.

        Who does not say what it saw last gets what nobody was handed yet, and the last frame in any case.
        """
        self._told = False
        back: deque[bytes] = deque()
        while self._frames and _id_of(self._frames[0]) is None:  # of a gap, and nobody took it
            self._bytes -= len(self._frames.popleft())
        if seen is not None:
            while self._sent and _number(self._sent[-1]) > seen:
                back.appendleft(self._recall())
            self._skip(seen)
        elif self._sent and not self and self.closed:
            back.appendleft(self._recall())
        first = 0 if seen is None else seen + 1
        last = _number(self._sent[-1]) if self._sent and seen is None else self._forgotten
        if last >= first:
            back.appendleft(b"event: gap\ndata: %b\n\n" % _encode(Gap(first, last)))
        self._put_back(back)

    def deliver(self) -> None:
        """Its response was finished. What of it is still on its way may get lost, so that it is kept nevertheless."""
        self._told = True

    def clear(self) -> None:
        """Forget also what was handed out."""
        while self._sent:
            self._forget()
        super().clear()

    def _skip(self, seen: int) -> None:
        """Drop what was to be handed out, and reached its reader nevertheless."""
        while self._frames and _number(self._frames[0]) <= seen:
            self._bytes -= len(self._frames.popleft())
        self._wake()

    def _recall(self) -> bytes:
        frame = self._sent.pop()
        self._sent_bytes -= len(frame)
        return frame

    def _forget(self) -> None:
        frame = self._sent.popleft()
        self._sent_bytes -= len(frame)
        self._forgotten = _number(frame)


def _id_of(frame: bytes) -> int | None:
    """JSON, which follows it, has no line breaks."""
    found = _ID.search(frame, 0, 64)
    return None if found is None else int(found[1])


def _number(frame: bytes) -> int:
    """Of one that has an id."""
    number = _id_of(frame)
    assert number is not None  # noqa: S101  # no other is kept
    return number
