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
        lane.queue.put(each, each.priority, each.replica_id)
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
    lane.pause.extend(5.0, 0.0, spread=0.0)
    starts = [lane.next(4.9, 2), lane.next(5.0, 2)]
    lane.pause.extend(30.0, 6.0, spread=0.0)
    starts.append(lane.next(7.0, 2))
    lane.pause.forget(7.0)

    assert [*starts, lane.next(7.0, 2)] == [None, first, None, second]


def test_the_last_look_at_a_pool_says_how_long_it_pauses() -> None:
    """A later look may shorten a pause: another replica will take tasks sooner."""
    lane = lane_of()
    lane.pause.extend(30.0, 0.0, spread=0.0)
    lane.pause.extend(2.0, 1.0, spread=0.0)

    assert lane.pause.until == 3.0


def test_a_guessed_pause_grows() -> None:
    """Where nobody knows how long, each pause is twice the one before, up to 5 s; looks within one change nothing."""
    lane = lane_of(job())
    spans = []
    for now in range(0, 1000, 100):
        lane.pause.extend(None, float(now), spread=0.0)
        lane.pause.extend(None, now + 0.1, spread=0.0)
        spans.append(lane.pause.until - now)

    assert spans == [0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 5.0, 5.0, 5.0]


def test_a_guess_goes_on_from_the_last_one() -> None:
    """Though somebody said how long meanwhile: nothing was taken. It may shorten what was said."""
    lane = lane_of()
    lane.pause.extend(None, 0.0, spread=0.0)
    lane.pause.extend(30.0, 1.0, spread=0.0)
    lane.pause.extend(None, 2.0, spread=0.0)

    assert lane.pause.until == 2.5


def test_a_pool_that_opened_forgets_its_pauses() -> None:
    """After it was seen to take tasks, the next pause is a short one again."""
    lane = lane_of()
    for now in range(4):
        lane.pause.extend(None, now * 100.0, spread=0.0)
    lane.pause.forget(400.0)
    lane.pause.extend(None, 500.0, spread=1.0)

    assert lane.pause.until == 500.125


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


def start(lane: Lane, *jobs: Job) -> None:
    """Hand out these, which are the next."""
    assert tuple(lane.next(0.0, 99) for _ in jobs) == jobs


def refuse(lane: Lane, *jobs: Job, seconds: float | None = None, now: float = 0.0) -> float:
    """Their replica has no place for these, which were handed out; until when it is left alone."""
    until = 0.0
    for each in jobs:
        lane.put_back(each)
        until = lane.refused(each.replica_id or "", seconds, now, spread=0.0)
    return until


def test_others_go_past_those_whose_replica_is_full() -> None:
    """A task that waits for its own replica keeps its turn, starts nothing, and is in nobody's way."""
    pinned, second, third = job(0.0, "1"), job(1.0), job(2.0)
    lane = lane_of(pinned, second, third)
    start(lane, pinned)
    until = refuse(lane, pinned, seconds=7.0, now=2.0)
    places = [lane.position(each) for each in (pinned, second, third)]
    start(lane, second)
    lane.look_again("1", 9.0)

    assert (until, places) == (9.0, [0, 0, 1])
    assert lane.position(third) == 1
    assert [lane.next(9.0, 9) for _ in range(3)] == [pinned, third, None]


def test_those_that_stand_aside_are_in_order() -> None:
    """Each stands behind those that wait before it, aside or not; a predicted start counts those that start."""
    pushed, *jobs = [job(0.0, "1"), job(1.0), job(2.0, "1"), job(3.0, "1"), job(4.0)]
    lane = lane_of(pushed, *jobs)
    start(lane, pushed)
    refuse(lane, pushed)
    lane.forecast.served(2.0)

    assert [lane.position(each) for each in (pushed, *jobs)] == [0, 0, 2, 3, 1]
    assert lane.predicted(jobs[3], 3.0, 1) == 2.0


def test_a_full_replica_is_left_alone_for_no_longer_than_it_may_ask() -> None:
    """An hour is 30 s; where it did not say how long, each time is twice the one before, up to 5 s."""
    pinned = job(0.0, "1")
    lane = lane_of(pinned)
    start(lane, pinned)
    spans = [refuse(lane, pinned, seconds=3600.0)]
    for now in range(100, 800, 100):
        lane.look_again("1", float(now))
        assert lane.next(now, 9) is pinned
        spans.append(refuse(lane, pinned, now=now) - now)

    assert spans == [30.0, 0.25, 0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_several_that_are_refused_at_once_are_one_refusal() -> None:
    """What was under way together tells nothing new: the replica is left alone no longer for it."""
    jobs = [job(float(i), "1") for i in range(3)]
    lane = lane_of(*jobs)
    start(lane, *jobs)

    assert refuse(lane, *jobs) == 0.25


def test_one_tries_for_all_who_wait_for_a_full_replica() -> None:
    """Where it is refused, too, the others stay where they are; those of other replicas are not looked at."""
    first, second, third, elsewhere = job(0.0, "1"), job(1.0, "1"), job(2.0, "1"), job(3.0, "0")
    lane = lane_of(first, second, third, elsewhere)
    start(lane, first, second)
    refuse(lane, second, first)
    start(lane, elsewhere)
    refuse(lane, elsewhere)
    for _ in range(2):
        lane.look_again("1", 1.0)
    tried = [lane.next(1.0, 9) for _ in range(2)]
    refuse(lane, first, now=1.0)

    assert tried == [first, None]
    assert lane.next(1.0, 9) is None
    assert [lane.position(each) for each in (first, second, third)] == [0, 1, 2]


def test_more_try_as_tasks_are_taken() -> None:
    """Two for each one that a replica took since it was looked at again, until one is refused."""
    jobs = [job(float(i), "1") for i in range(9)]
    lane = lane_of(*jobs)
    start(lane, jobs[0])
    refuse(lane, jobs[0])
    before = lane.took("1", 0.0), lane.next(0.0, 99)
    lane.look_again("1", 1.0)
    start(lane, jobs[0])
    grown = [lane.took("1", 1.0), lane.took("2", 1.0)]
    start(lane, *jobs[1:3])
    rest = lane.next(1.0, 99)
    refuse(lane, jobs[2], now=1.0)

    assert (before, grown, rest) == ((False, None), [True, False], None)
    assert (lane.took("1", 1.0), lane.next(1.0, 99)) == (False, None)


def test_a_replica_that_is_done_with_a_task_has_a_place_for_one() -> None:
    """One may try then, but not where the replica said when it will have one."""
    jobs = [job(float(i), "1") for i in range(3)]
    lane = lane_of(*jobs)
    start(lane, jobs[0])
    refuse(lane, jobs[0], seconds=5.0)
    lane.done("1")
    told = lane.next(1.0, 9)
    lane.look_again("1", 5.0)
    start(lane, jobs[0])
    refuse(lane, jobs[0], now=5.0)
    lane.done("0")
    other = lane.next(5.0, 9)
    lane.done("1")

    assert (told, other) == (None, None)
    assert [lane.next(5.0, 9) for _ in range(2)] == [jobs[0], None]


def test_a_replica_that_nobody_waits_for_is_full_no_more() -> None:
    """Whatever ended the last one that did: all that come then try."""
    pinned, *later = job(0.0, "1"), job(1.0, "1"), job(2.0, "1")
    lane = lane_of(pinned)
    start(lane, pinned)
    refuse(lane, pinned, seconds=20.0)
    lane.queue.remove(pinned)
    pinned.end(CANCELLED, 1.0)
    lane.left(pinned, 1.0)
    lane.look_again("1", 1.0)  # its time is over later
    for each in later:
        lane.queue.put(each, "interactive", "1")

    assert [lane.next(1.0, 9) for _ in later] == later


def test_a_task_that_is_over_is_known_no_more() -> None:
    """Its turn is kept for as long as it may be put back."""
    ran = job()
    lane = lane_of(ran)
    start(lane, ran)
    before = len(lane.queue._known)
    ran.end(OK, 1.0)
    lane.left(ran, 1.0)

    assert (before, len(lane.queue._known)) == (1, 0)


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
