"""What purgatory does behind the breaker, and what it cannot do there (ORCH-3602)."""

import gc
import itertools
import logging
import random
import weakref
from collections.abc import Callable
from types import SimpleNamespace

import purgatory
import purgatory.domain.model as purgatory_model
import pytest
from llama_orch_adapter_host._breaker import Breaker, BreakerPolicy, Breakers, State
from llama_orch_adapter_testkit import dice
from purgatory.domain.model import ClosedState, HalfOpenedState, OpenedState

POLICY = BreakerPolicy(consecutive=2, spread=0.0)
KEY = "chat/r0#1"


def nobody(_: str, _state: State, _span: float) -> None:
    """Listens to nothing."""


def trip(breaker: Breaker, now: float = 0.0) -> None:
    for _ in range(2):
        permit = breaker.enter(now)
        assert permit is not None
        breaker.leave(permit, "fault", now)


def serve(breaker: Breaker, now: float) -> None:
    permit = breaker.enter(now)
    assert permit is not None
    breaker.first_token(permit, now)
    breaker.leave(permit, "ok", now)


def eavesdrop(breakers: Breakers) -> list[purgatory.Event]:
    """All that goes over purgatory's bus from now on."""
    events: list[purgatory.Event] = []
    breakers._circuits._factory.add_listener(lambda _name, _kind, event: events.append(event))
    return events


def test_purgatory_stands_behind_it():
    """ORCH-3602: its factory finds our circuits, its states hold and count, its bus carries all four messages."""
    breakers = Breakers(random=lambda: 0.5, on_change=nobody)
    events = eavesdrop(breakers)
    breaker = breakers.create(KEY, POLICY)
    found = breakers._circuits._factory.get_breaker(KEY).context
    states = [found._state]
    trip(breaker)
    states.append(found._state)
    breaker.half_open(5.0)
    states.append(found._state)
    serve(breaker, 5.0)
    states.append(found._state)

    assert found is breaker._circuit
    assert [type(state) for state in states] == [ClosedState, OpenedState, HalfOpenedState, ClosedState]
    assert states[0].failure_count == 2
    assert events == [
        purgatory.CircuitBreakerCreated(KEY, 2, 5.0),
        purgatory.CircuitBreakerFailed(KEY, 1),
        purgatory.CircuitBreakerFailed(KEY, 2),
        purgatory.ContextChanged(KEY, "opened", 0.0),
        purgatory.ContextChanged(KEY, "half-opened", None),
        purgatory.CircuitBreakerRecovered(KEY),
        purgatory.ContextChanged(KEY, "closed", None),
    ]


def test_a_healthy_call_sends_nothing():
    """ORCH-3602: good and neutral calls, and rejections, put nothing on the bus."""
    breakers = Breakers(random=lambda: 0.5, on_change=nobody)
    healthy, broken = breakers.create(KEY, POLICY), breakers.create("chat/r1#1", POLICY)
    trip(broken)
    events = eavesdrop(breakers)
    for now in range(1000):
        serve(healthy, now)
        permit = healthy.enter(now)
        assert permit is not None
        healthy.leave(permit, "neutral", now)
        broken.enter(now)

    assert events == []


def test_what_the_listener_hears():
    """ORCH-3602: every change of state, with the key and how long it stays open; creation and postponing are none."""
    heard: list[tuple[str, State, float]] = []
    breakers = Breakers(random=lambda: 1.0, on_change=lambda *change: heard.append(change))
    breaker = breakers.create(KEY, BreakerPolicy(consecutive=2))
    breakers.create("chat/r1#1", POLICY)
    trip(breaker)
    breaker.postpone(6.0)
    breaker.half_open(12.0)
    serve(breaker, 12.0)

    assert heard == [(KEY, "open", 6.0), (KEY, "half_open", 0.0), (KEY, "closed", 0.0)]


def test_a_listener_that_raises(caplog: pytest.LogCaptureFixture):
    """ORCH-3602: a listener that raises harms no call; its trouble is logged, by its type alone."""

    def raises(_: str, _state: State, _span: float) -> None:
        raise ValueError("a secret")

    breaker = Breakers(random=lambda: 0.5, on_change=raises).create(KEY, POLICY)
    with caplog.at_level(logging.WARNING):
        trip(breaker)
        breaker.half_open(5.0)
        serve(breaker, 5.0)

    assert breaker.state == "closed"
    assert [record.getMessage() for record in caplog.records] == [f"breaker {KEY}: its listener raised ValueError"] * 3


def test_a_listener_that_looks_back():
    """A listener finds the breaker as it is now, and may use it."""
    seen: list[tuple[State, State, bool]] = []

    def looks(_: str, state: State, span: float) -> None:
        seen.append((state, breaker.state, breaker.admits(now)))
        if state == "open":
            assert breaker.reopens_in(now) == span
        if state == "half_open":
            serve(breaker, now)

    now = 0.0
    breaker = Breakers(random=lambda: 0.5, on_change=looks).create(KEY, POLICY)
    trip(breaker)
    now = 5.0
    breaker.half_open(now)

    assert seen == [("open", "open", False), ("half_open", "half_open", True), ("closed", "closed", True)]


def test_forget_leaves_nothing():
    """ORCH-3602: of 1,000 breakers that were forgotten, tripped or not, no object is left, and no key."""
    breakers = Breakers(random=lambda: 0.5, on_change=nobody)
    gone = []
    for generation in range(1000):
        breaker = breakers.create(f"chat/r0#{generation}", POLICY)
        if generation % 2:
            trip(breaker)
        gone.append(weakref.ref(breaker._circuit))
        breakers.forget(breaker.key)
        breakers.forget(breaker.key)
    del breaker
    gc.collect()

    assert [circuit for circuit in gone if circuit() is not None] == []
    assert breakers._circuits._kept.breakers == {}
    assert breakers._circuits._kept.messages == []


def test_a_forgotten_breaker_is_unheard():
    """ORCH-3602: streams that outlive their binding still use its breaker, which works on and tells nobody."""
    heard: list[State] = []
    breakers = Breakers(random=lambda: 0.5, on_change=lambda _, state, _span: heard.append(state))
    breaker = breakers.create(KEY, POLICY)
    breakers.forget(KEY)
    trip(breaker)

    assert breaker.state == "open"
    assert heard == []


def test_a_key_has_one_breaker():
    """A second breaker of a key is refused, for purgatory would let both share one circuit; others share nothing."""
    breakers = Breakers(random=lambda: 0.5, on_change=nobody)
    trip(breakers.create(KEY, POLICY))
    other = breakers.create("chat/r0#2", POLICY)
    with pytest.raises(ValueError, match="there is a breaker 'chat/r0#1' already; forget it first"):
        breakers.create(KEY, POLICY)
    breakers.forget(KEY)

    assert other.state == "closed"
    assert breakers.create(KEY, POLICY).state == "closed"


def life(seed: int) -> list[tuple[object, ...]]:
    """All that can be seen of a breaker in a life of 200 random steps."""
    chance = random.Random(seed)
    seen: list[tuple[object, ...]] = []
    breakers = Breakers(random=chance.random, on_change=lambda *change: seen.append(change))
    breaker = breakers.create(KEY, BreakerPolicy(consecutive=2))
    now = 1e6
    running = []
    for _ in range(200):
        now += chance.choice([0.0, 0.1, 1.0, breaker.reopens_in(now)])
        act = chance.choice(["enter", "enter", "leave", "leave", "token", "ready", "not ready"])
        if act == "enter":
            running.append(breaker.enter(now))
        elif act == "ready":
            breaker.half_open(now)
        elif act == "not ready" and chance.random() < 0.3:
            breaker.postpone(now)
        elif running and (permit := running.pop(chance.randrange(len(running)))):
            if act == "token":
                breaker.first_token(permit, now)
            breaker.leave(permit, chance.choice(["ok", "fault", "fault", "neutral"]), now)
        seen.append((breaker.state, breaker.admits(now), breaker.due(now), breaker.reopens_in(now)))
    return seen


@pytest.mark.parametrize(
    "clock",
    [
        pytest.param(lambda _: 0.0, id="stands still"),
        pytest.param(lambda calls: calls * 3600.0, id="an hour ahead each time"),
        pytest.param(lambda calls: calls * -3600.0, id="an hour back each time"),
        pytest.param(lambda calls: (-1) ** calls * 3600.0, id="to and fro"),
    ],
)
def test_clock_steps(monkeypatch: pytest.MonkeyPatch, clock: Callable[[int], float]):
    """ORCH-3602, battery 22: whatever the wall clock does in whatever state, a breaker behaves as before."""
    chance = dice()
    seeds = [chance.getrandbits(32) for _ in range(100)]
    before = [life(seed) for seed in seeds]
    asked = itertools.count()
    monkeypatch.setattr(purgatory_model, "time", SimpleNamespace(time=lambda: 1.7e9 + clock(next(asked))))
    after = [life(seed) for seed in seeds]
    states = {moment[0] for one in before for moment in one}

    assert after == before
    assert states >= {"open", "half_open", "closed"}
    assert next(asked) > 100
