"""What waits for a pool: bounded, interactive before batch, first come first served within each."""

from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator
from itertools import chain, islice, takewhile
from typing import Generic, Literal, TypeVar

T = TypeVar("T", bound=Hashable)

Policy = Literal["reject", "drop-lru"]
"""What a full queue does with one more: refuse it, or drop what has waited longest to make room."""

Priority = Literal["interactive", "batch"]


class QueueFullError(Exception):
    """There is no room, and nothing that may be dropped to make some."""


class PoolQueue(Generic[T]):
    """The items that wait for one pool, at most `bound` of them besides those that were put back.

    An item is known by its hash, and waits once at most.
    """

    def __init__(self, bound: int, policy: Policy = "reject") -> None:
        self.bound = bound
        self.policy = policy
        self._interactive: OrderedDict[T, None] = OrderedDict()
        self._batch: OrderedDict[T, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._interactive) + len(self._batch)

    def __iter__(self) -> Iterator[T]:
        """In the order in which they will be taken."""
        return chain(self._interactive, self._batch)

    def __contains__(self, item: T) -> bool:
        return item in self._interactive or item in self._batch

    @property
    def room(self) -> int:
        """How many more it takes before it is full."""
        return max(0, self.bound - len(self))

    def put(self, item: T, priority: Priority) -> T | None:
        """Let an item wait behind those of its priority; what was dropped for it, or None.

        With `drop-lru` that is the batch item that has waited longest or, for an interactive one alone, the interactive
        item that has. Raises `QueueFullError`.
        """
        dropped = None if self.room else self._make_room(priority)
        self._line(priority)[item] = None
        return dropped

    def put_back(self, item: T, priority: Priority, precedes: Callable[[T], bool] = lambda _: False) -> None:
        """Let an item that was taken wait at the head of its priority, as it did before, however full the queue is.

        Of others at the head, those that `precedes` says came before it stay before it.
        """
        line = self._line(priority)
        line[item] = None
        line.move_to_end(item, last=False)
        for earlier in reversed(tuple(takewhile(precedes, islice(line, 1, None)))):
            line.move_to_end(earlier, last=False)

    def take(self, without: Collection[T] = ()) -> T | None:
        """The next item but for those left out, which waits no longer; None where no other waits."""
        item = next((each for each in self if each not in without), None) if without else next(iter(self), None)
        if item is not None:
            self.remove(item)
        return item

    def remove(self, item: T) -> bool:
        """Take out an item wherever it stands; whether it was there."""
        for line in (self._interactive, self._batch):
            if item in line:
                del line[item]
                return True
        return False

    def position(self, item: T, without: Collection[T] = ()) -> int | None:
        """How many are taken before it but for those left out; None where it does not wait. It looks through them."""
        before = 0
        for other in self:
            if other == item:
                return before
            before += other not in without
        return None

    def ahead_of(self, priority: Priority) -> int:
        """How many would be taken before one that is put now. Those are counted, not looked through."""
        return len(self._interactive) if priority == "interactive" else len(self)

    def _line(self, priority: Priority) -> OrderedDict[T, None]:
        return self._interactive if priority == "interactive" else self._batch

    def _make_room(self, priority: Priority) -> T:
        if self.policy == "drop-lru":
            lines = (self._batch, self._interactive) if priority == "interactive" else (self._batch,)
            for line in lines:
                if line:
                    return line.popitem(last=False)[0]
        raise QueueFullError(f"{len(self)} tasks wait, of {self.bound} that may")
