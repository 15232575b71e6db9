"""What a task has to say while nobody listens: bounded, so that the engine waits instead of the memory growing."""

import asyncio
from collections import deque
from collections.abc import Callable, Collection


class Outbox:
    """Frames in order, at most so many and so many bytes; a single one is taken whatever its size.

    The last frame closes it and is always taken, since nothing is left to wait for. `on_change` is called for each.
    """

    __slots__ = ("_bytes", "_frames", "_most", "_most_bytes", "_room", "closed", "on_change")

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._frames: deque[bytes] = deque()
        self._bytes = 0
        self._room: asyncio.Future[None] | None = None
        self.closed = False
        self.on_change: Callable[[], None] | None = None

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def spent(self) -> bool:
        """Whether its last frame was taken, too."""
        return self.closed and not self._frames

    @property
    def repeats(self) -> bool:
        """Whether some of what was taken can be had again."""
        return False

    @property
    def full(self) -> bool:
        """Whether it takes no frame now."""
        return len(self._frames) >= self._most or self._bytes >= self._most_bytes

    def offer(self, frame: bytes) -> bool:
        """Keep a frame where there is room; whether it was kept."""
        if self.closed or (self._frames and (self.full or self._bytes + len(frame) > self._most_bytes)):
            return False
        self._keep(frame)
        return True

    def offer_spare(self, frame: bytes) -> bool:
        """Keep a frame that may be dropped while at least half of the room is free; whether it was kept."""
        return len(self._frames) * 2 < self._most and self._bytes * 2 < self._most_bytes and self.offer(frame)

    def close(self, frame: bytes) -> None:
        """Keep the last one. A second time is nothing."""
        if not self.closed:
            self.closed = True
            self._keep(frame)

    def take(self, most_bytes: int) -> bytes:
        """The next frames, as many whole ones as fit, one at least, which makes room; b"" where nothing is there."""
        return b"".join(self._pop(most_bytes))

    def sent(self, frame: bytes) -> None:
        """A frame was handed out past it."""

    def resume(self, seen: int | None) -> None:
        """A reader comes that saw the event of this id last, None where it does not say."""

    def deliver(self) -> None:
        """Its reader was written all to the end."""

    def _pop(self, most_bytes: int) -> list[bytes]:
        taken: list[bytes] = []
        size = 0
        while self._frames and (not taken or size + len(self._frames[0]) <= most_bytes):
            taken.append(self._frames.popleft())
            size += len(taken[-1])
        self._bytes -= size
        self._wake()
        return taken

    def clear(self) -> None:
        """Forget all that is there, which makes room."""
        self._frames.clear()
        self._bytes = 0
        self._wake()

    async def room(self) -> None:
        """Wait until something is taken; one may wait at a time."""
        self._room = asyncio.get_running_loop().create_future()
        try:
            await self._room
        finally:
            self._room = None

    def _put_back(self, frames: Collection[bytes]) -> None:
        """Have them taken first, however full it is."""
        self._frames.extendleft(reversed(tuple(frames)))
        self._bytes += sum(map(len, frames))

    def _keep(self, frame: bytes) -> None:
        self._frames.append(frame)
        self._bytes += len(frame)
        if self.on_change is not None:
            self.on_change()

    def _wake(self) -> None:
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
