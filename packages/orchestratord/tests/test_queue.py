"""The queue of a pool against a model that is a list."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_orchestratord._queue import Policy, PoolQueue, Priority, QueueFullError

Step = tuple[Literal["put", "take", "back", "forget", "remove", "shut", "let", "open"], Priority, str | None, int]

PRIORITIES: st.SearchStrategy[Priority] = st.sampled_from(("interactive", "batch"))
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ("put", "put", "put", "take", "take", "back", "forget", "remove", "shut", "let", "let", "open")
        ),
        PRIORITIES,
        st.sampled_from((None, "a", "b")),
        st.integers(0, 30),
    ),
    max_size=60,
)


class Model:
    """What waits, as (batch, item, place), sorted; items are numbers in the order of their arrival."""

    def __init__(self, bound: int, policy: Policy) -> None:
        self.bound, self.policy = bound, policy
        self.waiting: list[tuple[bool, int, str | None]] = []
        self.let: dict[str, int] = {}

    def order(self) -> list[int]:
        return [item for _, item, _ in self.waiting]

    def may(self) -> list[int]:
        """Those that do not stand aside: of a place that is shut the first few."""
        left, found = dict(self.let), []
        for _, item, place in self.waiting:
            if place in left:
                left[place] -= 1
            if place not in left or left[place] >= 0:
                found.append(item)
        return found

    def put(self, item: int, priority: Priority, place: str | None) -> int | None:
        dropped = None
        if len(self.waiting) >= self.bound:
            may = [w for w in self.waiting if w[0]] or (self.waiting if priority == "interactive" else [])
            if self.policy == "reject" or not may:
                raise QueueFullError
            dropped = may[0][1]
            self.waiting.remove(may[0])
        self.put_back((priority == "batch", item, place))
        return dropped

    def put_back(self, item: tuple[bool, int, str | None]) -> None:
        self.waiting = sorted([*self.waiting, item], key=lambda each: each[:2])

    def take(self) -> tuple[bool, int, str | None] | None:
        may = self.may()
        if not may:
            return None
        (found,) = [each for each in self.waiting if each[1] == may[0]]
        self.waiting.remove(found)
        if found[2] in self.let:
            self.let[found[2]] -= 1
        return found

    def position(self, item: int) -> int:
        may = self.may()
        return may.index(item) if item in may else self.order().index(item)


def refused(queue: PoolQueue[int] | Model, item: int, priority: Priority, place: str | None = None) -> int | str | None:
    try:
        return queue.put(item, priority, place)
    except QueueFullError:
        return "full"


@given(st.integers(1, 6), st.sampled_from(("reject", "drop-lru")), STEPS)
def test_it_does_what_a_list_does(bound: int, policy: Policy, steps: list[Step]):
    """Order, drops, refusals, positions and length are the model's after every step, and nothing else is known."""
    queue, model = PoolQueue[int](bound, policy), Model(bound, policy)
    taken: list[tuple[bool, int, str | None]] = []
    for number, (step, priority, place, pick) in enumerate(steps):
        if step == "put":
            assert refused(queue, number, priority, place) == refused(model, number, priority, place)
        elif step == "take":
            item, found = queue.take(), model.take()
            assert item == (None if found is None else found[1])
            taken += [found] if found else []
        elif step == "back" and taken:
            back = taken.pop(pick % len(taken))
            queue.put_back(back[1])
            model.put_back(back)
        elif step == "forget" and taken:
            queue.forget(taken.pop(pick % len(taken))[1])
        elif step == "remove":
            there = model.waiting[pick % 8 : pick % 8 + 1]
            assert queue.remove(there[0][1] if there else -1) == bool(there)
            model.waiting = [each for each in model.waiting if each not in there]
        elif step == "shut" and place:
            queue.shut(place)
            model.let[place] = 0
        elif step == "let" and place in model.let:
            queue.let(place, pick % 4)
            model.let[place] += pick % 4
        elif step == "open" and place in model.let:
            queue.open(place)
            del model.let[place]

        assert list(queue) == model.order()
        assert [queue.position(item) for item in model.order()] == [model.position(item) for item in model.order()]
        assert len(queue) == len(model.waiting)
        assert queue.room == max(0, bound - len(queue))
        assert queue.position(-1) is None
        assert all(item in queue for item in model.order())
        assert -1 not in queue
        assert [queue.waits_for(each) for each in "ab"] == [any(w[2] == each for w in model.waiting) for each in "ab"]
        assert len(queue._known) == len(model.waiting) + len(taken)


@given(st.integers(1, 5), st.sampled_from(("reject", "drop-lru")), st.lists(PRIORITIES, max_size=40))
def test_it_never_holds_more_than_its_bound(bound: int, policy: Policy, arrivals: list[Priority]):
    """However many arrive, no more than the bound wait."""
    queue = PoolQueue[int](bound, policy)
    for number, priority in enumerate(arrivals):
        refused(queue, number, priority)

        assert len(queue) <= bound


@given(st.integers(1, 5), st.lists(PRIORITIES, max_size=40))
def test_batch_drops_no_interactive(bound: int, arrivals: list[Priority]):
    """What arrives as batch drops batch or is refused; the interactive ones stay, whatever the policy."""
    queue = PoolQueue[tuple[int, Priority]](bound, "drop-lru")
    for number, priority in enumerate(arrivals):
        try:
            dropped = queue.put((number, priority), priority)
        except QueueFullError:
            assert priority == "batch"
            assert {of for _, of in queue} == {"interactive"}
            continue

        assert dropped is None or priority == "interactive" or dropped[1] == "batch"


@given(st.lists(PRIORITIES, min_size=1, max_size=20), PRIORITIES)
def test_the_place_is_known_before(arrivals: list[Priority], priority: Priority):
    """`ahead_of` is the position that the next one gets."""
    queue = PoolQueue[int](100)
    for number, each in enumerate(arrivals):
        queue.put(number, each)
    ahead = queue.ahead_of(priority)
    queue.put(-1, priority)

    assert queue.position(-1) == ahead


def test_one_that_was_refused_elsewhere_keeps_its_turn():
    """What is put back is the next to be taken, even where its place was given away meanwhile."""
    queue = PoolQueue[str](2)
    queue.put("a", "interactive")
    queue.put("b", "interactive")
    assert queue.take() == "a"
    queue.put("c", "interactive")

    queue.put_back("a")

    assert list(queue) == ["a", "b", "c"]
    with pytest.raises(QueueFullError, match="3 tasks wait, of 2 that may"):
        queue.put("d", "interactive")


def test_what_is_put_back_keeps_its_turn():
    """Those that came before it stay before it, and the others behind it, in whatever order they are put back."""
    queue = PoolQueue[int](9)
    for item in range(4):
        queue.put(item, "batch")
    for _ in range(3):
        queue.take()

    for item in (1, 0, 2):
        queue.put_back(item)

    assert list(queue) == [0, 1, 2, 3]


def test_those_of_a_place_that_is_shut_stand_aside():
    """They keep their turns, count for nobody but each other, and as many as are let are taken."""
    queue = PoolQueue[str](9)
    for item, place in (("a", "x"), ("b", None), ("c", "x"), ("d", "y")):
        queue.put(item, "interactive", place)
    queue.shut("x")

    assert [queue.position(item) for item in "abcde"] == [0, 0, 2, 1, None]
    queue.let("x", 1)
    assert [queue.take() for _ in range(4)] == ["a", "b", "d", None]
    assert list(queue) == ["c"]


def test_one_that_is_removed_gives_way_to_the_next_of_its_place():
    """As many as were let are taken, whoever left meanwhile or came back before them."""
    queue = PoolQueue[int](9)
    for item in range(4):
        queue.put(item, "interactive", "x")
    taken = queue.take()
    queue.shut("x")
    queue.let("x", 2)
    queue.remove(2)
    queue.put_back(0)

    assert taken == 0
    assert [queue.take() for _ in range(3)] == [0, 1, None]
    queue.let("x", 1)
    queue.put(4, "interactive", "x")
    queue.remove(3)
    assert [queue.take() for _ in range(2)] == [4, None]


class Counted:
    """An item that counts how often it is looked up."""

    looks = 0

    def __hash__(self) -> int:
        Counted.looks += 1
        return id(self)


def test_it_looks_at_no_other_item():
    """However many stand aside, what is done with one item, or with the first of them, touches few."""
    queue = PoolQueue[Counted](2000, "drop-lru")
    aside, free = [Counted() for _ in range(1000)], [Counted() for _ in range(1000)]
    for one, other in zip(aside, free, strict=True):
        queue.put(one, "interactive", "full")
        queue.put(other, "interactive")
    queue.shut("full")
    queue.let("full", 1)
    Counted.looks = 0

    for item in (queue.take(), queue.take()):
        assert item in (aside[0], free[0])
        queue.put_back(item)
    queue.shut("full")
    assert (queue.position(aside[999]), queue.position(free[999])) == (1998, 999)
    assert queue.remove(aside[999])
    queue.put(Counted(), "interactive", "full")
    queue.put(Counted(), "interactive", "full")
    assert aside[0] not in queue
    assert Counted.looks < 60
