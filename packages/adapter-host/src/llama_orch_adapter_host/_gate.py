"""Whether a replica takes a task now: the one place where breaker, health, load and drain meet."""

from typing import Literal, NamedTuple

from llama_orch_adapter_api import AdapterError, End, TaskRequest, WorkerError, one_line

from ._breaker import Breaker, Permit
from ._health import Belief, Health
from ._outcome import EFFECTS, SET_UP, Meaning
from ._policy import PoolPolicy
from ._pulse import Pulse
from ._retry import RetryPolicy

Refused = Literal["draining", "down", "loading", "open", "paused", "full"]

PAUSE = 0.25
"""Seconds that a replica is left alone at least which pushed back, whether it said for how long or not."""

ASKING = 1.0
"""Seconds after which to ask again for a replica whose breaker's span is over and whose health has not answered yet."""


class Refusal(NamedTuple):
    """Why not, and in how many seconds it may be otherwise; infinite where nobody knows."""

    why: Refused
    again_in: float


class Gate:
    """Of one binding. `slots` is how many tasks its engine runs at once, None where nobody knows.

    `patience` bounds a pause, whatever the engine asks for: nobody else would ever find out that it takes tasks again.
    `busy` is what its health said when it last let a task in.

    That health and breaker let tasks in is kept until the next beat: of a thousand replicas none is at hand in the
    processor's cache, and each object more that is read of one costs as much as all else that a look does.
    """

    __slots__ = (
        "_open_at",
        "breaker",
        "busy",
        "draining",
        "health",
        "ill_set_up",
        "limit",
        "patience",
        "paused_until",
        "pulse",
        "slots",
    )

    def __init__(self, breaker: Breaker, health: Health, limit: int | None = None) -> None:
        self.breaker = breaker
        self.health = health
        self.limit = limit
        self.patience = RetryPolicy().patience
        self.slots: int | None = None
        self.draining = False
        self.ill_set_up: set[str] = set()  # the details that were told, until it works again
        self.paused_until = 0.0
        self.busy = False
        self.join(Pulse())

    def join(self, pulse: Pulse) -> None:
        """Let this one beat from now on."""
        self.pulse = self.breaker.pulse = self.health.pulse = pulse
        self._open_at = -1  # the beat at which drain, health and breaker let tasks in

    def drain(self) -> None:
        """Let no more tasks in."""
        self.draining = True
        self.pulse.beats += 1

    def adopt(self, policy: PoolPolicy) -> None:
        """Go by these figures from now on; what is known of the replica is kept."""
        self.limit = policy.max_in_flight
        self.patience = policy.retry.patience
        self.health.adopt(policy.health)
        self.breaker.adopt(policy.breaker)

    def refuses(self, now: float, in_flight: int) -> Refusal | None:
        """Why a task may not go there now, None where it may."""
        if self._open_at != self.pulse.beats and (refusal := self._look(now)) is not None:
            return refusal
        if now < self.paused_until:
            return Refusal("paused", self.paused_until - now)
        if self.limit is not None and in_flight >= self.limit:
            return Refusal("full", _NEVER)
        return None

    def load(self, in_flight: int) -> float:
        """How much there is to do for its slots; a busy replica has more than is seen from here."""
        load = in_flight / (self.slots or 1)
        return load + 1 if self.busy else load

    def enter(self, now: float) -> Permit:
        """The breaker's permit for a task that is sent now, which the gate just admitted; `left` gives it back."""
        permit = self.breaker.enter(now)
        assert permit is not None  # noqa: S101  # it admits, and nothing came between
        return permit

    def left(self, permit: Permit, meaning: Meaning, ending: End | WorkerError, now: float) -> Belief | None:
        """Take in how a task ended; what was believed of the replica's health, if that changed it."""
        effect = EFFECTS[meaning.outcome]
        self.breaker.leave(permit, effect.breaker, now)
        if not isinstance(ending, WorkerError):
            if self.ill_set_up and effect.breaker == "ok":
                self.ill_set_up.clear()
            return None
        if effect.readiness == "paused":
            pause = max(PAUSE, min(ending.retry_after or PAUSE, self.patience))
            self.paused_until = max(self.paused_until, now + pause)
        was = self.health.belief
        return was if effect.readiness == "loading" and self.health.loads(one_line(ending.message)) else None

    def ails(self, error: WorkerError, task: TaskRequest) -> bool:
        """Whether a failure is news of how the replica is set up; a model that the task itself asks for is not."""
        news = (
            isinstance(error, AdapterError)
            and error.detail in SET_UP
            and error.detail not in self.ill_set_up
            and (error.detail != "not_found" or task.model_ref is None)
        )
        if news:
            self.ill_set_up.add(error.detail)
        return news

    def _look(self, now: float) -> Refusal | None:
        """What drain, health and breaker say, and what they take back with the next beat at the earliest."""
        if self.draining:
            return Refusal("draining", _NEVER)
        if not self.health.admits:
            return Refusal("loading" if self.health.belief == "loading" else "down", _NEVER)
        if not self.breaker.admits(now):
            return Refusal("open", self.breaker.reopens_in(now) or ASKING)
        self.busy = self.health.belief == "busy"
        self._open_at = self.pulse.beats
        return None


_NEVER = float("inf")
