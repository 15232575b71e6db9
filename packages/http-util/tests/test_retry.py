"""Retries: which requests, after how long, and how they end (ORCH-3611)."""

import asyncio
import itertools
import json
import math
import random
import statistics
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    InternalError,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_testkit import LoopbackEngine, Reply, run_virtual
from llama_orch_http_util import HttpClient
from llama_orch_http_util._retry import RetryPolicy, may_repeat, retried, wait_before_next

POLICY = RetryPolicy(patience=30.0)
DRAWS = 10_000

KINDS: tuple[type[WorkerError], ...] = (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    InternalError,
    PoolUnavailable,
    WorkerReset,
)


def busy(retry_after: float | None = None) -> WorkerError:
    return PoolUnavailable("the engine answered 503", detail="overloaded", retry_after=retry_after)


class Scripted:
    """A request that fails in the given ways, one after the other, and then answers; it notes when it was sent."""

    def __init__(self, *failures: BaseException, takes: float = 0.0) -> None:
        self.failures = iter(failures)
        self.takes = takes
        self.sent: list[float] = []

    async def __call__(self) -> str:
        self.sent.append(asyncio.get_running_loop().time())
        await asyncio.sleep(self.takes)
        for failure in self.failures:
            raise failure
        return "answer"


def run(
    send: Callable[[], Awaitable[str]],
    policy: RetryPolicy = POLICY,
    *,
    method: str = "GET",
    idempotent: bool = False,
    deadline: float = math.inf,
) -> tuple[str | WorkerError, float]:
    """What came of it, and how many seconds it took."""

    async def main() -> tuple[str | WorkerError, float]:
        result: str | WorkerError
        try:
            result = await retried(method, send, policy, idempotent=idempotent, deadline=deadline)
        except WorkerError as error:
            result = error
        return result, asyncio.get_running_loop().time()

    return run_virtual(main())


def seeded() -> random.Random:
    """A source of its own; and the one that backoff draws from begins anew. The seed is printed."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    random.seed(seed)
    return random.Random(seed)


def test_the_ceilings_double() -> None:
    """The longest waits are base, twice base, four times base … up to cap, and go on for ever (ORCH-3611)."""
    steps = RetryPolicy(base=0.05, cap=2.0).ceilings()

    assert list(itertools.islice(steps, 8)) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert {next(steps) for _ in range(3000)} == {2.0}
    assert list(itertools.islice(RetryPolicy(base=1, cap=1).ceilings(), 3)) == [1, 1, 1]


@pytest.mark.parametrize("ceiling", [*itertools.islice(POLICY.ceilings(), 7)])
def test_full_jitter(ceiling: float) -> None:
    """A wait is drawn evenly from 0 to its ceiling (ORCH-3611)."""
    seeded()
    waits = [wait_before_next(busy(), ceiling, POLICY) for _ in range(DRAWS)]
    drawn = sorted(wait / ceiling for wait in waits if wait is not None)
    farthest = max(abs(share - number / DRAWS) for number, share in enumerate(drawn))

    assert len(drawn) == DRAWS
    assert 0 <= drawn[0] < drawn[-1] <= 1
    assert statistics.fmean(drawn) == pytest.approx(0.5, abs=0.02)  # seven standard deviations
    for tenth, bound in enumerate(statistics.quantiles(drawn, n=10), start=1):
        assert bound == pytest.approx(tenth / 10, abs=0.03)
    assert farthest < 0.03  # Kolmogorov-Smirnov: an even draw is farther off once in 3·10^7 runs


def test_the_spread_of_a_retry_after() -> None:
    """What an engine asked for is exceeded by 0 to 10 %, evenly (ORCH-3611)."""
    seeded()
    waits = [wait_before_next(busy(10.0), 0.05, POLICY) or 0.0 for _ in range(DRAWS)]

    assert 10.0 <= min(waits) < 10.01
    assert 10.99 < max(waits) <= 11.0
    assert statistics.fmean(waits) == pytest.approx(10.5, abs=0.02)


def test_a_retry_after_is_a_floor() -> None:
    """A wait is never shorter than asked; where the jitter's own is longer, it holds."""
    assert wait_before_next(busy(0.5), 2.0, POLICY, jitter=lambda top: top, spread=lambda: 1) == 2.0
    assert wait_before_next(busy(0.5), 2.0, POLICY, jitter=lambda _: 0, spread=lambda: 1) == 0.55
    assert wait_before_next(busy(0.5), 2.0, POLICY, jitter=lambda _: 0, spread=lambda: 0) == 0.5
    assert wait_before_next(busy(0.0), 2.0, POLICY, jitter=lambda _: 0) == 0.0


@pytest.mark.parametrize(
    ("retry_after", "left", "waits"),
    [
        (30.0, math.inf, True),
        (30.001, math.inf, False),
        (1.0, 1.001, True),
        (1.0, 1.0, False),
        (1.0, 0.5, False),
        (None, 0.001, True),
        (None, 0.0, False),
        (None, -1.0, False),
    ],
)
def test_when_waiting_is_pointless(retry_after: float | None, left: float, waits: bool) -> None:
    """More than `patience`, or the deadline before it: no wait at all; else one that ends in time (ORCH-3611)."""
    wait = wait_before_next(busy(retry_after), 2.0, POLICY, left=left, spread=lambda: 0.99)

    assert (wait is not None) == waits
    assert wait is None or (retry_after or 0.0) <= wait < left


def test_what_is_left_bounds_the_draw() -> None:
    """Near the deadline the wait is drawn from what is left, instead of giving up for a long draw."""
    seeded()
    waits = [wait_before_next(busy(), 2.0, POLICY, left=0.1) for _ in range(1000)]

    assert None not in waits
    assert 0.09 < max(wait or 0.0 for wait in waits) < 0.1


def test_a_draw_of_all_that_is_left() -> None:
    """A wait up to the deadline itself leaves no time for the attempt after it."""
    assert wait_before_next(busy(), 2.0, POLICY, left=0.5, jitter=lambda top: top) is None


@given(
    st.none() | st.floats(0, 1e6),
    st.floats(1e-6, 1e3),
    st.floats(-1e3, 1e6),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_every_wait(retry_after: float | None, ceiling: float, left: float, draw: float, share: float) -> None:
    """Whatever is drawn, a wait is as long as was asked, within `patience` and a tenth, and before the deadline."""
    policy = RetryPolicy(base=ceiling, cap=1e3)
    wait = wait_before_next(
        busy(retry_after), ceiling, policy, left=left, jitter=lambda top: draw * top, spread=lambda: share
    )

    asked = retry_after or 0.0
    if wait is None:
        assert asked > policy.patience or asked >= left or max(draw, share) > 0.9
    else:
        assert asked <= wait <= max(ceiling, asked * 1.1 + 1e-9)
        assert wait < left
        assert asked <= policy.patience


def every_error(*, answered: bool) -> Iterator[WorkerError]:
    return (kind("it failed", detail=detail, answered=answered) for kind in KINDS for detail in kind.verdicts)


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_what_may_be_repeated(method: str) -> None:
    """GET and HEAD may be sent again after every retriable failure, answered or not (ORCH-3611)."""
    for answered in (True, False):
        for error in every_error(answered=answered):
            assert may_repeat(method, error) == error.retriable
            assert may_repeat(method, error, idempotent=True) == error.retriable


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "get", ""])
def test_what_may_be_repeated_on_demand(method: str) -> None:
    """Others are sent again only if the caller says so and no byte of an answer was seen (ORCH-3611)."""
    for error in every_error(answered=True):
        assert not may_repeat(method, error)
        assert not may_repeat(method, error, idempotent=True)
    for error in every_error(answered=False):
        assert not may_repeat(method, error)
        assert may_repeat(method, error, idempotent=True) == error.retriable


def test_an_answer_at_once() -> None:
    """What succeeds is sent once and waits for nothing."""
    send = Scripted()

    assert run(send) == ("answer", 0.0)
    assert send.sent == [0.0]


def test_an_answer_in_the_end() -> None:
    """Each attempt follows the failure before it by at most its ceiling, and the answer is the caller's."""
    seeded()
    for _ in range(200):
        send = Scripted(busy(), busy(), takes=1.0)
        result, _ = run(send)
        first, second, third = send.sent

        assert result == "answer"
        assert 1.0 <= second - first <= 1.05
        assert 1.0 <= third - second <= 1.1


@pytest.mark.parametrize("attempts", [1, 2, 3, 7])
def test_attempts_are_capped(attempts: int) -> None:
    """After so many attempts the last error is raised, with their number, and at once (ORCH-3611)."""
    failures = [busy() for _ in range(10)]
    send = Scripted(*failures)
    result, ended = run(send, RetryPolicy(attempts=attempts))

    assert result is failures[attempts - 1]
    assert result.attempts == len(send.sent) == attempts
    assert ended == send.sent[-1]


def test_what_is_not_retried() -> None:
    """Our own fault is raised as it comes, with its attempt counted; so is what is no WorkerError."""
    refused = AdapterError("the engine answered 401", detail="auth")
    send = Scripted(refused)

    assert run(send) == (refused, 0.0)
    assert refused.attempts == 1
    with pytest.raises(ZeroDivisionError):
        run(Scripted(ZeroDivisionError()))


def test_a_post() -> None:
    """A POST is sent once; a second time only where it was called idempotent and nothing was answered (ORCH-3611)."""
    unanswered = WorkerReset("the connection broke", detail="reset", answered=False, stale_connection=True)
    answered = WorkerReset("the connection broke", detail="reset", answered=True)

    assert run(Scripted(unanswered), method="POST")[0] is unanswered
    assert run(Scripted(answered), method="POST", idempotent=True)[0] is answered
    assert run(Scripted(unanswered, answered), method="POST", idempotent=True)[0] is answered
    assert run(Scripted(unanswered), method="POST", idempotent=True)[0] == "answer"


def test_nobody_waits_for_what_takes_too_long() -> None:
    """A Retry-After past `patience`, or past the deadline, fails at once (ORCH-3611)."""
    impatient, late = Scripted(busy(31.0)), Scripted(busy(2.0))

    assert isinstance(run(impatient)[0], PoolUnavailable)
    assert run(late, deadline=1.9)[1] == 0.0
    assert impatient.sent == late.sent == [0.0]


def test_a_random_retry_after() -> None:
    """Of 1,000 values asked for, none is cut short and none is waited for past the deadline (battery 14)."""
    rng = seeded()
    outcomes = {"answer": 0, "failed at once": 0}
    for _ in range(1000):
        asked = rng.choice((0.0, rng.uniform(0, 1), rng.uniform(0, 60), float(rng.randint(0, 60))))
        deadline = rng.choice((math.inf, rng.uniform(0.001, 60), asked, asked * 1.01))
        send = Scripted(busy(asked))
        result, ended = run(send, deadline=deadline)
        if result == "answer":
            outcomes["answer"] += 1
            assert asked <= send.sent[1] == ended < deadline
            assert send.sent[1] <= max(asked * 1.1, 0.05)
        else:
            outcomes["failed at once"] += 1
            assert ended == 0.0
            assert asked > POLICY.patience or asked >= deadline

    print(outcomes)
    assert min(outcomes.values()) > 200


def test_no_wait_ends_after_the_deadline() -> None:
    """However many attempts are left, none begins after the deadline."""
    seeded()
    for _ in range(300):
        send = Scripted(*(busy() for _ in range(100)), takes=0.3)
        result, ended = run(send, RetryPolicy(attempts=100), deadline=1.0)

        assert isinstance(result, PoolUnavailable)
        assert result.attempts == len(send.sent) >= 2
        assert max(send.sent) < 1.0
        assert ended == max(send.sent) + 0.3


@pytest.mark.parametrize("moment", [0.001, 0.5, 4.0, 9.999])
def test_cancelled_while_waiting(moment: float) -> None:
    """A cancellation ends a wait at once: nothing is sent again, nothing else is raised (ORCH-3611)."""
    send = Scripted(busy(10.0))

    async def main() -> float:
        task = asyncio.create_task(retried("GET", send, POLICY))
        await asyncio.sleep(moment)
        task.cancel()
        with pytest.raises(asyncio.CancelledError) as caught:
            await task
        assert caught.value.__context__ is None
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == moment
    assert send.sent == [0.0]


def test_cancelled_in_an_attempt() -> None:
    """A cancellation is never taken for a failure."""
    send = Scripted(busy(), takes=10.0)

    async def main() -> float:
        task = asyncio.create_task(retried("GET", send, POLICY))
        await asyncio.sleep(1.0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return asyncio.get_running_loop().time()

    assert run_virtual(main()) == 1.0
    assert send.sent == [0.0]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"attempts": 0}, "attempts is 0; give 1 for a single try, or more"),
        ({"attempts": -1}, "attempts is -1; give 1"),
        ({"base": 0.0}, "base is 0.0 and cap 2.0; give 0 < base <= cap, in seconds"),
        ({"base": -0.1}, "base is -0.1"),
        ({"base": 3.0}, "base is 3.0 and cap 2.0"),
        ({"base": math.nan}, "base is nan"),
        ({"cap": math.nan}, "cap nan"),
        ({"cap": math.inf}, "cap inf"),
        ({"patience": -1.0}, "patience is -1.0; give seconds, 0 to wait for no engine"),
        ({"patience": math.nan}, "patience is nan"),
        ({"patience": math.inf}, "patience is inf"),
    ],
)
def test_a_policy_that_makes_no_sense(wrong: dict[str, float], message: str) -> None:
    """A policy that would never end, or never begin, is refused by its field."""
    with pytest.raises(ValueError, match=message):
        RetryPolicy(**wrong)  # type: ignore[arg-type]  # attempts among them


def test_with_a_real_engine() -> None:
    """A request of the client is tried again when its engine was loading, after the time that it asked for."""
    loading = Reply.json(503, {"error": {"message": "Loading model"}}, headers={"Retry-After": "7"})

    async def main() -> tuple[bytes, float, int]:
        async with (
            LoopbackEngine({("GET", "/props"): [loading, loading, Reply.json(200, {"slots": 4})]}) as engine,
            HttpClient(engine.url) as client,
        ):
            began = asyncio.get_running_loop().time()
            response = await retried("GET", partial(client.request, "GET", "/props"), POLICY)
            return response.body, asyncio.get_running_loop().time() - began, len(engine.requests)

    body, took, requests = run_virtual(main())
    assert json.loads(body) == {"slots": 4}
    assert 14.0 <= took <= 15.5
    assert requests == 3
