"""The breaker against an independent model, step by step (battery 19)."""

import random
from typing import ClassVar, NamedTuple

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from llama_orch_adapter_host._breaker import Breaker, BreakerPolicy, Breakers, Permit, State, Verdict
from llama_orch_adapter_testkit import cases, dice

from .breaker_model import Call, Model  # type: ignore[import-not-found]  # test folders are no packages

VERDICTS: list[Verdict] = ["ok", "ok", "ok", "fault", "fault", "neutral"]
WAITS = st.sampled_from(["0", "a little", "just before it may admit", "until it may admit", "long"])


class Pair(NamedTuple):
    """A call as the breaker knows it, and as the model does."""

    permit: Permit
    call: Call


class BreakerMachine(RuleBasedStateMachine):
    """Does the same to both, compares all that can be seen of them after each step, and counts the steps."""

    steps: ClassVar[int] = 0
    seen: ClassVar[dict[str, int]] = {}

    @initialize(
        consecutive=st.integers(1, 6),
        sizes=st.tuples(st.integers(1, 12), st.integers(1, 12)),
        share=st.sampled_from([0.1, 0.3, 0.5, 0.7, 1.0]),
        spread=st.sampled_from([0.0, 0.2]),
        chance=st.integers(0, 2**32),
    )
    def begin(self, consecutive: int, sizes: tuple[int, int], share: float, spread: float, chance: int) -> None:
        policy = BreakerPolicy(
            consecutive=consecutive,
            minimum=min(sizes),
            window=max(sizes),
            share=share,
            spread=spread,
            longest=30.0,
        )
        self.now = 1000.0
        self.changes: list[tuple[State, float]] = []
        breakers = Breakers(
            random=random.Random(chance).random, on_change=lambda _, state, span: self.changes.append((state, span))
        )
        self.breaker: Breaker = breakers.create("chat/r0#1", policy)
        self.model = Model(policy, random.Random(chance).random)
        self.running: list[Pair] = []

    @rule(how=WAITS)
    def time_passes(self, how: str) -> None:
        left = self.breaker.reopens_in(self.now)
        self.now += {
            "0": 0.0,
            "a little": 0.7,
            "just before it may admit": left * 0.999,
            "until it may admit": left,
            "long": left + 100.0,
        }[how]
        self.compare(how)

    @rule(calls=st.integers(1, 5))
    def some_begin(self, calls: int) -> None:
        for _ in range(calls):
            self.one_begins()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def one_gets_a_token(self, data: st.DataObject) -> None:
        permit, call = data.draw(st.sampled_from(self.running))
        self.note_stale(call)
        self.breaker.first_token(permit, self.now)
        self.model.first_token(call)
        self.compare("first token")

    @precondition(lambda self: self.running)
    @rule(data=st.data(), verdict=st.sampled_from(VERDICTS))
    def one_ends(self, data: st.DataObject, verdict: Verdict) -> None:
        self.end(self.running.pop(data.draw(st.integers(0, len(self.running) - 1))), verdict)

    @precondition(lambda self: self.breaker.state != "open")
    @rule(drawn=st.binary(min_size=40, max_size=80))
    def many_come_and_go(self, drawn: bytes) -> None:
        for byte in drawn:
            self.one_begins()
            if self.running:
                self.end(self.running.pop(), VERDICTS[byte % len(VERDICTS)])

    @precondition(lambda self: self.breaker.state == "open")
    @rule()
    def it_recovers(self) -> None:
        self.time_passes("long")
        self.health_answers(ready=True)
        self.one_begins()
        if self.running:
            self.end(self.running.pop(), "ok")

    @rule(ready=st.booleans())
    def health_answers(self, ready: bool) -> None:
        if ready:
            self.breaker.half_open(self.now)
            self.model.ready(self.now)
        else:
            self.breaker.postpone(self.now)
            self.model.not_ready(self.now)
        self.compare("ready" if ready else "not ready")

    def one_begins(self) -> None:
        permit, call = self.breaker.enter(self.now), self.model.enter(self.now)
        assert (permit is None) == (call is None)
        if permit is not None:
            assert permit.probe == call.probe
            self.running.append(Pair(permit, call))
        self.compare("rejected" if permit is None else "probe" if permit.probe else "admitted")

    def end(self, pair: Pair, verdict: Verdict) -> None:
        self.note_stale(pair.call)
        self.breaker.leave(pair.permit, verdict, self.now)
        self.model.leave(pair.call, verdict, self.now)
        self.compare(verdict)

    def note_stale(self, call: Call) -> None:
        if not self.model.may_decide(call):
            self.note("of a stale call")

    def note(self, what: str) -> None:
        self.seen[what] = self.seen.get(what, 0) + 1

    def compare(self, *what: str) -> None:
        """After every step."""
        type(self).steps += 1
        for word in (*what, f"now {self.model.state}"):
            self.note(word)
        breaker, model, now = self.breaker, self.model, self.now
        assert breaker.state == model.state
        assert breaker.admits(now) == model.admits(now)
        assert breaker.due(now) == model.due(now)
        assert abs(breaker.reopens_in(now) - model.reopens_in(now)) < 1e-9
        assert len(self.changes) == len(model.changes)
        for (state, span), (expected, expected_span) in zip(self.changes[-1:], model.changes[-1:], strict=True):
            assert state == expected
            assert abs(span - expected_span) < 1e-9


@pytest.mark.timeout(600)
@pytest.mark.nightly
def test_breaker_stateful():
    """In 100,000 random steps the breaker does what the model does (ORCH-3602, battery 19)."""
    chance = dice()
    BreakerMachine.steps, BreakerMachine.seen = 0, {}
    once = settings(
        max_examples=100,
        stateful_step_count=40,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    while BreakerMachine.steps < cases(100_000, nightly=2_000_000):
        run_state_machine_as_test(seed(chance.getrandbits(64))(BreakerMachine), settings=once)

    print(f"{BreakerMachine.steps} steps: {dict(sorted(BreakerMachine.seen.items()))}")
    assert min(BreakerMachine.seen.values()) > 100
