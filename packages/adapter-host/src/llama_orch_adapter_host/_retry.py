"""Whether and when a task that has no token yet is sent again. Functions over values, and the pool's budget.

The host retries `submit`, and nobody retries around it.
"""

import math
import random
from collections.abc import Callable, Iterator
from typing import NamedTuple

import backoff
import msgspec
from llama_orch_adapter_api import DecodeTimeout, WorkerError, WorkerReset

from ._outcome import Again, meaning_of

_SPREAD = 0.1
"""Share of a Retry-After that is added at most, so that not all come back in one moment."""

FATAL_RESETS = 2
"""A task that ended so many replicas in a reset is never sent again: it may be what kills them."""


_SAME_TOO: frozenset[Again] = frozenset({"other_now", "other_first"})
"""What allows the replica that failed where no other takes the task."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how soon. Seconds; `attempts` counts the first one too.

    Before attempt n + 1 (n from 1) there is a wait, drawn evenly from 0 to `min(cap, base · 2^(n-1))` (full jitter). A
    replica that asks for Retry-After is left alone that long and up to a tenth more; if that is over `patience`, its
    error is raised at once. All retries of a pool share a budget: it begins with `budget` and earns `earn` with each
    new task; a retry costs 1, after a time limit 2, and nothing where the host itself drained the replica.
    """

    attempts: int = 3
    base: float = 0.05
    cap: float = 2.0
    patience: float = 30.0
    budget: float = 10.0
    earn: float = 0.1

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"retry.attempts is {self.attempts}; give 1 for a single try, or more")
        if not 0 < self.base <= self.cap < math.inf:
            raise ValueError(f"retry.base is {self.base} and cap {self.cap}; give 0 < base <= cap, in seconds")
        for name in ("patience", "budget", "earn"):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise ValueError(f"retry.{name} is {value}; give 0 or more")


class Budget:
    """What a pool's retries may still cost: total failure makes them stop, a trickle of failures does not."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._most = policy.budget
        self._earn = policy.earn
        self.left = policy.budget

    def earn(self) -> None:
        """A new task came."""
        if self.left < self._most:
            self.left = min(self._most, self.left + self._earn)

    def spend(self, cost: float) -> bool:
        """Whether there was enough; if so, it is spent."""
        if cost > self.left:
            return False
        self.left -= cost
        return True


class Past(NamedTuple):
    """What a task has been through: calls of an engine that it was charged for, free repeats, ends in a reset.

    `once` is how many of its failures were of the kind that allows one other replica.
    """

    attempts: int
    stale: int = 0
    resets: int = 0
    once: int = 0


class Prospect(NamedTuple):
    """What lies before it. Seconds.

    `ceiling` is the longest back-off. `others`: a replica not tried yet would take it now. `same_in`: how long until
    the one that failed may be asked again, infinite if it may not. `left` is the rest of its deadline, `usual` a usual
    time to the first token (p95).
    """

    ceiling: float
    others: bool
    same_in: float = 0.0
    left: float = math.inf
    usual: float = 0.0


class Retry(NamedTuple):
    """Send it again after `wait` seconds; `same` allows the replica that failed. `cost` is what the budget pays."""

    wait: float
    same: bool
    cost: float


class Dice(NamedTuple):
    """Where chance comes in: `jitter` gives 0 to what it is given, `spread` 0 to 1."""

    jitter: Callable[[float], float] = backoff.full_jitter
    spread: Callable[[], float] = random.random


_DICE = Dice()


def ceilings(policy: RetryPolicy) -> Iterator[float]:
    """The longest back-off after each attempt in turn, without end."""
    steps = backoff.expo(base=2, factor=policy.base, max_value=policy.cap)
    next(steps)  # the generator's first value is not one of its waits
    return steps


def retry_after(
    error: WorkerError, past: Past, prospect: Prospect, policy: RetryPolicy, dice: Dice = _DICE
) -> Retry | None:
    """How the task goes on, or None where this failure is its end. `policy.attempts` is what this task may have."""
    if policy.attempts == 1:
        return None
    again = meaning_of(error).again
    if again == "same_once":
        return Retry(0.0, same=True, cost=0.0) if past.stale <= 1 and prospect.left > 0 else None
    if past.attempts >= policy.attempts or past.resets >= FATAL_RESETS:
        return None
    if prospect.others:
        wait = _wait_for_another(again, past, prospect, dice)
    else:
        wait = _wait_for_the_same(again, prospect, policy.patience, dice)
    if wait is None or wait >= prospect.left:
        return None
    return Retry(wait, same=not prospect.others, cost=_cost(error))


def allows_same(error: WorkerError) -> bool:
    """Whether a task that is sent to another replica may go back to this one, where by then no other takes it."""
    return meaning_of(error).again in _SAME_TOO


def _cost(error: WorkerError) -> float:
    """What the budget pays: twice for a timeout, nothing where it was the host that cut the task off."""
    if (error.code, error.detail) == (WorkerReset.code, "drained"):
        return 0.0
    return 2.0 if isinstance(error, DecodeTimeout) else 1.0


def _wait_for_another(again: Again, past: Past, prospect: Prospect, dice: Dice) -> float | None:
    match again:
        case "other_now":
            return 0.0
        case "other_once" if past.once > 1:
            return None
        case "other_in_time" if prospect.left < prospect.usual:
            return None
        case "never":
            return None
    return dice.jitter(prospect.ceiling)


def _wait_for_the_same(again: Again, prospect: Prospect, patience: float, dice: Dice) -> float | None:
    """Never earlier than it asked for, and up to a tenth of that later."""
    asked = prospect.same_in
    if again not in _SAME_TOO or asked > patience or asked >= prospect.left:
        return None
    most = min(_SPREAD * asked, prospect.left - asked)
    return max(dice.jitter(prospect.ceiling), asked + most * dice.spread())
