"""What waits for a pool: bounded, interactive before batch, first come first served within each.

Every item has a turn from when it is put; the sorted lists of turns below answer who is next, and who stands where, by
bisection. An item may be for one place alone. A place can be shut: its items keep their turns, but stand aside and are
not taken, all but the first few that are let.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable, Iterator
from itertools import count
from typing import Generic, Literal, TypeVar

T = TypeVar("T", bound=Hashable)

Policy = Literal["reject", "drop-lru"]
"""What a full queue does with one more: refuse it, or drop what has waited longest to make room."""

Priority = Literal["interactive", "batch"]


class QueueFullError(Exception):
    """There is no room, and nothing that may be dropped to make some."""


Turn = int
"""What comes first is smaller: interactive ones count from 0, batch ones from `_BATCH`."""

_BATCH = 1 << 62


class PoolQueue(Generic[T]):
    """The items that wait for one pool, at most `bound` of them besides those that were put back.

    An item is known by its hash, and waits once at most. One that was taken keeps its turn until it is `forget`ted.
    """

    def __init__(self, bound: int, policy: Policy = "reject") -> None:
        self.bound = bound
        self.policy = policy
        self._numbers = count()
        self._known: dict[T, tuple[Turn, str | None]] = {}  # with the place
        self._items: dict[Turn, T] = {}  # those that wait
        self._all: list[Turn] = []
        self._next: list[Turn] = []  # all but those that stand aside
        self._of: dict[str, list[Turn]] = {}  # by place; none is empty
        self._let: dict[str, int] = {}  # by place that is shut: how many of its first do not stand aside

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[T]:
        """In the order of their turns."""
        return (self._items[turn] for turn in self._all)

    def __contains__(self, item: T) -> bool:
        known = self._known.get(item)
        return known is not None and known[0] in self._items

    @property
    def room(self) -> int:
        """How many more it takes before it is full."""
        return max(0, self.bound - len(self))

    def put(self, item: T, priority: Priority, place: str | None = None) -> T | None:
        """Let an item wait behind those of its priority; what was dropped for it, or None.

        With `drop-lru` that is the batch item that has waited longest or, for an interactive one alone, the interactive
        item that has. Raises `QueueFullError`.
        """
        dropped = None if self.room else self._make_room(priority)
        number = next(self._numbers)
        self._known[item] = number if priority == "interactive" else _BATCH + number, place
        self.put_back(item)
        return dropped

    def put_back(self, item: T) -> None:
        """Let an item that was taken wait as if it never had been, however full the queue is."""
        turn, place = self._known[item]
        self._items[turn] = item
        insort(self._all, turn)
        if place is None:
            insort(self._next, turn)
            return
        line = self._of.setdefault(place, [])
        insort(line, turn)
        let = self._let.get(place, len(line))
        if bisect_left(line, turn) < let:
            insort(self._next, turn)
            for last in line[let : let + 1]:  # which it goes before
                _delete(self._next, last)

    def take(self) -> T | None:
        """The next item, which waits no longer; None where none waits but those that stand aside."""
        if not self._next:
            return None
        item = self._items[self._next[0]]
        _, place = self._known[item]
        if place is not None and place in self._let:
            self._let[place] -= 1
        self._leave(item)
        return item

    def remove(self, item: T) -> bool:
        """Take out an item wherever it stands; whether it was there."""
        if item not in self:
            return False
        self._leave(item)
        del self._known[item]
        return True

    def forget(self, item: T) -> None:
        """An item that was taken comes back no more. For any other one it is nothing."""
        if item not in self:
            self._known.pop(item, None)

    def waits_for(self, place: str) -> bool:
        """Whether any item does."""
        return place in self._of

    def shut(self, place: str) -> None:
        """Let all that wait for a place, and those that will, stand aside."""
        for turn in self._of.get(place, ())[: self._let.get(place)]:
            _delete(self._next, turn)
        self._let[place] = 0

    def let(self, place: str, more: int) -> None:
        """So many more of those that stand aside may be taken, the first ones, in their turn. It is shut still."""
        let = self._let[place]
        self._let[place] = let + more
        for turn in self._of.get(place, ())[let : let + more]:
            insort(self._next, turn)

    def open(self, place: str) -> None:
        """None that waits for a place stands aside any more."""
        self.let(place, len(self))
        del self._let[place]

    def position(self, item: T) -> int | None:
        """How many are taken before it; None where it does not wait.

        Those that stand aside count for nobody but for each other.
        """
        if item not in self:
            return None
        turn, _ = self._known[item]
        at = bisect_left(self._next, turn)
        return at if self._next[at : at + 1] == [turn] else bisect_left(self._all, turn)

    def ahead_of(self, priority: Priority) -> int:
        """How many would be taken before one that is put now, were none to stand aside."""
        return bisect_left(self._all, _BATCH) if priority == "interactive" else len(self)

    def _leave(self, item: T) -> None:
        turn, place = self._known[item]
        del self._items[turn]
        _delete(self._all, turn)
        _delete(self._next, turn)
        if place is None:
            return
        line = self._of[place]
        _delete(line, turn)
        let = self._let.get(place, 0)
        for last in line[max(0, let - 1) : let]:  # in its stead
            _insert(self._next, last)
        if not line:
            del self._of[place]

    def _make_room(self, priority: Priority) -> T:
        first_batch = self.ahead_of("interactive")
        if self.policy == "drop-lru":
            for turn in self._all[first_batch : first_batch + 1] or (
                self._all[:1] if priority == "interactive" else ()
            ):
                item = self._items[turn]
                self.remove(item)
                return item
        raise QueueFullError(f"{len(self)} tasks wait, of {self.bound} that may")


def _insert(turns: list[Turn], turn: Turn) -> None:
    """Put a turn in, where it is not."""
    at = bisect_left(turns, turn)
    if turns[at : at + 1] != [turn]:
        turns.insert(at, turn)


def _delete(turns: list[Turn], turn: Turn) -> None:
    """Take a turn out, where it is in."""
    at = bisect_left(turns, turn)
    if turns[at : at + 1] == [turn]:
        del turns[at]
