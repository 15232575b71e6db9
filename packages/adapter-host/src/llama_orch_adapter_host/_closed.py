"""Why a pool takes no task, found out once for many who ask: a look at a thousand replicas takes milliseconds."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from llama_orch_adapter_api import PoolUnavailable

from ._gate import ASKING, Gate, Refusal, Refused

_UNDRAIN = "use another pool, or undo that: host.undrain(pool_id), or POST /v1/pools/{id}/reload?undrain=true"

_WORDS: dict[Refused, tuple[str, str, str]] = {
    "full": ("at_capacity", "at max_in_flight", "wait, raise the limit, or add replicas"),
    "paused": ("overloaded", "left alone for a moment after pushing back", "wait, or add replicas"),
    "loading": ("loading", "loading the model", "wait until it is loaded"),
    "open": ("all_open", "left alone for a while after too many failures", "look at the engines' own logs"),
    "down": ("unreachable", "not answering health checks", "check that the engines run, and their urls"),
    "draining": ("draining", "being drained", _UNDRAIN),
}
"""By what refuses: the error's detail, what is the matter, the mend. Those nearest to taking a task come first."""

_NEARNESS = {why: place for place, why in enumerate(_WORDS)}

_LASTING = frozenset({"draining", "down", "loading", "open"})
"""What ends with a beat of the pool's pulse, or by a probe's lease, and never by a stream that ends."""


_GRAIN = 0.05
"""Seconds that what is told may be behind once a span is over: of a thousand replicas one's ends every few ms."""


class Closed(NamedTuple):
    """What is nearest to taking a task: `why`, `alike` of the `looked_at` replicas, perhaps at the moment `again_at`.

    It holds until the moment `until`, or until the pool's pulse is no longer `beats`.
    """

    why: Refused
    alike: int
    looked_at: int
    again_at: float
    until: float
    beats: int

    @classmethod
    def of(cls, refusals: Sequence[tuple[Gate, Refusal]], now: float, beats: int) -> "Closed":
        """What these gates come to, which all refuse."""
        whys = [refusal.why for _, refusal in refusals]
        why: Refused = min(whys, key=_NEARNESS.__getitem__, default="draining")
        again_at = now + min((refusal.again_in for _, refusal in refusals), default=math.inf)
        until = min((_holds(gate, refusal, now) for gate, refusal in refusals), default=now)
        return cls(why, whys.count(why), len(whys), again_at, min(until, again_at + _GRAIN), beats)

    def error(self, pool_id: str, now: float) -> PoolUnavailable:
        """It, as it is told at this moment."""
        detail, matter, mend = _WORDS[self.why]
        soon = (self.again_at - now if self.again_at > now else ASKING) if self.again_at < math.inf else None
        again = "" if soon is None else f"; to be asked again in {soon:.3g} s"
        alike = f"{self.alike} of its {self.looked_at} replicas {'is' if self.alike == 1 else 'are'}"
        which = "its replica is" if self.looked_at == 1 else alike
        return PoolUnavailable(
            f"pool {pool_id!r} takes no task now: {which} {matter}{again} · {mend}",
            detail=detail,
            phase="queue",
            retry_after=soon,
            pool=pool_id,
        )


def _holds(gate: Gate, refusal: Refusal, now: float) -> float:
    """Until when a refusal holds by itself. An open breaker's span ends in a question, whose answer is a beat."""
    if refusal.why not in _LASTING:
        return now
    leased = refusal.why == "open" and gate.breaker.state != "open"
    return now + refusal.again_in if leased else math.inf
