import asyncio
import time

import pytest
from llama_orch_adapter_host._leash import SLOW, Leash


class Steps:
    """A clock that goes by what somebody takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def take(self, seconds: float) -> str:
        self.now += seconds
        return "answer"


def test_what_behaves_is_answered():
    """An answer in time is passed on with no fault."""
    assert Leash().call(lambda: "answer") == ("answer", "")


def test_a_slow_answer_counts_and_is_a_strike():
    """Battery 31: an answer that took longer than 10 ms is used and a strike; three in a row, and it is off."""
    steps = Steps()
    leash = Leash(steps)
    said = [leash.call(lambda seconds=seconds: steps.take(seconds)) for seconds in (SLOW, 0.02, 0.02, 0.03)]  # type: ignore[misc]  # a lambda with a default

    assert [answer for answer, _ in said] == ["answer"] * 4
    assert [fault for _, fault in said] == [
        "",
        "took 20 ms on the event loop",
        "took 20 ms on the event loop",
        "took 30 ms on the event loop, the last of 3 strikes in a row; it is asked no more",
    ]
    assert leash.off


def test_the_clock_is_a_real_one():
    """Battery 31: what keeps the processor busy is found out too."""
    began = time.perf_counter()

    def busy() -> None:
        while time.perf_counter() - began < 2 * SLOW:
            pass

    assert "ms on the event loop" in Leash().call(busy).fault


@pytest.mark.parametrize("leave", [KeyboardInterrupt, GeneratorExit, asyncio.CancelledError])
def test_what_goes_through(leave: type[BaseException]):
    """Ctrl-C and cancellations are nobody's fault."""
    leash = Leash()

    def ask() -> None:
        raise leave

    for _ in range(4):
        with pytest.raises(leave):
            leash.call(ask)
    assert not leash.off
