"""What was handed out is kept for a while, and handed out again to who missed it."""

import pytest
from llama_orch_orchestratord._replay import ReplayOutbox


def frame(number: int, size: int = 0) -> bytes:
    return b"event: token\nid: %d\ndata: %b\n\n" % (number, b"x" * size)


def gap(first: int, last: int) -> bytes:
    return b'event: gap\ndata: {"first":%d,"last":%d}\n\n' % (first, last)


def outbox(handed: int, waiting: int = 0, memory: int = 10_000) -> ReplayOutbox:
    """So many frames were handed out, and so many more wait."""
    box = ReplayOutbox(1000, 100_000, memory)
    for number in range(handed + waiting):
        if number % 2 and number < handed:
            box.sent(frame(number))  # past it
        else:
            box.offer(frame(number))
        if number < handed:
            box.take(100_000)
    return box


def everything(box: ReplayOutbox) -> bytes:
    return box.take(1_000_000)


@pytest.mark.parametrize("seen", range(6))
def test_what_follows_is_handed_out_again(seen: int) -> None:
    """From the event after the one that was seen last, and then what nobody was handed yet; once more, too."""
    box = outbox(4, waiting=2)
    for _ in range(2):
        box.resume(seen)

        assert everything(box) == b"".join(frame(number) for number in range(seen + 1, 6))


def test_who_says_nothing_is_told_of_what_is_missing() -> None:
    """Nothing is repeated to it; the first reader of all misses nothing."""
    first, later = outbox(0, waiting=2), outbox(3, waiting=1)
    for box in (first, later):
        box.resume(None)

    assert everything(first) == frame(0) + frame(1)
    assert everything(later) == gap(0, 2) + frame(3)


def test_what_is_older_than_the_memory_is_a_gap() -> None:
    """The bound is kept, the rest comes; the last frame is kept whatever its size."""
    box = outbox(6, memory=2 * len(frame(0)))
    box.resume(1)
    told = everything(box)
    box.sent(frame(6, 1000))
    box.resume(4)

    assert told == gap(2, 3) + frame(4) + frame(5)
    assert everything(box) == gap(5, 5) + frame(6, 1000)


def test_a_gap_that_nobody_took_is_told_anew() -> None:
    """It is none of the events: the next reader may miss more, or less."""
    box = outbox(3, waiting=1)
    box.resume(None)
    box.resume(1)

    assert everything(box) == frame(2) + frame(3)


@pytest.mark.parametrize("seen", [None, 1])
def test_a_task_that_is_over_has_its_end_told_to_whoever_comes(seen: int | None) -> None:
    """That its last frame was handed out does not mean that it arrived; it is spent once all was written."""
    box = outbox(2)
    box.close(frame(2))
    everything(box)
    before = box.spent
    box.resume(seen)

    assert not before
    assert everything(box) == (gap(0, 1) if seen is None else b"") + frame(2)
    box.deliver()
    assert box.spent
    assert box.repeats
    box.resume(seen)
    assert not box.spent


def test_what_is_cleared_is_not_repeated() -> None:
    """Of a task that was cancelled not one token is handed out, whatever a reader asks for."""
    box = outbox(3, waiting=2)
    box.clear()
    box.close(frame(5))
    box.resume(0)

    assert everything(box) == gap(1, 2) + frame(5)


def test_what_is_put_back_counts_against_the_bound() -> None:
    """The engine waits while a reader that came back has not caught up."""
    box = ReplayOutbox(2, 100_000)
    for number in range(2):
        box.offer(frame(number))
    everything(box)
    room = box.offer(frame(2))
    box.resume(-1)

    assert (room, box.offer(frame(3)), len(box)) == (True, False, 3)
    assert everything(box) == frame(0) + frame(1) + frame(2)
    assert box.offer(frame(3))
