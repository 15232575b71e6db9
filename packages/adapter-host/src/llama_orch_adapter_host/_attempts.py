"""The attempts of one call: each `async for` round is one, and a failure inside its block decides about the next."""

from collections.abc import Iterator
from types import TracebackType
from typing import Self

import msgspec
from llama_orch_adapter_api import PoolUnavailable, WorkerError

from ._binding import Binding
from ._call import Call
from ._gate import Refusal
from ._outcome import Meaning, meaning_of
from ._retry import Past, Prospect, Retry, allows_same, ceilings, retry_after
from ._router import Router
from ._routes import Look, Pick

_FRESH = Past(0)


class Attempts:
    """Ends where the task was cancelled; raises what it was ended with otherwise, its last failure by its block."""

    __slots__ = ("_call", "_ceilings", "_failure", "_past", "_policy", "_retry", "_router", "_spent", "_tried")

    def __init__(self, call: Call, router: Router) -> None:
        policy = call.pool.policy.retry
        most = call.task.max_attempts
        self._policy = policy if most is None else msgspec.structs.replace(policy, attempts=most)
        self._call = call
        self._router = router
        self._tried: tuple[Binding, ...] = ()
        self._spent: tuple[Binding, ...] = ()  # those of them whose own failure allows no second time
        self._failure: WorkerError | None = None
        self._retry: Retry | None = None
        self._ceilings: Iterator[float] | None = None
        self._past = Past(0, resets=call.record.resets) if call.record.resets else _FRESH

    @property
    def backoff(self) -> float:
        """Seconds that were waited before this attempt."""
        return 0.0 if self._retry is None else self._retry.wait

    def route(self, now: float) -> Pick:
        """Where this attempt goes: to one that failed only where that may be asked again and no other takes the task.

        Raises `PoolUnavailable` where nobody does.
        """
        call, failure = self._call, self._failure
        if self._retry is None or failure is None:
            return self._router.route(call.pool, call.task, Look(now))
        if not self._retry.same:
            try:
                return self._router.route(call.pool, call.task, Look(now, self._tried))
            except PoolUnavailable:  # another one would have taken it before the back-off
                if not allows_same(failure):
                    raise
        picked = self._router.route(call.pool, call.task, Look(now, self._spent))
        back = picked.binding in self._tried and allows_same(failure)  # a stale connection is no reason to leave
        return Pick(picked.binding, f"{picked.why}, as no other takes it") if back else picked

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        call = self._call
        if self._retry is not None:
            if call.flight is not None:
                await call.flight.stop()  # never two at a time
            if self._retry.wait:
                await call.rest(self._retry.wait)
        if isinstance(call.outcome, WorkerError):
            raise call.outcome
        if call.outcome is not None:
            raise StopAsyncIteration
        return self

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if not isinstance(error, WorkerError):
            return False
        if self._call.outcome is not None:  # while the adapter let go, maybe: that it failed is told to nobody
            return True
        if len(self._call.record.attempts) == self._past.attempts + self._past.stale:  # nobody was asked
            if self._failure is None:
                return False
            raise self._failure  # what became of the task says more than that nobody is left
        self._failure = error
        self._retry = self._judge(error)
        return self._retry is not None

    def _judge(self, error: WorkerError) -> Retry | None:
        """How it goes on after this failure, paid for and told."""
        call = self._call
        failed = call.binding
        assert failed is not None  # noqa: S101  # it was asked
        self._tried += (failed,)
        if not (allows_same(error) or error.stale_connection):
            self._spent += (failed,)
        self._past = _after(self._past, meaning_of(error))
        now = call.now()
        if self._ceilings is None:
            self._ceilings = ceilings(self._policy)
        prospect = self._prospect(failed, error, now, next(self._ceilings))
        retry = retry_after(error, self._past, prospect, self._policy)
        if retry is None or not call.pool.budget.spend(retry.cost):
            return None
        call.failed(retry.wait)
        return retry

    def _prospect(self, failed: Binding, error: WorkerError, now: float, ceiling: float) -> Prospect:
        call = self._call
        return Prospect(
            ceiling,
            others=self._router.others(call.pool, call.task, Look(now, self._tried)),
            same_in=_same_in(failed.gate.refuses(now, len(failed.leases)), error),
            left=call.left(now) - failed.timeouts.min_useful,
            usual=call.pool.first_token.p95,
        )


def _same_in(refusal: Refusal | None, error: WorkerError) -> float:
    """Seconds until the replica that failed may be asked again: only a pause ends by itself."""
    if refusal is None or refusal.why == "paused":
        return 0.0 if refusal is None else max(refusal.again_in, error.retry_after or 0.0)  # a pause is bounded
    if refusal.why == "loading" and error.retry_after is not None:
        return error.retry_after
    return float("inf")


def _after(past: Past, meaning: Meaning) -> Past:
    if meaning.outcome == "stale":
        return past._replace(stale=past.stale + 1)
    return Past(
        past.attempts + 1,
        past.stale,
        past.resets + meaning.resets,
        past.once + (meaning.again == "other_once"),
    )
