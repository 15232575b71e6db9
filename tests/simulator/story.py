"""What one task was seen to do, from outside, and the rules that hold for every task on its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from llama_orch_adapter_api import TaskRequest
from llama_orch_adapter_host import AttemptRecord, FlightRecord

LONGEST = 400.0
"""Seconds after which a task that was not cancelled counts as hung: all attempts, waits and limits together."""

_GRAIN = 1e-6
"""Seconds that a sum of moments may be off."""


@dataclass
class Story:
    """One task. `began` is a moment on the loop's clock; `late` counts what came after a cancel."""

    request: TaskRequest
    tokens: list[int] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    late: int = 0
    cancelled: bool = False
    began: float = 0.0
    took: float = 0.0
    record: FlightRecord | None = None

    @property
    def attempts(self) -> Sequence[AttemptRecord]:
        """In order."""
        return () if self.record is None else self.record.attempts

    def broken(self) -> Iterator[str]:
        """The rules that did not hold."""
        deadline = self.request.deadline_ms
        rules = {
            "one ending": len(self.ends) == 1,
            "tokens in order, none lost": self.tokens == list(range(len(self.tokens))),
            "no token after a cancel": self.late == 0,
            "the whole answer": self.ends != ["length"] or len(self.tokens) == self.request.max_tokens,
            "not hung": self.took < LONGEST,
            "deadline kept": deadline is None or self.took <= deadline / 1000 + 0.005 + 2.0 * (not self.ends),
            "no retry after a token": all(attempt.first_token is None for attempt in self.attempts[:-1]),
            "attempts within the policy": sum(attempt.outcome != "stale" for attempt in self.attempts) <= 3,
            "one live copy": all(_ended(one) <= after.began_after + _GRAIN for one, after in pairwise(self.attempts)),
            "a stale connection is met once": sum(attempt.outcome == "stale" for attempt in self.attempts) <= 1,
            "and repeated at once": all(
                not after.backoff and after.began_after <= _ended(one) + _GRAIN
                for one, after in pairwise(self.attempts)
                if one.outcome == "stale"
            ),
            "and not told while it may be repeated": not self._gave_up_at_a_stale_one(),
        }
        yield from (name for name, holds in rules.items() if not holds)

    def _gave_up_at_a_stale_one(self) -> bool:
        """Whether it failed by a stale connection that nothing stood in the way of repeating."""
        if not self.attempts or self.attempts[-1].outcome != "stale" or self.record is None:
            return False
        pinned = self.request.replica_id is not None  # to one that may take nothing by now
        return self.record.ending == "failed" and self.request.deadline_ms is None and not pinned


def _ended(attempt: AttemptRecord) -> float:
    return attempt.began_after + (attempt.duration or 0.0)
