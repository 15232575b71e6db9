"""Whether a replica is called at all: one breaker for each binding, fed with one verdict for each call.

closed --5 faults in a row, or half of the last 20--> open --its span is over, health answered--> half open
half open --its one request got a token--> closed; --its one request failed--> open, for twice as long

A permit belongs to an epoch. Every opening and closing begins one, and so does every probe: what was begun in an
earlier epoch, be it a stream from before the trip or a probe that took too long, decides nothing any more.
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal, NamedTuple, cast

import backoff
import msgspec

from ._circuits import Circuit, Circuits, OnChange, StateName
from ._pulse import Pulse

Verdict = Literal["ok", "fault", "neutral"]
"""What a call says of its engine; a cancelled one, a 4xx or back-pressure says nothing."""

State = StateName

_LONGEST = 86_400.0


class BreakerPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a breaker opens and for how long; times in seconds.

    It opens at `consecutive` faults in a row, or when of the last `window` outcomes, `minimum` at least, `share` or
    more were faults. It stays open for `open_for`, doubled with each trip that no closing came before, up to `longest`,
    each time ± `spread` of it. A probe has `probe_lease` before another may take its place.
    """

    consecutive: int = 5
    window: int = 20
    minimum: int = 10
    share: float = 0.5
    open_for: float = 5.0
    longest: float = 60.0
    spread: float = 0.2
    probe_lease: float = 10.0

    def __post_init__(self) -> None:
        if self.consecutive < 1:
            raise ValueError(f"breaker.consecutive is {self.consecutive}; give 1 to open at the first fault, or more")
        if not 1 <= self.minimum <= self.window <= 1000:
            raise ValueError(
                f"breaker.minimum is {self.minimum} and breaker.window {self.window}; "
                "give 1 <= minimum <= window <= 1000, in calls"
            )
        if not 0 < self.share <= 1:
            raise ValueError(f"breaker.share is {self.share}; give a share above 0, up to 1")
        if not 0 < self.open_for <= self.longest <= _LONGEST:
            raise ValueError(
                f"breaker.open_for is {self.open_for} and breaker.longest {self.longest}; "
                f"give 0 < open_for <= longest <= {_LONGEST:g}, in seconds"
            )
        if not 0 <= self.spread < 1:
            raise ValueError(f"breaker.spread is {self.spread}; give a share from 0, below 1")
        if not 0 < self.probe_lease <= _LONGEST:
            raise ValueError(f"breaker.probe_lease is {self.probe_lease}; give seconds, above 0 and up to {_LONGEST:g}")

    def spans(self) -> Iterator[float]:
        """How long each trip in turn keeps it open, before the spread, without end."""
        steps = backoff.expo(base=2, factor=self.open_for, max_value=self.longest)
        next(steps)  # the generator's first value is none of its spans
        return cast(Iterator[float], steps)


class Permit(NamedTuple):
    """Leave to call the replica. `probe` marks the one call that decides a half-open breaker."""

    epoch: int
    probe: bool


class Breaker:
    """One binding's breaker. Every `now` is a moment on one monotonic clock; `Breakers.create` makes it."""

    __slots__ = (
        "_barred_until",
        "_circuit",
        "_epoch",
        "_policy",
        "_publish",
        "_random",
        "_shared",
        "_span",
        "_spans",
        "_window",
        "key",
        "pulse",
    )

    def __init__(
        self,
        circuit: Circuit,
        policy: BreakerPolicy,
        random: Callable[[], float],
        publish: Callable[[Circuit], None],
    ) -> None:
        self.key: str = circuit.name
        self._circuit = circuit
        self._policy = policy
        self._random = random
        self._publish = publish
        self.pulse = Pulse()  # beats when it admits again, no more, or later than it said
        self._span = 0.0  # of the last trip, before the spread
        self._epoch = 0
        self._barred_until = -math.inf  # closed; open, for ever; half open, as long as the probe's lease
        self._begin_anew()

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._circuit.state_name

    def adopt(self, policy: BreakerPolicy) -> None:
        """Go by these figures from now on. Its state stays; where a figure changed, what was counted does not."""
        if policy == self._policy:
            return
        self._policy = policy
        self._circuit.threshold = policy.consecutive
        self._window = _Window(policy)
        self._spans = policy.spans()

    def admits(self, now: float) -> bool:
        """Whether `enter` would give a permit."""
        return now >= self._barred_until

    def enter(self, now: float) -> Permit | None:
        """A permit to call, which is to be left again, or None: rejected. Closed, all calls share one permit."""
        if self._shared is not None:
            return self._shared
        if now < self._barred_until:
            return None
        self._epoch += 1
        self._barred_until = now + self._policy.probe_lease
        self.pulse.beats += 1
        return Permit(self._epoch, probe=True)

    def first_token(self, permit: Permit, now: float) -> None:
        """The call's first token is in: a probe's closes the breaker, and is its outcome."""
        if permit.probe and permit.epoch == self._epoch:
            self._went_well(permit, now)

    def leave(self, permit: Permit, verdict: Verdict, now: float) -> None:
        """Tell a call's one outcome, at its end; that of an earlier epoch decides nothing."""
        if permit.epoch != self._epoch:
            return
        if verdict == "ok":
            if permit.probe or not self._window.spotless:  # else nothing changes, which is so for nearly all
                self._went_well(permit, now)
        elif verdict == "fault":
            self._failed(now)
        elif permit.probe:  # it gives its place back
            self._epoch += 1
            self._unbar()

    def due(self, now: float) -> bool:
        """Whether its span is over, so that it is time to ask the replica's health."""
        return self.state == "open" and now >= self._circuit.reopens_at

    def half_open(self, now: float) -> None:
        """Health answered ready: let exactly one call probe. Before it is due, nothing happens."""
        if self.due(now):
            self._circuit.half_open()
            self._unbar()
            self._publish(self._circuit)

    def postpone(self, now: float) -> None:
        """Health did not: stay open for another span, no longer than the last. Before it is due, nothing happens."""
        if self.due(now):
            self._circuit.prolong(now, self._spread())
            self.pulse.beats += 1

    def reopens_in(self, now: float) -> float:
        """Seconds until it may admit again; 0.0 where it admits now, or waits for health alone."""
        until = self._circuit.reopens_at if self.state == "open" else self._barred_until
        return max(0.0, until - now)

    def _went_well(self, permit: Permit, now: float) -> None:
        circuit = self._circuit
        circuit.handle_end_request()  # closed, it forgets the faults in a row; half open, it closes
        if permit.probe:
            self._begin_anew()
        elif self._window.add(0):  # the outcome that makes the number full may be a good one
            circuit.trip(now)
            self._bar()
        if circuit.messages:
            self._publish(circuit)

    def _failed(self, now: float) -> None:
        circuit = self._circuit
        circuit.fault(now)
        if circuit.state_name == "closed" and self._window.add(1):
            circuit.trip(now)
        if circuit.state_name == "open":
            self._bar()
        self._publish(circuit)

    def _begin_anew(self) -> None:
        self._epoch += 1
        self._shared: Permit | None = Permit(self._epoch, probe=False)
        self._unbar()
        self._window = _Window(self._policy)
        self._spans = self._policy.spans()

    def _unbar(self) -> None:
        self._barred_until = -math.inf
        self.pulse.beats += 1

    def _bar(self) -> None:
        self._epoch += 1
        self._shared = None
        self._barred_until = math.inf
        self.pulse.beats += 1
        self._span = next(self._spans)
        self._circuit.ttl = self._spread()

    def _spread(self) -> float:
        return self._span * (1 + self._policy.spread * (2 * self._random() - 1))


class Breakers:
    """A host's breakers by key. `random` gives 0 to 1; `on_change` hears of each change of state, and may raise."""

    def __init__(self, *, random: Callable[[], float], on_change: OnChange) -> None:
        self._random = random
        self._circuits = Circuits(on_change)

    def create(self, key: str, policy: BreakerPolicy) -> Breaker:
        """A closed breaker. Raises `ValueError` where there is one of that key."""
        circuit = self._circuits.create(key, policy.consecutive, policy.open_for)
        return Breaker(circuit, policy, self._random, self._circuits.publish)

    def forget(self, key: str) -> None:
        """Keep nothing of a key, known or not. Who still holds its breaker may use it; no change is told any more."""
        self._circuits.forget(key)


class _Window:
    """The last outcomes as bits, a fault being 1."""

    __slots__ = ("_bits", "_mask", "_policy", "_seen", "spotless")

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._mask = (1 << policy.window) - 1
        self._bits = 0
        self._seen = 0
        self.spotless = False  # full, and without a fault

    def add(self, fault: int) -> bool:
        """Whether there are too many faults with this one outcome more."""
        policy = self._policy
        self._bits = (self._bits << 1 | fault) & self._mask
        if self._seen < policy.window:
            self._seen += 1
        self.spotless = not self._bits and self._seen == policy.window
        return bool(self._bits) and self._seen >= policy.minimum and self._bits.bit_count() / self._seen >= policy.share
