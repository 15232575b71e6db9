"""Whether a replica takes a task now (ORCH-3602)."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import AdapterError, End, PoolUnavailable, WorkerError
from llama_orch_adapter_host import PoolPolicy
from llama_orch_adapter_host._breaker import BreakerPolicy
from llama_orch_adapter_host._gate import PAUSE, Gate, Refusal
from llama_orch_adapter_host._outcome import meaning_of
from llama_orch_adapter_host._retry import RetryPolicy

from .adapters import end  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import (  # type: ignore[import-not-found]  # as above
    CANCELLED,
    DOWN,
    LOADING,
    READY,
    bound,
    broke,
    loading,
    overloaded,
    refused,
    trip,
)


def gate_of(**facts: int) -> Gate:
    gate: Gate = bound(breaker=BreakerPolicy(spread=0), **facts).gate
    return gate


def use(gate: Gate, ending: End | WorkerError, now: float) -> str | None:
    """Let a task in and out again."""
    return gate.left(gate.enter(now), meaning_of(ending), ending, now)


def test_a_new_gate_admits():
    """A replica nobody knows anything of gets the benefit of the doubt."""
    assert gate_of().refuses(0.0, in_flight=1000) is None


def test_each_reason_and_when_it_ends():
    """Each reason says in how many seconds it may be otherwise, where that is known."""
    gate = gate_of(limit=2)
    assert gate.refuses(0.0, 1) is None
    assert gate.refuses(0.0, 2) == Refusal("full", math.inf)
    gate.paused_until = 4.0
    assert gate.refuses(1.0, 0) == Refusal("paused", 3.0)
    trip(bound_ := bound(breaker=BreakerPolicy(spread=0)))
    assert bound_.gate.refuses(1.0, 0) == Refusal("open", 4.0)
    gate.health.saw(LOADING)
    assert gate.refuses(1.0, 0) == Refusal("loading", math.inf)
    for _ in range(2):
        gate.health.saw(READY)
        gate.health.saw(DOWN)
        gate.health.saw(DOWN)
    assert gate.refuses(1.0, 0) == Refusal("down", math.inf)
    gate.drain()
    assert gate.refuses(1.0, 0) == Refusal("draining", math.inf)


def test_a_pause_ends_by_itself():
    """Push-back keeps tasks off for as long as the replica asked, else for a moment, and is no fault."""
    gate = gate_of()
    assert not use(gate, overloaded(3.0), 0.0)
    assert gate.refuses(2.999, 0) == Refusal("paused", pytest.approx(0.001))
    assert gate.refuses(3.0, 0) is None
    use(gate, overloaded(), 3.0)
    assert gate.refuses(3.0, 0) == Refusal("paused", PAUSE)

    assert gate.breaker.state == "closed"


def test_a_pause_is_bounded():
    """A replica that asks for an hour is left alone for as long as its pool has patience, and no longer."""
    gate = gate_of()
    use(gate, overloaded(3600.0), 0.0)
    assert gate.refuses(0.0, 0) == Refusal("paused", 30.0)
    gate = gate_of()
    gate.adopt(PoolPolicy(retry=RetryPolicy(patience=12)))
    use(gate, overloaded(math.inf), 0.0)
    assert gate.refuses(0.0, 0) == Refusal("paused", 12.0)
    gate = gate_of()
    gate.adopt(PoolPolicy(retry=RetryPolicy(patience=0)))
    use(gate, overloaded(5.0), 0.0)

    assert gate.refuses(0.0, 0) == Refusal("paused", PAUSE)


def test_a_pause_is_never_too_short_to_be_one():
    """A replica that asks for next to nothing is left alone as one that asks for nothing: no task knocks in a loop."""
    gate = gate_of()
    use(gate, overloaded(0.001), 0.0)

    assert gate.refuses(0.0, 0) == Refusal("paused", PAUSE)


def test_a_later_push_back_does_not_shorten_a_pause():
    """Of two tasks that were pushed back together, the one that heard the longer time is heeded."""
    gate = gate_of()
    first, second = gate.enter(0.0), gate.enter(0.0)
    for permit, asked in ((first, 5.0), (second, 1.0)):
        gate.left(permit, meaning_of(overloaded(asked)), overloaded(asked), 0.0)

    assert gate.refuses(0.0, 0) == Refusal("paused", 5.0)


def test_loading_is_believed_of_a_task():
    """A task that was told the model is loading is believed, which is news once; health ends it."""
    gate = gate_of()

    assert use(gate, loading(), 0.0)
    assert (gate.health.belief, gate.health.detail) == ("loading", "Loading model")
    assert gate.health.loads("again") is False
    gate.health.saw(READY)
    assert gate.refuses(0.0, 0) is None
    assert gate.breaker.state == "closed"


def test_words_of_an_engine_are_one_line():
    """What an engine says of its loading is kept in one line, whatever it sends."""
    gate = gate_of()
    use(gate, PoolUnavailable("Loading\nmodel", detail="loading"), 0.0)

    assert gate.health.detail == r"Loading\nmodel"


@pytest.mark.parametrize(
    ("ending", "opens"),
    [
        (refused(), True),
        (broke(), True),
        (AdapterError("KeyError", detail="plugin"), True),
        (AdapterError("400", detail="bad_request"), False),
        (CANCELLED, False),
        (end(1), False),
    ],
    ids=["refused", "500", "plugin", "400", "cancelled", "ok"],
)
def test_what_opens_the_breaker(ending: End | WorkerError, opens: bool):
    """Five endings in a row that speak against the engine shut the gate; any others never do."""
    gate = gate_of()
    for _ in range(4):
        use(gate, ending, 0.0)
    assert gate.refuses(0.0, 0) is None
    use(gate, ending, 0.0)

    assert gate.refuses(0.0, 0) == (Refusal("open", 5.0) if opens else None)


@given(st.lists(st.sampled_from(["overloaded", "loading", "cancelled", "ready"]), min_size=20, max_size=200))
def test_back_pressure_never_opens_the_breaker(endings: list[str]):
    """ORCH-3602: breaker and health cannot deadlock: what is no fault leaves the breaker closed, however often."""
    gate = gate_of()
    errors = {"overloaded": overloaded(), "loading": loading(), "cancelled": CANCELLED, "ready": end(0)}
    for number, ending in enumerate(endings):
        gate.health.saw(READY)
        use(gate, errors[ending], float(number))

    assert gate.breaker.state == "closed"
    gate.health.saw(READY)
    assert gate.refuses(len(endings) + 1.0, 0) is None


def test_breaker_and_health_find_out_of_each_other():
    """ORCH-3602: an open gate is opened again by health and one task, in whichever order they come to it."""
    gate = gate_of()
    for _ in range(5):
        use(gate, refused(), 0.0)
    gate.health.saw(DOWN)
    gate.health.saw(DOWN)
    gate.breaker.half_open(5.0)
    assert gate.refuses(5.0, 0) == Refusal("down", math.inf)
    gate.health.saw(READY)
    gate.health.saw(READY)
    assert gate.refuses(5.0, 0) is None

    permit = gate.enter(5.0)
    assert gate.refuses(5.0, 1) == Refusal("open", 10.0)
    gate.left(permit, meaning_of(end(1)), end(1), 6.0)
    assert gate.refuses(6.0, 0) is None
