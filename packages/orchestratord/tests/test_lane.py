"""What may start of one pool, and when."""

import pytest
from llama_orch_adapter_api import End, InternalError, Started, TaskRequest, Token, WorkerError
from llama_orch_orchestratord._job import Job
from llama_orch_orchestratord._lane import Lane
from llama_orch_orchestratord._outbox import Outbox


def job(admitted: float = 0.0, replica_id: str | None = None) -> Job:
    return Job("chat", TaskRequest(prompt="a", replica_id=replica_id), Outbox(1, 1), admitted)


def lane_of(*jobs: Job) -> Lane:
    lane = Lane("chat", 100, "reject")
    for each in jobs:
        lane.queue.put(each, each.priority)
    return lane


def test_no_more_start_than_there_are_slots() -> None:
    """A slot is taken until its task is over."""
    jobs = [job(), job(), job()]
    lane = lane_of(*jobs)

    assert [lane.next(0.0, 2) for _ in range(3)] == [jobs[0], jobs[1], None]
    lane.left(jobs[0], 1.0)
    assert lane.next(1.0, 2) is jobs[2]


def test_nothing_starts_in_a_pause() -> None:
    """A pause is over when its time is, or when the pool was seen to take tasks again, whatever was asked for."""
    first, second = job(), job()
    lane = lane_of(first, second)
    lane.pause(5.0, 0.0, spread=0.0)
    starts = [lane.next(4.9, 2), lane.next(5.0, 2)]
    lane.pause(30.0, 6.0, spread=0.0)
    starts.append(lane.next(7.0, 2))
    lane.open(7.0)

    assert [*starts, lane.next(7.0, 2)] == [None, first, None, second]


def test_the_last_look_at_a_pool_says_how_long_it_pauses() -> None:
    """A later look may shorten a pause: another replica will take tasks sooner."""
    lane = lane_of()
    lane.pause(30.0, 0.0, spread=0.0)
    lane.pause(2.0, 1.0, spread=0.0)

    assert lane.paused_until == 3.0


def test_a_guessed_pause_grows() -> None:
    """Where nobody knows how long, each pause is twice the one before, up to 5 s; looks within one change nothing."""
    lane = lane_of(job())
    spans = []
    for now in range(0, 1000, 100):
        lane.pause(None, float(now), spread=0.0)
        lane.pause(None, now + 0.1, spread=0.0)
        spans.append(lane.paused_until - now)

    assert spans == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, 5.0]


def test_a_pool_that_opened_forgets_its_pauses() -> None:
    """After it was seen to take tasks, the next pause is a short one again."""
    lane = lane_of()
    for now in range(4):
        lane.pause(None, now * 100.0, spread=0.0)
    lane.open(400.0)
    lane.pause(None, 500.0, spread=1.0)

    assert lane.paused_until == 500.125


def test_those_pushed_back_keep_their_order() -> None:
    """Whichever of them is pushed back first, the one that came first starts first."""
    jobs = [job(float(i)) for i in range(4)]
    lane = lane_of(*jobs)
    for _ in range(3):
        lane.next(0.0, 3)
    for each in (jobs[1], jobs[2], jobs[0]):
        lane.put_back(each)

    assert [lane.next(1.0, 9) for _ in range(4)] == jobs


def test_equals_pushed_back_keep_their_order() -> None:
    """Tasks of the same moment start as they were pushed back."""
    jobs = [job() for _ in range(3)]
    lane = lane_of(*jobs)
    for _ in range(3):
        lane.next(0.0, 3)
    for each in jobs:
        lane.put_back(each)

    assert [lane.next(1.0, 9) for _ in range(3)] == jobs


def test_one_pushed_back_late_keeps_its_order() -> None:
    """Though others flow meanwhile, a task that came later than those that were put back waits behind them."""
    jobs = [job(float(i)) for i in range(5)]
    lane = lane_of(*jobs)
    for _ in range(4):
        lane.next(0.0, 4)
    lane.put_back(jobs[0])
    lane.put_back(jobs[2])
    lane.flows(jobs[1], 1.0)
    lane.put_back(jobs[3])

    assert [lane.next(1.0, 9) for _ in range(4)] == [jobs[0], jobs[2], jobs[3], jobs[4]]


def test_others_go_past_a_parked_one() -> None:
    """A task that waits for its own replica keeps its place, starts nothing, and is in nobody's way."""
    pinned, second, third = job(0.0, "1"), job(1.0), job(2.0)
    lane = lane_of(pinned, second, third)
    lane.next(2.0, 9)
    lane.put_back(pinned)
    until = lane.park(pinned, 7.0, 2.0, spread=0.0)
    places = [lane.position(each) for each in (pinned, second, third)]
    started = lane.next(2.0, 9)
    lane.unpark(pinned)

    assert (until, places) == (9.0, [0, 0, 1])
    assert started is second
    assert lane.position(third) == 1
    assert [lane.next(9.0, 9) for _ in range(3)] == [pinned, third, None]


def test_parked_ones_are_in_order() -> None:
    """Each stands behind those that wait before it, parked or not; a predicted start counts those that start."""
    jobs = [job(0.0), job(1.0, "1"), job(2.0, "1"), job(3.0)]
    lane = lane_of(*jobs)
    for each in jobs[1:3]:
        lane.park(each, None, 3.0, spread=0.0)
    lane.forecast.served(2.0)

    assert [lane.position(each) for each in jobs] == [0, 1, 2, 1]
    assert lane.predicted(jobs[3], 3.0, 1) == 2.0


def test_a_parked_one_waits_for_no_longer_than_its_replica_may_ask() -> None:
    """An hour is 30 s; where nobody said how long, each time is twice the one before, up to 5 s."""
    pinned = job(0.0, "1")
    lane = lane_of(pinned)
    asked = lane.park(pinned, 3600.0, 0.0, spread=0.0)
    pinned.pushes = 0

    assert asked == 30.0
    assert [lane.park(pinned, None, 0.0, spread=0.0) for _ in range(7)] == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_free_slot_is_for_the_first_who_waits_for_one_there() -> None:
    """Those of other replicas wait on, and so does one whose replica said for how long."""
    told, elsewhere, first, second = job(0.0, "1"), job(1.0, "0"), job(2.0, "1"), job(3.0, "1")
    lane = lane_of(told, elsewhere, first, second)
    nobody = lane.hopeful("1")
    lane.park(told, 5.0, 3.0, spread=0.0)
    for each in (elsewhere, second, first):
        lane.park(each, None, 3.0, spread=0.0)

    assert nobody is None
    assert lane.parked("1") == [told, first, second]
    assert lane.hopeful("1") is first
    assert lane.parked_up_to(first) == [told, first]


def test_a_parked_one_that_is_over_is_parked_no_more() -> None:
    """Whatever ended it."""
    pinned = job(0.0, "1")
    lane = lane_of(pinned)
    lane.park(pinned, None, 0.0, spread=0.0)
    lane.queue.remove(pinned)
    pinned.end(CANCELLED, 1.0)
    lane.left(pinned, 1.0)
    lane.queue.put(pinned, "interactive")

    assert lane.next(1.0, 1) is pinned


def test_a_start_is_predicted() -> None:
    """0 for what runs; for what waits as many service times as there are turns before it."""
    jobs = [job() for _ in range(4)]
    lane = lane_of(*jobs)
    first = lane.next(0.0, 1)
    assert first is not None
    first.started = 0.0
    unknown = lane.predicted(jobs[1], 0.0, 1)
    lane.left(first, 2.0)
    lane.next(2.0, 1)

    assert unknown is None
    assert lane.predicted(jobs[1], 2.0, 1) == 0.0
    assert lane.predicted(jobs[2], 2.0, 1) == 2.0
    assert lane.predicted(jobs[3], 2.0, 1) == 4.0
    assert lane.predicted(jobs[0], 2.0, 1) is None


OK = End(1, 2, "stop")
CANCELLED = End(None, None, "cancelled")


@pytest.mark.parametrize(
    ("outcome", "ending"), [(OK, "ok"), (CANCELLED, "cancelled"), (InternalError("no", detail="engine"), "failed")]
)
def test_endings_are_counted(outcome: End | WorkerError, ending: str) -> None:
    """Each task once, whether it ever ran or not; how long it took counts where it ended well."""
    ran, waited = job(), job(0.5)
    lane = lane_of(ran)
    lane.next(1.0, 1)
    for each in (ran, waited):
        each.end(outcome, 3.0)
        lane.left(each, 3.0)

    assert lane.ended == {ending: 2}
    assert lane.totals.within(3.0) == ([3.0] if ending == "ok" else [])


def test_a_first_token_counts_from_the_admission() -> None:
    """The wait in the queue is a part of it."""
    first = job(1.0)
    lane = lane_of(first)
    lane.next(4.0, 1)
    lane.flows(first, 5.0)

    assert lane.first_tokens.within(5.0) == [4.0]


async def test_tokens_are_counted_and_stay_so() -> None:
    """What a task told counts while it runs and after it; its begin and its end are no tokens."""
    first, second = Job("chat", TaskRequest(prompt="a"), Outbox(9, 999), 0.0), job()
    lane = lane_of(first, second)
    lane.next(0.0, 2)
    lane.next(0.0, 2)
    before = lane.told
    for event in (Started("words", "1", "m", "chat/0"), Token("a", 0), Token("b", 1)):
        await first.tell(event)
    during = lane.told
    first.end(OK, 1.0)
    ended = lane.told
    lane.left(first, 1.0)

    assert (before, during, ended, lane.told) == (0, 2, 2, 2)
