"""What a breaker has to do, written from the rules alone: it keeps every outcome, and knows no epoch and no permit.

A call is known by the object it is. It may decide something where it was admitted while the breaker was in the very
spell (from one change of state to the next) that it is in now.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from llama_orch_adapter_host._breaker import BreakerPolicy, State, Verdict


@dataclass(eq=False)
class Call:
    """A call that was admitted."""

    spell: int
    probe: bool


@dataclass
class Model:
    """A breaker by the book. `draw` gives the random number of each span in turn."""

    policy: BreakerPolicy
    draw: Callable[[], float]
    state: State = "closed"
    changes: list[tuple[State, float]] = field(default_factory=list)
    spell: int = 0
    outcomes: list[Verdict] = field(default_factory=list)  # all of a closed spell, neutral ones left out
    trips: int = 0  # since it was closed
    opens_until: float = 0.0
    probe: Call | None = None
    probe_since: float = 0.0

    def admits(self, now: float) -> bool:
        if self.state == "half_open":
            return self.probe is None or now >= self.probe_since + self.policy.probe_lease
        return self.state == "closed"

    def enter(self, now: float) -> Call | None:
        if not self.admits(now):
            return None
        call = Call(self.spell, probe=self.state == "half_open")
        if call.probe:
            self.probe, self.probe_since = call, now
        return call

    def first_token(self, call: Call) -> None:
        if self.may_decide(call) and call.probe:
            self.close()

    def leave(self, call: Call, verdict: Verdict, now: float) -> None:
        if not self.may_decide(call):
            return
        if call.probe:
            self.probe = None
            if verdict == "ok":
                self.close()
            elif verdict == "fault":
                self.trip(now)
        elif verdict != "neutral":
            self.outcomes.append(verdict)
            if self.is_too_much():
                self.trip(now)

    def may_decide(self, call: Call) -> bool:
        return call.spell == self.spell and (not call.probe or call is self.probe)

    def is_too_much(self) -> bool:
        row = self.outcomes[-self.policy.consecutive :]
        if row == ["fault"] * self.policy.consecutive:
            return True
        recent = self.outcomes[-self.policy.window :]
        return len(recent) >= self.policy.minimum and recent.count("fault") / len(recent) >= self.policy.share

    def due(self, now: float) -> bool:
        return self.state == "open" and now >= self.opens_until

    def ready(self, now: float) -> None:
        if self.due(now):
            self.change("half_open", 0.0)

    def not_ready(self, now: float) -> None:
        if self.due(now):
            self.opens_until = now + self.drawn_span()

    def reopens_in(self, now: float) -> float:
        if self.admits(now) or self.due(now):
            return 0.0
        return (self.opens_until if self.state == "open" else self.probe_since + self.policy.probe_lease) - now

    def drawn_span(self) -> float:
        span = min(self.policy.longest, self.policy.open_for * 2 ** (self.trips - 1))
        return span * (1 + self.policy.spread * (2 * self.draw() - 1))

    def trip(self, now: float) -> None:
        self.trips += 1
        span = self.drawn_span()
        self.opens_until = now + span
        self.change("open", span)

    def close(self) -> None:
        self.trips = 0
        self.outcomes = []
        self.change("closed", 0.0)

    def change(self, state: State, span: float) -> None:
        self.state = state
        self.spell += 1
        self.probe = None
        self.changes.append((state, span))
