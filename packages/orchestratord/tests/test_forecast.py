"""What is told of the start of a task, and what then happens."""

import heapq
import random

import pytest
from llama_orch_orchestratord._forecast import BACKOFF_LONGEST, BACKOFF_SHORTEST, BACKOFF_UNKNOWN, Forecast


def served(*seconds: float) -> Forecast:
    forecast = Forecast()
    for each in seconds:
        forecast.served(each)
    return forecast


def test_the_latest_weigh_most():
    """The mean follows a change: the first counts whole, each later one a fifth."""
    assert Forecast().service is None
    assert served(4.0).service == 4.0
    assert served(4.0, 9.0).service == pytest.approx(5.0)
    assert served(100.0, *[1.0] * 40).service == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(
    ("ahead", "running", "slots", "seconds"),
    [
        (0, 0, 4, 0.0),  # a free slot
        (3, 0, 4, 0.0),  # the last free slot
        (4, 0, 4, 2.0),  # one has to end: four end in 8 s
        (0, 4, 4, 2.0),
        (7, 4, 4, 16.0),
        (0, 1, 1, 8.0),
        (0, 6, 4, 6.0),  # more run than there are slots now: a replica was taken out
    ],
)
def test_a_start_is_so_many_ends_away(ahead: int, running: int, slots: int, seconds: float):
    """With tasks of 8 s, one ends every 8 s / slots, and a task starts when enough have."""
    assert served(8.0).start(ahead, running, slots) == seconds


def test_nobody_knows_a_start_without_figures():
    """With no task ended, or no slot, only a free slot's start is told; a pool that is paused starts nothing before."""
    assert Forecast().start(0, 4, 4) is None
    assert Forecast().start(0, 3, 4) == 0.0
    assert served(1.0).start(0, 0, 0) is None
    assert served(1.0).start(0, 0, 4, pause=3.0) == 3.0
    assert served(1.0).start(0, 4, 4, pause=3.0) == 3.0
    assert served(8.0).start(3, 4, 4, pause=3.0) == 8.0


def test_a_full_queue_asks_to_stay_away_until_one_ends():
    """With room, nobody need wait; without, one to two times the time between two ends, within bounds."""
    forecast = served(8.0)

    assert forecast.backoff(1, 4, 0.5) == 0.0
    assert forecast.backoff(0, 4, 0.0) == 2.0
    assert forecast.backoff(0, 4, 0.5) == 3.0
    assert forecast.backoff(0, 4, 0.0, pause=5.0) == 7.0
    assert Forecast().backoff(0, 4, 0.0) == BACKOFF_UNKNOWN
    assert forecast.backoff(0, 0, 0.0) == BACKOFF_UNKNOWN
    assert served(0.0).backoff(0, 4, 1.0) == BACKOFF_SHORTEST
    assert served(1e6).backoff(0, 4, 0.0) == BACKOFF_LONGEST


@pytest.mark.parametrize("seed", range(5))
def test_what_is_told_is_what_happens(seed: int):
    """In a loaded pool of 4 slots and tasks of 2 to 6 s, what is told errs by less than a third of the mean wait."""
    draw = random.Random(seed)
    slots, forecast, now = 4, Forecast(), 0.0
    free_at = [0.0] * slots
    present: list[tuple[float, float]] = []  # when each that waits or runs will have ended, and how long that takes
    told = waited = 0.0
    for _ in range(2000):
        now += draw.expovariate(0.9)  # the slots serve 1 a second
        while present and present[0][0] <= now:
            forecast.served(heapq.heappop(present)[1])
        running = min(len(present), slots)
        guess = forecast.start(len(present) - running, running, slots)
        start, seconds = max(now, heapq.heappop(free_at)), draw.uniform(2.0, 6.0)
        heapq.heappush(free_at, start + seconds)
        heapq.heappush(present, (start + seconds, seconds))
        if guess is not None:
            told += abs(guess - (start - now))
            waited += start - now

    print(f"seed {seed}: mean wait {waited / 2000:.2f} s, mean error {told / 2000:.2f} s")
    assert told < waited / 3
