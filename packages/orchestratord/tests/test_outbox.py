"""What is kept unread, and what makes room."""

import asyncio

import pytest
from llama_orch_orchestratord._outbox import Outbox


def test_frames_come_out_in_order_and_whole() -> None:
    """As many as fit are taken at once, never a part of one."""
    outbox = Outbox(10, 1000)
    for frame in (b"one", b"two", b"three"):
        assert outbox.offer(frame)

    assert outbox.take(7) == b"onetwo"
    assert outbox.take(7) == b"three"
    assert outbox.take(7) == b""


@pytest.mark.parametrize(("most", "most_bytes", "kept"), [(2, 1000, 2), (100, 10, 3)])
def test_it_is_bounded_by_count_and_weight(most: int, most_bytes: int, kept: int) -> None:
    """Whichever bound is met first holds, and what is refused is not kept."""
    outbox = Outbox(most, most_bytes)

    assert sum(outbox.offer(b"123") for _ in range(10)) == kept
    assert len(outbox) == kept


def test_what_may_be_dropped_leaves_half_the_room() -> None:
    """Frames that may be dropped never take the second half."""
    outbox = Outbox(10, 1000)

    assert sum(outbox.offer_spare(b"m") for _ in range(10)) == 5
    assert sum(outbox.offer(b"t") for _ in range(10)) == 5


def test_the_last_frame_is_always_taken() -> None:
    """It closes the box, after which nothing is."""
    outbox = Outbox(1, 10)
    outbox.offer(b"first")
    outbox.close(b"last, and longer than all that may be kept")
    outbox.close(b"another one")

    assert not outbox.offer(b"late")
    assert outbox.take(1) + outbox.take(1) == b"firstlast, and longer than all that may be kept"


def test_a_reader_is_called_for_each_frame() -> None:
    """It is told of every one that was kept, the last included."""
    calls: list[int] = []
    outbox = Outbox(10, 1000)
    outbox.on_change = lambda: calls.append(len(outbox))
    outbox.offer(b"1")
    outbox.offer(b"2")
    outbox.take(1000)
    outbox.close(b"end")

    assert calls == [1, 2, 1]


async def test_who_waits_for_room_is_woken_by_a_taker() -> None:
    """Taking or forgetting frames lets the one who waits go on."""
    for free in (lambda box: box.take(100), lambda box: box.clear()):
        outbox = Outbox(1, 1000)
        outbox.offer(b"1")
        waiting = asyncio.create_task(outbox.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        free(outbox)
        await waiting

        assert not outbox.full
