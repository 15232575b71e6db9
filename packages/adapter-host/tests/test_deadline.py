"""Deadlines and limits over all attempts of a task, and clocks that jump (battery 22, 24, 25)."""

import asyncio
import collections
import math
import random
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any, get_args

import msgspec
import pytest
from llama_orch_adapter_api import (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    Phase,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    WorkerError,
)
from llama_orch_adapter_host import AdapterHost, PoolPolicy
from llama_orch_adapter_host._events import HostEvent
from llama_orch_adapter_host._retry import RetryPolicy
from llama_orch_adapter_host._watch import INTERVAL

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    drained,
    end,
    host_of,
    moment,
    now,
    run_many,
    task,
    virtual,
)
from .replicas import (  # type: ignore[import-not-found]  # as above
    ANSWER,
    DOWN,
    LOADING,
    NEVER_OPEN,
    READY,
    Lingering,
    Replica,
    Step,
    broke,
    left_behind,
    loading,
    outcome_of,
    overloaded,
    record_of,
    refused,
    reset,
)

MIN_USEFUL = 0.05


# --- deadlines


@virtual
async def test_a_deadline_bounds_the_back_offs():
    """Battery 24: a back-off that would pass the deadline is not begun: the failure is told at once, with time left."""
    replica = Replica((refused(),))
    policy = PoolPolicy(retry=RetryPolicy(attempts=100, base=1, cap=1))
    async with host_of(replica, policy=policy) as host:
        error = await outcome_of(host, task(deadline_ms=3000))

        assert isinstance(error, WorkerError)
        assert error.detail == "unreachable"
        assert now() < 3 - MIN_USEFUL
        assert replica.asked[-1] == moment(now())
        assert left_behind(host) == []


@virtual
async def test_a_deadline_goes_on_through_the_attempts():
    """Battery 24: each attempt has what is left of the one deadline, and the last one ends in that very moment."""
    replica = Replica((0.4, overloaded(0.5)), (STARTED, 99))
    async with host_of(replica) as host:
        request = task(deadline_ms=2000)
        error = await outcome_of(host, request)

        assert isinstance(error, DeadlineUnmet)
        assert (error.detail, error.phase, error.attempts) == ("first_token", "first_token", 2)
        assert now() == moment(2)
        assert [each.outcome for each in record_of(host, request).attempts] == ["backpressure", "cancelled"]


@pytest.mark.parametrize("blocked", [False, True], ids=["awaited", "entered"])
@pytest.mark.parametrize("script", [(99,), (STARTED, 99), (STARTED, Token("a", 0), 99)])
@virtual
async def test_nobody_waits_for_a_close_past_a_deadline(script: tuple[Step, ...], blocked: bool):
    """Battery 24: a missed deadline is told in its moment, also where the adapter's iterator takes long to close."""
    replica = Lingering(script, tidying=0.5)
    async with host_of(replica) as host:
        request = task(deadline_ms=1000)
        with pytest.raises(DeadlineUnmet):
            if blocked:
                async with host.submit("pool", request) as stream:
                    await drained(stream)
            else:
                await drained(await host.submit("pool", request))

        assert now() == moment(1)
        with pytest.raises(AdapterError, match="has not let go of it yet"):
            await host.submit("pool", request)
        assert len(left_behind(host)) == 1
        await asyncio.sleep(0.6)
        assert left_behind(host) == []


class Dated(Replica):
    """Keeps the tasks that it gets."""

    def __init__(self, *scripts: Sequence[Step]) -> None:
        super().__init__(*scripts)
        self.got: list[TaskRequest] = []

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.got.append(task)
        return super().submit(task)


@pytest.mark.parametrize(
    ("script", "phase", "where"),
    [
        ((99,), "connect", "before the engine answered"),
        ((STARTED, 99), "first_token", "before the first token"),
        ((STARTED, Token("a", 0), 99), "decode", "while the engine wrote"),
    ],
    ids=["connect", "first_token", "decode"],
)
@virtual
async def test_a_missed_deadline_names_its_phase(script: tuple[Step, ...], phase: str, where: str):
    """Battery 24: `DeadlineUnmet` tells whether the engine had not answered, had no token yet, or wrote."""
    async with host_of(Replica(script)) as host:
        error = await outcome_of(host, task(deadline_ms=1000))

        assert isinstance(error, DeadlineUnmet)
        assert (error.detail, error.phase) == (phase, phase)
        assert where in error.message


@virtual
async def test_an_adapter_gets_what_is_left():
    """Battery 24: each attempt is given the rest of the deadline; the failure tells of the whole one, as asked for."""
    replica = Dated((0.4, overloaded(0.5)), (STARTED, 99))
    async with host_of(replica) as host:
        request = task(deadline_ms=2000, session_id="s")
        error = await outcome_of(host, request)
        second = record_of(host, request).attempts[1].began_after

        assert isinstance(error, DeadlineUnmet)
        assert "the deadline of 2000 ms passed" in error.message
        assert replica.got[0] is request
        assert replica.got[1].deadline_ms == math.ceil((2 - second) * 1000) < 1200
        assert msgspec.structs.replace(replica.got[1], deadline_ms=2000) == request


@virtual
async def test_a_rest_is_a_millisecond_at_the_least():
    """A pool that finds any time useful may send a task whose deadline is as good as over: what is left is 1 ms."""
    replica = Dated((1.0, refused()), ANSWER)
    policy = PoolPolicy(retry=RetryPolicy(base=1e-9, cap=1e-9))
    async with host_of(replica, replica, timeouts=Timeouts(min_useful=0), policy=policy) as host:
        await outcome_of(host, task(deadline_ms=1001))

        assert [each.deadline_ms for each in replica.got] == [1001, 1]


@virtual
async def test_without_a_deadline_nothing_is_left():
    """A task without a deadline is given to the adapter of every attempt as it is."""
    replica = Dated((0.4, refused()), ANSWER)
    async with host_of(replica, replica) as host:
        request = task()
        await outcome_of(host, request)

        assert [each is request for each in replica.got] == [True, True]


STEPS: tuple[Step, ...] = (0.0, 0.02, 0.1, 0.4)


AT_ONCE = 100


def drawn(rng: random.Random, *, failing: bool = True) -> tuple[Step, ...]:
    """What a replica does with a task: it takes its time in each phase, and may fail before the first token."""
    failures = (refused(), overloaded(rng.uniform(0, 0.4)), broke(), reset()) if failing else ()
    failure = rng.choice((None, *failures))
    head = (rng.choice(STEPS), STARTED, rng.choice(STEPS))
    body = (Token("a", 0), rng.choice(STEPS), Token("b", 1), rng.choice(STEPS), end(2))
    return (*head, *body) if failure is None else (*head, failure)


async def dated(host: AdapterHost, rng: random.Random, seen: collections.Counter[str]) -> None:
    """One task with a deadline, begun at some moment."""
    await asyncio.sleep(rng.uniform(0, 2))
    deadline = rng.choice((20, rng.randrange(50, 1000), rng.randrange(50, 300)))
    began = now()
    request = task(deadline_ms=deadline)
    outcome = await outcome_of(host, request)
    took = now() - began
    ended = record_of(host, request).duration  # what is read after the end is none of the deadline's
    assert ended is not None
    left = deadline / 1000 - (ended if isinstance(outcome, list) else took)
    told = f"deadline {deadline}, took {took}, {outcome!r}"
    if isinstance(outcome, DeadlineUnmet):
        seen[f"missed in {outcome.detail}"] += 1
        assert took == (0 if outcome.detail == "queue" else moment(deadline / 1000)), told
        assert outcome.detail != "queue" or deadline / 1000 < MIN_USEFUL, told
    else:
        seen["in time" if isinstance(outcome, list) else "failed in time"] += 1
        assert left >= -1e-6, told


@pytest.mark.timeout(120)
def test_a_deadline_is_exact_in_every_phase():
    """Battery 24: over 10^4 random deadlines no task ends later than its own, and one that misses it ends just then."""
    seed = random.randrange(2**32)
    policy = PoolPolicy(breaker=NEVER_OPEN, retry=RetryPolicy(attempts=5, base=0.1, cap=0.2, earn=1))

    async def main() -> collections.Counter[str]:
        rng = random.Random(seed)
        random.seed(seed)
        seen: collections.Counter[str] = collections.Counter()
        for _ in range(10_000 // AT_ONCE):
            replicas: list[Replica] = [Replica(*(drawn(rng) for _ in range(AT_ONCE))) for _ in range(3)]
            slow = (drawn(rng, failing=False) for _ in range(AT_ONCE))
            replicas.append(Lingering(*slow, tidying=rng.uniform(0, 0.7)))
            async with host_of(*replicas, policy=policy) as host:
                await asyncio.gather(*(dated(host, rng, seen) for _ in range(AT_ONCE)))
                await asyncio.sleep(0.8)  # until the slow ones have let go
                assert left_behind(host) == []
        return seen

    seen = run_many(main())
    print(f"seed {seed}: {dict(seen)}")

    assert set(seen) == {*(f"missed in {phase}" for phase in get_args(Phase)), "in time", "failed in time"}
    assert min(seen.values()) > 100


# --- limits


@virtual
async def test_each_attempt_has_its_own_limit():
    """Battery 25: the limit for the first token counts from each attempt, and is kept within two looks of the watch."""
    replicas = [Replica((0.5, refused()), (STARTED, 99)) for _ in range(2)]
    policy = PoolPolicy(retry=RetryPolicy(base=0.01, cap=0.01))
    async with host_of(*replicas, timeouts=Timeouts(first_token=4, idle=2), policy=policy) as host:
        request = task()
        error = await outcome_of(host, request)
        *_, last = record_of(host, request).attempts

        assert isinstance(error, DecodeTimeout)
        assert (error.detail, error.phase) == ("first_token", "first_token")
        assert last.duration is not None
        assert 4 - 1e-6 <= last.duration <= 4 + 2 * INTERVAL


@pytest.mark.parametrize(
    ("script", "detail", "limit"),
    [
        ((99,), "first_token", 4),
        ((STARTED, 99), "first_token", 4),
        ((STARTED, Token("a", 0), 99), "idle", 2),
        ((STARTED, Token("a", 0), 1.9, Token("b", 1), 99), "idle", 3.9),
    ],
    ids=["before_started", "before_token", "after_token", "after_many"],
)
@virtual
async def test_an_engine_that_hangs_after_a_failed_attempt(script: tuple[Step, ...], detail: str, limit: float):
    """Battery 25: hung in any phase of a second attempt, a task is DecodeTimeout within its limit and 150 ms."""
    replica = Replica((overloaded(1.0),), script)
    async with host_of(replica, timeouts=Timeouts(first_token=4, idle=2)) as host:
        error = await outcome_of(host)

        assert isinstance(error, DecodeTimeout)
        assert error.detail == detail
        assert limit - 1e-6 <= now() - replica.asked[1] <= limit + 0.15
        assert left_behind(host) == []


# --- clocks


HABITS = (ANSWER, ANSWER, (refused(),), (overloaded(3.0),), (loading(),), (STARTED, 9), (1.0, *ANSWER))


async def day(seed: int) -> list[tuple[float, str, Any]]:
    """Some hours of a pool in every state: what was told, and when by the loop's clock."""
    random.seed(seed)
    rng = random.Random(seed)
    told: list[tuple[float, str, Any]] = []

    def note(event: HostEvent) -> None:
        facts = {name: getattr(event, name) for name in event.__struct_fields__ if name != "task_id"}
        told.append((now(), type(event).__name__, facts))

    replicas = [Replica() for _ in range(3)]
    async with host_of(*replicas, timeouts=Timeouts(first_token=2, idle=2)) as host:
        host.observe(note)
        for _ in range(300):
            replica = rng.choice(replicas)
            replica.answer = rng.choice((READY, READY, LOADING, DOWN))
            replica.scripts = [
                rng.choice(
                    (ANSWER, ANSWER, (refused(),), (overloaded(3.0),), (loading(),), (STARTED, 9), (1.0, *ANSWER))
                )
            ]
            deadline = rng.choice((None, None, 1500))
            outcomes = await asyncio.gather(*(outcome_of(host, task(deadline_ms=deadline)) for _ in range(4)))
            told.append((now(), "outcomes", [getattr(outcome, "detail", "ok") for outcome in outcomes]))
            snapshots = host.capabilities().pools["pool"].replicas.values()
            told.append((now(), "ages", [(snapshot.age, snapshot.stale) for snapshot in snapshots]))
            await asyncio.sleep(rng.choice((0.1, 1, 10, 60)))
    return told


@pytest.mark.parametrize("steps", [(3600.0,), (-3600.0,), (-3600.0, 0.0, 3600.0)], ids=["ahead", "back", "to_and_fro"])
def test_a_wall_clock_that_jumps(steps: tuple[float, ...], monkeypatch: pytest.MonkeyPatch):
    """Battery 22: with the wall clock an hour off, or jumping at each look, all happens as before, when it did."""
    seed = random.randrange(2**32)
    before = run_many(day(seed))
    looks = 0
    right = time.time

    def wrong() -> float:
        nonlocal looks
        looks += 1
        return right() + steps[looks % len(steps)]

    monkeypatch.setattr(time, "time", wrong)
    after = run_many(day(seed))
    kinds = collections.Counter(kind for _, kind, _ in after)
    print(f"seed {seed}: {looks} looks at the wrong clock, {dict(kinds)}")

    assert after == before
    assert looks > 100
    assert {"BreakerChanged", "HealthChanged", "AttemptFailed", "TaskEnded"} <= set(kinds)
