"""One call over several replicas: what each failure leads to (ORCH-3602)."""

import asyncio
import math

import pytest
from llama_orch_adapter_api import (
    AdapterError,
    DecodeTimeout,
    InternalError,
    PoolUnavailable,
    Timeouts,
    Token,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_host import PoolPolicy
from llama_orch_adapter_host._breaker import BreakerPolicy
from llama_orch_adapter_host._retry import RetryPolicy

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    drained,
    host_of,
    moment,
    now,
    task,
    tokens,
    virtual,
)
from .replicas import (  # type: ignore[import-not-found]  # as above
    ANSWER,
    CANCELLED,
    LOADING,
    Replica,
    broke,
    left_behind,
    loading,
    outcome_of,
    overloaded,
    record_of,
    refused,
    replicas_of,
    reset,
)

NO_BACKOFF = PoolPolicy(retry=RetryPolicy(base=1e-9, cap=1e-9))


@virtual
async def test_another_replica_answers():
    """ORCH-3602: a replica that refuses is left for another, and the caller sees one answer and no failure."""
    dead, well = Replica((refused(),)), Replica()
    async with host_of(dead, well) as host:
        request = task()
        for _ in range(2):  # whichever has its turn first
            stream = await host.submit("pool", request)
            events = await drained(stream)

            assert tokens(events) == ["yes"]
            assert (stream.replica, stream.attempts) == ("pool/1", len(stream.record.attempts))
            assert replicas_of(stream.record) in (["0", "1"], ["1"])

    assert (dead.begun, well.begun) == (1, 2)


@virtual
async def test_a_session_leaves_a_home_that_refuses():
    """ORCH-3602: a task whose session belongs to a replica that refuses goes to another, not home again."""
    replicas = [Replica((refused(),)) for _ in range(3)]
    async with host_of(*replicas) as host:
        error = await outcome_of(host, task(session_id="s"))

    assert getattr(error, "attempts", None) == 3
    assert [replica.begun for replica in replicas] == [1, 1, 1]


@virtual
async def test_the_only_replica_is_asked_again():
    """ORCH-3602: a replica that refuses, and has no other beside it, is asked again after a back-off, three times."""
    replica = Replica((refused(),))
    async with host_of(replica) as host:
        error = await outcome_of(host)

    assert isinstance(error, PoolUnavailable)
    assert (error.detail, error.attempts, error.replica, len(replica.asked)) == ("unreachable", 3, "0", 3)
    first, second, third = replica.asked
    assert 0 <= second - first <= 0.05
    assert 0 <= third - second <= 0.1


@pytest.mark.parametrize(("error", "asked"), [(refused(), 2), (broke(), 1)], ids=["refused", "500"])
@virtual
async def test_the_one_that_failed_where_no_other_is_left(error: WorkerError, asked: int):
    """ORCH-3602: where the other replica fills up during the back-off, one that may be asked again is."""
    policy = PoolPolicy(max_in_flight=1, retry=RetryPolicy(base=1, cap=1))
    other, fails = Replica((STARTED, Token("long", 0), 99)), Replica((error,), ANSWER)  # which has the first turn
    async with host_of(other, fails, policy=policy) as host:
        reader = asyncio.create_task(outcome_of(host, request := task()))
        budget = host._registry.pool("pool").budget
        while budget.left == 10:  # until it is decided that it goes on, which it does on the other one
            await asyncio.sleep(0)
        fills = await host.submit("pool", task(replica_id="0"))
        outcome = await reader
        await fills.aclose()

    assert fails.begun == asked
    attempts = record_of(host, request).attempts
    assert replicas_of(record_of(host, request)) == asked * ["1"]
    assert [attempt.why for attempt in attempts[1:]] == (asked - 1) * ["least in flight, as no other takes it"]
    assert isinstance(outcome, type(error)) if asked == 1 else tokens(outcome) == ["yes"]


@pytest.mark.parametrize("error", [broke(), reset()], ids=["500", "reset"])
@pytest.mark.parametrize("fills_up", [True, False], ids=["fills up", "no third"])
@virtual
async def test_back_only_where_its_own_failure_allows_it(error: WorkerError, *, fills_up: bool):
    """ORCH-3602: of two that failed only one that may be asked again is, and its record says why."""
    policy = PoolPolicy(max_in_flight=1, retry=RetryPolicy(base=1, cap=1))
    third = [Replica((STARTED, Token("long", 0), 99))] if fills_up else []
    failing, refusing = Replica((error,), ANSWER), Replica((refused(),), (refused(),), ANSWER)
    async with host_of(*third, *([failing, refusing] if fills_up else [refusing, failing]), policy=policy) as host:
        reader = asyncio.create_task(outcome_of(host, request := task()))
        while not refusing.begun:
            await asyncio.sleep(0.001)
        fills = await host.submit("pool", task(replica_id="0")) if fills_up else None
        outcome = await reader
        if fills is not None:
            await fills.aclose()

    assert isinstance(outcome, PoolUnavailable)
    assert (failing.begun, refusing.begun) == (1, 2)
    assert [attempt.why for attempt in record_of(host, request).attempts] == [
        "least in flight",
        "least in flight",
        "least in flight, as no other takes it",
    ]


@virtual
async def test_a_500_is_tried_on_one_other():
    """ORCH-3602: of many replicas that answer 500 two are asked, and never one twice."""
    replicas = [Replica((broke(),)) for _ in range(4)]
    async with host_of(*replicas) as host:
        error = await outcome_of(host)

    assert isinstance(error, InternalError)
    assert sorted(replica.begun for replica in replicas) == [0, 0, 1, 1]
    assert error.attempts == 2


@virtual
async def test_a_failure_for_good_is_told_at_once():
    """ORCH-3602: what would fail anywhere is sent to one replica alone."""
    replicas = [Replica((AdapterError("400", detail="bad_request"),)) for _ in range(2)]
    async with host_of(*replicas) as host:
        error = await outcome_of(host)

    assert isinstance(error, AdapterError)
    assert sum(replica.begun for replica in replicas) == error.attempts == 1


@virtual
async def test_push_back_goes_to_another_at_once():
    """ORCH-3602: a 503 costs no time while another replica takes the task, and keeps off the one it came from."""
    full, well = Replica((overloaded(10.0),)), Replica()
    async with host_of(full, well) as host:
        for _ in range(6):
            assert isinstance(await outcome_of(host), list)

        assert now() == 0.0
        assert (full.begun, well.begun) == (1, 6)

        await asyncio.sleep(10)
        for _ in range(2):
            assert isinstance(await outcome_of(host), list)

    assert full.begun == 2


@virtual
async def test_the_same_replica_only_after_retry_after():
    """Battery 14: alone in its pool, a replica that asks for 3 s is asked again after 3 to 3.3 s."""
    replica = Replica((overloaded(3.0),), ANSWER)
    async with host_of(replica) as host:
        assert isinstance(await outcome_of(host), list)

    assert 3.0 <= replica.asked[1] - replica.asked[0] <= 3.3


@pytest.mark.parametrize(("asked", "deadline_ms"), [(31.0, None), (3.0, 2900), (3.0, 3040), (math.inf, None)])
@virtual
async def test_a_retry_after_that_is_too_long(asked: float, deadline_ms: int | None):
    """Battery 14: over 30 s, or with too little of the deadline left, push-back is raised at once as it came."""
    replica = Replica((overloaded(asked),))
    async with host_of(replica) as host:
        error = await outcome_of(host, task(deadline_ms=deadline_ms))

    assert isinstance(error, PoolUnavailable)
    assert (error.detail, error.retry_after, error.attempts, now()) == ("overloaded", asked, 1, 0.0)


@virtual
async def test_a_replica_that_asks_for_an_hour():
    """Battery 14: a Retry-After of an hour takes nobody out for an hour: after `patience` it is asked again."""
    replica = Replica((overloaded(3600.0),), ANSWER)
    async with host_of(replica) as host:
        first = await outcome_of(host)
        await asyncio.sleep(18)
        second = await outcome_of(host)
        await asyncio.sleep(12.1)
        third = await outcome_of(host)

    assert isinstance(first, PoolUnavailable)
    assert first.retry_after == 3600.0
    assert isinstance(second, PoolUnavailable)
    assert "after pushing back; to be asked again in 12 s · " in second.message
    assert isinstance(third, list)


@virtual
async def test_a_stale_connection_costs_nothing():
    """ORCH-3602: a connection gone stale is repeated at once, outside the budget, and is not held against anybody."""
    policy = PoolPolicy(retry=RetryPolicy(budget=0))
    replica = Replica((reset(stale_connection=True),), ANSWER)
    async with host_of(replica, policy=policy) as host:
        request = task()
        assert isinstance(await outcome_of(host, request), list)
        record = record_of(host, request)

        assert [attempt.outcome for attempt in record.attempts] == ["stale", "ok"]
        assert record.resets == 0
        assert now() == 0.0


@virtual
async def test_a_repeat_that_is_stale_too_is_a_fault():
    """ORCH-3602: a replica whose connections are stale again and again is charged once a task, for the repeat."""
    replica = Replica((reset(stale_connection=True),))
    async with host_of(replica, policy=PoolPolicy(breaker=BreakerPolicy(consecutive=2))) as host:
        breaker = host._registry.binding("pool", "0").gate.breaker
        records, states = [], []
        for _ in range(2):
            error = await outcome_of(host)
            assert isinstance(error, WorkerReset)
            records.append([attempt.outcome for attempt in error.record.attempts])  # type: ignore[attr-defined]
            states.append(breaker.state)

    assert records == [["stale", "fault"], ["stale", "fault"]]
    assert states == ["closed", "open"]


@virtual
async def test_an_empty_budget():
    """Battery 13: where the pool's budget is spent a failure is raised as it came."""
    dead, well = Replica((refused(),)), Replica()
    async with host_of(dead, well, policy=PoolPolicy(retry=RetryPolicy(budget=0, earn=0))) as host:
        outcomes = [await outcome_of(host) for _ in range(2)]

    assert sorted(isinstance(outcome, list) for outcome in outcomes) == [False, True]
    assert (dead.begun, well.begun) == (1, 1)


@virtual
async def test_a_timeout_is_repeated_elsewhere():
    """ORCH-3602: a replica that gives no token within its limit is left for another, if the deadline allows it."""
    silent, well = Replica((STARTED, 99)), Replica()
    async with host_of(silent, well, timeouts=Timeouts(first_token=1), policy=NO_BACKOFF) as host:
        outcomes = [await outcome_of(host, task(deadline_ms=1500)) for _ in range(2)]
        assert [isinstance(outcome, list) for outcome in outcomes] == [True, True]

        host._registry.pool("pool").first_token.add(0.6)
        for _ in range(20):
            host._registry.pool("pool").first_token.add(0.6)
        outcomes = [await outcome_of(host, task(deadline_ms=1500)) for _ in range(2)]

    assert sorted(isinstance(outcome, DecodeTimeout) for outcome in outcomes) == [False, True]


@virtual
async def test_a_pin_is_kept():
    """ORCH-3602: a pinned task is sent to no other replica, whatever becomes of it."""
    dead, well = Replica((refused(),)), Replica()
    async with host_of(dead, well) as host:
        error = await outcome_of(host, task(replica_id="0"))

    assert isinstance(error, PoolUnavailable)
    assert (dead.begun, well.begun) == (3, 0)


@virtual
async def test_what_became_of_it_says_more_than_that_nobody_is_left():
    """ORCH-3602: where no replica takes it again after a back-off, the failure that led there is raised."""
    replica = Replica((loading(1.0),), health=LOADING)
    async with host_of(replica) as host:
        error = await outcome_of(host)

        assert isinstance(error, PoolUnavailable)
        assert (error.message, error.attempts, error.replica) == ("Loading model", 1, "0")
        assert left_behind(host) == []


@virtual
async def test_a_drained_replica_hands_its_task_on():
    """ORCH-3602: a task without a token when its replica's drain limit passes goes on to another, blaming nobody."""
    limits = Timeouts(drain=2)
    async with host_of(Replica(), Replica((STARTED, 99)), timeouts=limits, policy=NO_BACKOFF) as host:
        request = task()
        reader = asyncio.create_task(outcome_of(host, request))
        await asyncio.sleep(1)
        draining = host._registry.binding("pool", "1")  # where a pool's first task goes
        assert draining.leases
        assert await host.drain("pool", "1") == 1
        events = await reader

        assert tokens(events) == ["yes"]
        assert now() == moment(3)
        attempts = record_of(host, request).attempts
        assert [(each.replica, each.outcome, each.detail) for each in attempts] == [
            ("pool/1", "cancelled", "drained"),
            ("pool/0", "ok", None),
        ]


@virtual
async def test_cancelled_while_a_failed_attempt_is_let_go():
    """Battery 11: cancelled while its second replica lets go, a task ends when that is done, and waits no further."""
    replica = Replica((overloaded(20.0),), (99,), tidying=0.5)
    async with host_of(replica, timeouts=Timeouts(first_token=1)) as host:
        request = task()
        reader = asyncio.create_task(outcome_of(host, request))
        while replica.begun < 2:
            await asyncio.sleep(0.01)
        await asyncio.sleep(1.2)
        receipt = await host.cancel("pool", request.task_id)
        cancelled_at = now()
        events = await reader

        assert (receipt.outcome, receipt.phase) == ("cancelled", "queue")
        assert events == [CANCELLED]
        assert now() - cancelled_at <= 0.5
        assert left_behind(host) == []
        assert replicas_of(record_of(host, request)) == ["0", "0"]
