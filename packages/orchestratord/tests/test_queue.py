"""The queue of a pool against a model that is a list."""

from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_orchestratord._queue import Policy, PoolQueue, Priority, QueueFullError

Step = tuple[Literal["put", "take", "back", "remove"], Priority, int]

PRIORITIES: st.SearchStrategy[Priority] = st.sampled_from(("interactive", "batch"))
STEPS = st.lists(
    st.tuples(st.sampled_from(("put", "put", "put", "take", "back", "remove")), PRIORITIES, st.integers(0, 30)),
    max_size=60,
)


class Model:
    """What waits, as (item, priority) in the order of arrival; those put back come first."""

    def __init__(self, bound: int, policy: Policy) -> None:
        self.bound, self.policy = bound, policy
        self.waiting: list[tuple[int, Priority]] = []

    def order(self) -> list[int]:
        return [item for item, _ in sorted(self.waiting, key=lambda each: each[1] == "batch")]

    def put(self, item: int, priority: Priority) -> int | None:
        dropped = None
        if len(self.waiting) >= self.bound:
            may = [w for w in self.waiting if w[1] == "batch"] or (self.waiting if priority == "interactive" else [])
            if self.policy == "reject" or not may:
                raise QueueFullError
            dropped = may[0][0]
            self.waiting.remove(may[0])
        self.waiting.append((item, priority))
        return dropped

    def take(self) -> tuple[int, Priority] | None:
        if not self.waiting:
            return None
        first = self.order()[0]
        (found,) = [each for each in self.waiting if each[0] == first]
        self.waiting.remove(found)
        return found


def refused(queue: PoolQueue[int] | Model, item: int, priority: Priority) -> int | str | None:
    try:
        return queue.put(item, priority)
    except QueueFullError:
        return "full"


@given(st.integers(1, 6), st.sampled_from(("reject", "drop-lru")), STEPS)
def test_it_does_what_a_list_does(bound: int, policy: Policy, steps: list[Step]):
    """Order, drops, refusals, positions and length are the model's after every step."""
    queue, model = PoolQueue[int](bound, policy), Model(bound, policy)
    taken: list[tuple[int, Priority]] = []
    for number, (step, priority, pick) in enumerate(steps):
        if step == "put":
            assert refused(queue, number, priority) == refused(model, number, priority)
        elif step == "take":
            item, found = queue.take(), model.take()
            assert item == (None if found is None else found[0])
            taken += [found] if found else []
        elif step == "back" and taken:
            item, of = taken.pop()
            queue.put_back(item, of)
            model.waiting.insert(0, (item, of))
        elif step == "remove":
            there = [each for each in model.waiting if each[0] == pick]
            assert queue.remove(pick) == bool(there)
            model.waiting = [each for each in model.waiting if each not in there]

        assert list(queue) == model.order()
        assert [queue.position(item) for item in model.order()] == list(range(len(queue)))
        assert len(queue) == len(model.waiting)
        assert queue.room == max(0, bound - len(queue))
        assert queue.position(-1) is None
        assert all(item in queue for item in model.order())
        assert -1 not in queue


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

    queue.put_back("a", "interactive")

    assert list(queue) == ["a", "b", "c"]
    with pytest.raises(QueueFullError, match="3 tasks wait, of 2 that may"):
        queue.put("d", "interactive")


def test_those_that_came_before_stay_before():
    """What is put back stands behind those at the head that came before it, and before all others."""
    queue = PoolQueue[int](9)
    for item in (4, 6, 1):
        queue.put(item, "batch")

    queue.put_back(5, "batch", lambda other: other < 5)

    assert list(queue) == [4, 5, 6, 1]


def test_some_may_be_left_out():
    """Those left out keep their place, and count for nobody."""
    queue = PoolQueue[str](9)
    for item in ("a", "b", "c"):
        queue.put(item, "interactive")
    queue.put("d", "batch")

    assert [queue.position(item, {"a", "c"}) for item in ("a", "b", "c", "d", "e")] == [0, 0, 1, 1, None]
    assert [queue.take({"a", "c"}) for _ in range(3)] == ["b", "d", None]
    assert list(queue) == ["a", "c"]
