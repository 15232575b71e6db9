"""Whether and when a task is sent again, as functions over values (ORCH-3602)."""

import itertools
import math
import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import AdapterError, DeadlineUnmet, DecodeTimeout, WorkerError
from llama_orch_adapter_host._retry import (
    Budget,
    Dice,
    Past,
    Prospect,
    Retry,
    RetryPolicy,
    ceilings,
    retry_after,
)

from .replicas import (  # type: ignore[import-not-found]  # test folders are no packages
    TAXONOMY,
    broke,
    loading,
    overloaded,
    refused,
    reset,
)

POLICY = RetryPolicy()
CEILING = 0.05
LONGEST = Dice(jitter=lambda most: most, spread=lambda: 1.0)
SHORTEST = Dice(jitter=lambda most: 0.0, spread=lambda: 0.0)

FIRST = Past(1)
ANOTHER = Prospect(CEILING, others=True)
THE_SAME = Prospect(CEILING, others=False)
NOBODY = Prospect(CEILING, others=False, same_in=math.inf)


def slow() -> WorkerError:
    return DecodeTimeout("no token came", detail="first_token")


def stale() -> WorkerError:
    return reset(stale_connection=True)


def bad() -> WorkerError:
    return AdapterError("400", detail="bad_request")


def after(error: WorkerError, past: Past = FIRST, prospect: Prospect = ANOTHER) -> Retry | None:
    """What follows, with the longest back-off that may be drawn."""
    return retry_after(error, past, prospect, POLICY, LONGEST)


# --- the table


@pytest.mark.parametrize(
    ("error", "another", "the_same"),
    [
        (refused(), Retry(CEILING, same=False, cost=1.0), Retry(CEILING, same=True, cost=1.0)),
        (overloaded(), Retry(0.0, same=False, cost=1.0), Retry(CEILING, same=True, cost=1.0)),
        (loading(), Retry(0.0, same=False, cost=1.0), Retry(CEILING, same=True, cost=1.0)),
        (broke(), Retry(CEILING, same=False, cost=1.0), None),
        (reset(), Retry(CEILING, same=False, cost=1.0), None),
        (slow(), Retry(CEILING, same=False, cost=2.0), None),
        (stale(), Retry(0.0, same=True, cost=0.0), Retry(0.0, same=True, cost=0.0)),
        (bad(), None, None),
        (AdapterError("no JSON", detail="decode"), None, None),
        (AdapterError("KeyError", detail="plugin"), None, None),
        (DeadlineUnmet("too late", detail="first_token"), None, None),
    ],
    ids=lambda value: f"{value.code}-{value.detail}" if isinstance(value, WorkerError) else "",
)
def test_how_a_first_failure_goes_on(error: WorkerError, another: Retry | None, the_same: Retry | None):
    """ORCH-3602: to another replica if one takes it, to the same one only where it says so, and at what price."""
    assert after(error, Past(1), ANOTHER) == another
    assert after(error, Past(1), THE_SAME) == the_same


@given(st.sampled_from(TAXONOMY), st.integers(1, 5), st.floats(0, 100), st.booleans())
def test_one_attempt_is_one(which: tuple[type[WorkerError], str], attempts: int, left: float, stale: bool):
    """ORCH-3602: `max_attempts` 1 switches it off, for whatever failure, a connection gone stale included."""
    error = which[0]("it failed", detail=which[1], stale_connection=stale)
    prospect = Prospect(CEILING, others=True, left=left)

    assert retry_after(error, Past(attempts), prospect, RetryPolicy(attempts=1)) is None


def test_attempts_are_counted():
    """ORCH-3602: three attempts in all, and a repeat after a stale connection is none of them."""
    assert after(refused(), Past(2)) is not None
    assert after(refused(), Past(3)) is None
    assert after(refused(), Past(2, stale=1)) is not None


def test_a_stale_connection_is_repeated_once():
    """ORCH-3602: the repeat that costs nothing comes once a task, and is not kept from it by its attempts."""
    assert after(stale(), Past(3, stale=1)) == Retry(0.0, same=True, cost=0.0)
    assert after(stale(), Past(0, stale=2)) is None
    assert after(stale(), Past(0, stale=1), Prospect(CEILING, others=False, left=0.0)) is None


def test_one_other_replica_and_no_more():
    """ORCH-3602: a 500 or a reset allows one other replica, whichever of the two came first."""
    assert after(broke(), Past(2, once=2)) is None
    assert after(reset(), Past(2, resets=1, once=2)) is None
    assert after(refused(), Past(2, once=1)) is not None


@pytest.mark.parametrize("error", [refused(), overloaded(), broke(), reset(), slow()], ids=lambda error: error.detail)
def test_poison_is_not_passed_on(error: WorkerError):
    """Battery 17: a task that ended two replicas in a reset is never sent again, however it fails afterwards."""
    assert after(error, Past(1, resets=1, once=1)) is not None
    assert after(error, Past(2, resets=2, once=1)) is None


def test_a_timeout_is_repeated_if_there_is_time():
    """ORCH-3602: after a first-token limit, what is left of the deadline must do for a usual first token (p95)."""
    assert after(slow(), Past(1), Prospect(CEILING, others=True, left=1.0, usual=1.1)) is None
    assert after(slow(), Past(1), Prospect(CEILING, others=True, left=1.0, usual=1.0)) is not None
    assert after(refused(), Past(1), Prospect(CEILING, others=True, left=1.0, usual=1.1)) is not None


# --- how long


def test_the_ceilings_double():
    """ORCH-3602: the longest waits are base, twice base, four times base … up to cap, and go on for ever."""
    steps = ceilings(POLICY)

    assert list(itertools.islice(steps, 8)) == [0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]
    assert {next(steps) for _ in range(3000)} == {2.0}
    assert list(itertools.islice(ceilings(RetryPolicy(base=1, cap=1)), 3)) == [1, 1, 1]


@pytest.mark.parametrize("ceiling", [0.05, 0.8, 2.0])
def test_full_jitter(ceiling: float):
    """ORCH-3602: a back-off is drawn evenly from 0 to its ceiling."""
    seed = random.randrange(2**32)
    random.seed(seed)
    draws = 10_000
    prospect = Prospect(ceiling, others=True)
    waits = [retry.wait for _ in range(draws) if (retry := retry_after(refused(), Past(1), prospect, POLICY))]
    drawn = sorted(wait / ceiling for wait in waits)
    farthest = max(abs(share - number / draws) for number, share in enumerate(drawn))
    print(f"seed {seed}: mean {statistics.fmean(drawn):.3f}, farthest from even {farthest:.4f}")

    assert len(drawn) == draws
    assert 0 <= drawn[0] < drawn[-1] <= 1
    assert statistics.fmean(drawn) == pytest.approx(0.5, abs=0.02)  # seven standard deviations
    assert farthest < 0.03  # Kolmogorov-Smirnov: an even draw is farther off once in 3·10^7 runs


def test_retry_after_is_a_floor():
    """Battery 14: over 10^3 random values it is never earlier than asked, and never past the deadline."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    dice = Dice(jitter=lambda most: rng.uniform(0, most), spread=rng.random)
    held = refusals = 0
    for _ in range(1000):
        asked = rng.choice((0.0, rng.uniform(0, 2), rng.uniform(0, 45)))
        left = rng.choice((math.inf, rng.uniform(0, 60), asked, asked + rng.uniform(0, 0.1)))
        error = rng.choice((overloaded, loading))(asked)
        retry = retry_after(error, Past(1), Prospect(CEILING, others=False, same_in=asked, left=left), POLICY, dice)
        if retry is None:
            refusals += 1
            assert asked > POLICY.patience or asked >= left - CEILING
        else:
            held += 1
            assert asked <= retry.wait <= max(1.1 * asked, CEILING)
            assert retry.wait < left
            assert retry.same
    print(f"{held} were waited for, {refusals} raised at once")

    assert min(held, refusals) > 100


@pytest.mark.parametrize(
    ("asked", "left", "longest"),
    [
        (10, math.inf, 11.0),
        (10, 100, 11.0),
        (10, 10.5, None),
        (30, math.inf, 33.0),
        (30.1, math.inf, None),
        (10, 10, None),
    ],
)
def test_the_longest_that_is_waited(asked: float, left: float, longest: float | None):
    """Battery 14: up to a tenth over what was asked, to 30 s or the deadline; past either it is raised at once."""
    prospect = Prospect(CEILING, others=False, same_in=asked, left=left)
    retry = retry_after(overloaded(asked), Past(1), prospect, POLICY, LONGEST)
    least = retry_after(overloaded(asked), Past(1), prospect, POLICY, SHORTEST)

    assert (None if retry is None else pytest.approx(retry.wait)) == longest
    assert (None if least is None else least.wait) == (asked if asked <= 30 and asked < left else None)


def test_a_replica_that_may_not_be_asked_again():
    """ORCH-3602: where the same replica takes nothing and there is no other, the failure is the task's at once."""
    for error in (refused(), overloaded(1.0), loading()):
        assert after(error, Past(1), NOBODY) is None


@given(
    which=st.sampled_from(TAXONOMY),
    past=st.builds(Past, st.integers(1, 4), st.integers(0, 2), st.integers(0, 3), st.integers(0, 3)),
    prospect=st.builds(
        Prospect,
        st.floats(0.001, 2),
        st.booleans(),
        st.one_of(st.floats(0, 60), st.just(math.inf)),
        st.one_of(st.floats(0, 60), st.just(math.inf)),
        st.floats(0, 5),
    ),
    stale=st.booleans(),
)
def test_what_holds_for_every_retry(which: tuple[type[WorkerError], str], past: Past, prospect: Prospect, stale: bool):
    """ORCH-3602: it ends before the deadline, waits for what was asked, pays its price, and leaves the tried ones."""
    kind, detail = which
    error = kind("it failed", detail=detail, stale_connection=stale)
    retry = retry_after(error, past, prospect, POLICY)
    if retry is None:
        return

    assert error.retriable or stale
    assert 0 <= retry.wait < prospect.left
    assert retry.cost == (0.0 if stale else 2.0 if kind is DecodeTimeout else 1.0)
    assert stale or past.attempts < POLICY.attempts
    if not stale:
        assert retry.same is not prospect.others
        assert retry.wait >= (prospect.same_in if retry.same else 0.0)


# --- the budget


def test_the_budget():
    """Battery 13: it begins full, each task earns a tenth, up to the beginning; what is not there is not spent."""
    budget = Budget(RetryPolicy(budget=2, earn=0.1))

    assert [budget.spend(cost) for cost in (1.0, 2.0, 0.0, 1.0, 1.0, 0.0)] == [True, False, True, True, False, True]
    for _ in range(10):
        budget.earn()
    assert budget.left == pytest.approx(1)
    for _ in range(100):
        budget.earn()
    assert budget.left == 2


@given(st.lists(st.sampled_from(["task", "retry", "timeout"]), max_size=400))
def test_what_a_budget_ever_gives(calls: list[str]):
    """Battery 13: whatever happens in whatever order, retries cost at most the beginning and a tenth of the tasks."""
    budget = Budget(POLICY)
    spent = 0.0
    for call in calls:
        if call == "task":
            budget.earn()
        else:
            cost = 2.0 if call == "timeout" else 1.0
            spent += cost * budget.spend(cost)

    assert spent <= POLICY.budget + POLICY.earn * calls.count("task") + 1e-9
    assert 0 <= budget.left <= POLICY.budget


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"attempts": 0}, "retry.attempts is 0; give 1 for a single try, or more"),
        ({"base": 0.0}, "retry.base is 0.0 and cap 2.0; give 0 < base <= cap, in seconds"),
        ({"base": 3.0}, "retry.base is 3.0 and cap 2.0"),
        ({"cap": math.inf}, "retry.base is 0.05 and cap inf"),
        ({"patience": -1.0}, "retry.patience is -1.0; give 0 or more"),
        ({"budget": math.nan}, "retry.budget is nan; give 0 or more"),
        ({"earn": math.inf}, "retry.earn is inf; give 0 or more"),
    ],
)
def test_a_policy_that_makes_no_sense(facts: dict[str, float], told: str):
    """A figure out of its range is refused with its name and the mend."""
    with pytest.raises(ValueError, match=told):
        RetryPolicy(**facts)  # type: ignore[arg-type]
