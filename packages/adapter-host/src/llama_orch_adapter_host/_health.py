"""What is believed of a replica's health: its own answers, with hysteresis. Who asks, and when, stands elsewhere."""

from typing import Literal

import msgspec
from llama_orch_adapter_api import WorkerHealth

from ._pulse import Pulse

Belief = Literal["unknown", "ready", "busy", "loading", "down"]

_ADMITTING = frozenset({"unknown", "ready", "busy"})


class HealthPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often a replica is asked how it is, and how often in a row it must say so to be believed.

    `interval` is in seconds, give or take the share `spread`. `fall` answers in a row make a replica down, `rise` make
    a down one ready again; that it loads or is busy is believed at once.
    """

    interval: float = 5.0
    spread: float = 0.2
    fall: int = 2
    rise: int = 2

    @property
    def longest(self) -> float:
        """Seconds that lie between two questions at the most."""
        return self.interval * (1 + self.spread)

    def __post_init__(self) -> None:
        if not 0 < self.interval <= 86_400:
            raise ValueError(f"health.interval is {self.interval}; give seconds, above 0 and up to 86400")
        if not 0 <= self.spread < 1:
            raise ValueError(f"health.spread is {self.spread}; give a share from 0 to below 1")
        for name in ("fall", "rise"):
            if getattr(self, name) < 1:
                raise ValueError(f"health.{name} is {getattr(self, name)}; give 1 or more")


class Health:
    """The belief about one replica. Before the first answer it is unknown, and the replica is given the benefit."""

    __slots__ = ("_against", "_policy", "admits", "belief", "detail", "pulse")

    def __init__(self, policy: HealthPolicy) -> None:
        self.belief: Belief = "unknown"
        self.detail = ""
        self.admits = True  # whether a task may be sent: not while the replica loads or is down
        self.pulse = Pulse()  # beats when something else is believed
        self._policy = policy
        self._against = 0  # answers in a row that speak against the belief

    def adopt(self, policy: HealthPolicy) -> None:
        """Go by these figures from now on."""
        self._policy = policy

    @property
    def awaited(self) -> bool:
        """Whether a change for the better is near: it loads, or was down and says it is ready, not often enough yet."""
        return self.belief == "loading" or (self.belief == "down" and self._against > 0)

    def saw(self, health: WorkerHealth) -> bool:
        """Take in an answer; whether the belief changed."""
        up = health.ready
        state: Belief = health.state if up or health.state == "loading" else "down"
        if state == self.belief or (state == "down" and not self._enough(self._policy.fall)):
            return self._agree(health) if state == self.belief else False
        if up and self.belief == "down" and not self._enough(self._policy.rise):
            return False
        return self._believe(state, health.detail)

    def loads(self, detail: str) -> bool:
        """A task was refused because the engine loads its model; whether that is news."""
        return self.belief != "loading" and self._believe("loading", detail)

    def _enough(self, wanted: int) -> bool:
        self._against += 1
        return self._against >= wanted

    def _agree(self, health: WorkerHealth) -> bool:
        self._against = 0
        self.detail = health.detail
        return False

    def _believe(self, state: Belief, detail: str) -> bool:
        self._against = 0
        self.belief = state
        self.admits = state in _ADMITTING
        self.pulse.beats += 1
        self.detail = detail
        return True
