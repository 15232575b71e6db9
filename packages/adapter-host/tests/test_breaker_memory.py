"""What a rejection and a fault leave behind: nothing (ORCH-3602, battery 20)."""

import gc
import os
import sys
import tracemalloc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, FunctionType, ModuleType, TracebackType

import pytest
from llama_orch_adapter_host import _circuits
from llama_orch_adapter_host._breaker import Breaker, BreakerPolicy, Breakers

STATM = Path("/proc/self/statm")


class Prompt:
    """What a caller's frame holds."""


def open_breaker() -> Breaker:
    breakers = Breakers(random=lambda: 0.5, on_change=lambda _key, _state, _span: None)
    breaker = breakers.create("chat/r0#1", BreakerPolicy(consecutive=1))
    permit = breaker.enter(0.0)
    assert permit is not None
    breaker.leave(permit, "fault", 0.0)
    return breaker


def rejected(breaker: Breaker) -> "weakref.ref[Prompt]":
    """A caller that comes to an open breaker."""
    prompt = Prompt()
    assert breaker.enter(1.0) is None
    return weakref.ref(prompt)


def failed(breaker: Breaker) -> "weakref.ref[Prompt]":
    """A caller whose probe fails, and who says so while the exception is being handled."""
    prompt = Prompt()
    now = 100.0 + breaker.reopens_in(0.0)
    breaker.half_open(now)
    permit = breaker.enter(now)
    assert permit is not None
    try:
        raise ConnectionResetError
    except ConnectionResetError:
        breaker.leave(permit, "fault", now)
    return weakref.ref(prompt)


@contextmanager
def no_gc() -> Iterator[None]:
    """What is freed meanwhile was in no cycle."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def reachable(start: object) -> list[object]:
    """All that an object holds, directly or not; not what the code that it uses holds."""
    found = {id(start): start}
    fresh = [start]
    while fresh:
        fresh = [
            thing
            for thing in gc.get_referents(*fresh)
            if id(thing) not in found and not isinstance(thing, type | ModuleType | FunctionType)
        ]
        found.update((id(thing), thing) for thing in fresh)
    return list(found.values())


@pytest.mark.skipif(not STATM.exists(), reason="the resident size is read from Linux's /proc")
def test_breaker_memory():
    """ORCH-3602, battery 20: the process grows by less than 1 MB over 1,000,000 rejections."""
    breaker = open_breaker()

    def rss() -> int:
        return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    before = rss()
    admitted = sum(breaker.enter(1.0) is not None for _ in range(1_000_000))
    grown = rss() - before

    print(f"1000000 rejections: RSS +{grown / 1e6:.3f} MB")
    assert admitted == 0
    assert grown < 1_000_000


def test_a_rejection_allocates_next_to_nothing():
    """ORCH-3602, battery 20: 100,000 rejections at once hold less than 1 kB at their peak, and nothing afterwards."""
    breaker = open_breaker()
    enter, often = breaker.enter, range(100_000)
    enter(1.0)
    rounds = []
    for _ in range(3):  # threads of other tests may allocate meanwhile
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            for _ in often:
                enter(1.0)
            after, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        rounds.append((peak - before, after - before))
    highest, kept = min(rounds)

    print(f"100000 rejections: {kept} bytes kept, {highest} at the peak")
    assert highest < 1000
    assert kept < 100


@pytest.mark.parametrize("caller", [rejected, failed])
def test_no_frame_is_kept(caller: object):
    """ORCH-3602, battery 20: neither a rejection nor a fault keeps its caller's frame: what that held is freed at once.

    purgatory's open state is an exception: never raised, it has no traceback and no context.
    """
    breaker = open_breaker()
    with no_gc():
        prompts = [caller(breaker) for _ in range(1000)]  # type: ignore[operator]  # one of the two above
        alive = sum(prompt() is not None for prompt in prompts)
    held = reachable(breaker)

    print(f"{caller.__name__}: of 1000 callers {alive} alive")  # type: ignore[attr-defined]  # as above
    assert alive == 0
    assert breaker._circuit._state in held
    assert [thing for thing in held if isinstance(thing, FrameType | TracebackType)] == []
    for error in (breaker._circuit._state, _circuits._FAULT):
        assert isinstance(error, Exception)
        assert (error.__traceback__, error.__context__, error.__cause__) == (None, None, None)


def test_refcounts_stay():
    """ORCH-3602, battery 20: a rejection leaves not even a count behind."""
    breaker = open_breaker()
    before = [sys.getrefcount(thing) for thing in (breaker, breaker._circuit, breaker._circuit._state)]
    for _ in range(1000):
        breaker.enter(1.0)

    assert [sys.getrefcount(thing) for thing in (breaker, breaker._circuit, breaker._circuit._state)] == before
