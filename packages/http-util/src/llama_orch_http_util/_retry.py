"""When a request may be sent again, and after how long. Decisions are pure; `retried` alone waits.

Only for requests that a second delivery does not hurt, such as props, version and metrics. Tasks are retried by the
host, whatever is asked on their way is a part of its attempt, health answers at once: nobody retries around a retrier.
"""

import asyncio
import math
import random
from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

import backoff
import msgspec
from llama_orch_adapter_api import WorkerError

T = TypeVar("T")

IDEMPOTENT = frozenset({"GET", "HEAD"})
"""Methods that may be repeated by themselves (RFC 9110 §9.2.2, of those we use)."""

_SPREAD = 0.1
"""Share of a Retry-After that is added at most, so that not all come back in one moment."""


class RetryPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How often and how soon. Seconds; `attempts` counts the first one too.

    Before attempt n + 1 (n from 1) there is a wait, drawn evenly from 0 to `min(cap, base · 2^(n-1))` (full jitter). An
    engine that asks for `Retry-After` is given that time and up to a tenth more, unless it asks for more than
    `patience`: then the error is raised at once. `HttpClient.get` begins no attempt later than `patience` after its
    first: the host gives up a look at an engine after 5 s, and is to be told why there was nothing to see.
    """

    attempts: int = 3
    base: float = 0.05
    cap: float = 2.0
    patience: float = 3.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(f"attempts is {self.attempts}; give 1 for a single try, or more")
        if not 0 < self.base <= self.cap < math.inf:
            raise ValueError(f"base is {self.base} and cap {self.cap}; give 0 < base <= cap, in seconds")
        if not 0 <= self.patience < math.inf:
            raise ValueError(f"patience is {self.patience}; give seconds, 0 to wait for no engine")

    def ceilings(self) -> Iterator[float]:
        """The longest wait after each attempt in turn, without end."""
        steps = backoff.expo(base=2, factor=self.base, max_value=self.cap)
        next(steps)  # the generator's first value is not one of its waits
        return steps


def may_repeat(method: str, error: WorkerError, *, idempotent: bool = False) -> bool:
    """Whether the request that failed so may be sent again.

    GET and HEAD may; others if the caller calls them idempotent and not a byte of an answer was seen.
    """
    return error.retriable and (method in IDEMPOTENT or (idempotent and not error.answered))


def wait_before_next(
    error: WorkerError,
    ceiling: float,
    policy: RetryPolicy,
    *,
    left: float = math.inf,
    jitter: Callable[[float], float] = backoff.full_jitter,
    spread: Callable[[], float] = random.random,
) -> float | None:
    """Seconds to wait before the next attempt, or None where waiting is pointless.

    `left` are the seconds until the caller's deadline; waits that would end after it are drawn from what is left.
    `spread` gives 0 to 1: that share of a tenth of a Retry-After is added to it.
    """
    asked = error.retry_after or 0.0
    if asked > policy.patience or asked >= left:
        return None
    most = min(_SPREAD * asked, left - asked)
    wait = max(jitter(min(ceiling, left)), asked + most * spread())
    return wait if wait < left else None


async def retried(
    method: str,
    send: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    *,
    idempotent: bool = False,
    deadline: float = math.inf,
) -> T:
    """What `send` gives, tried as often as the policy allows; raises the last `WorkerError`, its `attempts` set.

    `deadline` is a moment on the running loop's clock; no wait ends after it. Cancellation ends a wait at once.
    """
    loop = asyncio.get_running_loop()
    ceilings = policy.ceilings()
    attempts = 0
    while True:
        attempts += 1
        try:
            return await send()
        except WorkerError as error:
            error.attempts = attempts
            wait = None
            if attempts < policy.attempts and may_repeat(method, error, idempotent=idempotent):
                wait = wait_before_next(error, next(ceilings), policy, left=deadline - loop.time())
            if wait is None:
                raise
        await asyncio.sleep(wait)
