"""A pool of scripted replicas, and what a test wants to know of the tasks it sent there."""

import asyncio
import copy
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any

from llama_orch_adapter_api import (
    AdapterError,
    BindingInfo,
    Capabilities,
    DeadlineUnmet,
    DecodeTimeout,
    End,
    InternalError,
    PoolUnavailable,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    WorkerError,
    WorkerHealth,
    WorkerProps,
    WorkerReset,
)
from llama_orch_adapter_host import AdapterHost, FlightRecord, PoolPolicy
from llama_orch_adapter_host._binding import Binding
from llama_orch_adapter_host._breaker import BreakerPolicy, Breakers
from llama_orch_adapter_host._gate import Gate
from llama_orch_adapter_host._health import Health, HealthPolicy
from llama_orch_adapter_host._pool import Pool

from .adapters import STARTED, Words, end, now, task  # type: ignore[import-not-found]  # test folders are no packages

KINDS: tuple[type[WorkerError], ...] = (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    InternalError,
    PoolUnavailable,
    WorkerReset,
)

TAXONOMY = [(kind, detail) for kind in KINDS for detail in kind.verdicts]

Step = TokenEvent | float | WorkerError
"""An event is yielded, a number is a pause, an error is raised, made anew each time."""

ANSWER: tuple[Step, ...] = (STARTED, Token("yes", 0), end(1))
CANCELLED = End(None, None, "cancelled")

READY = WorkerHealth(live=True, ready=True, state="ready")
BUSY = WorkerHealth(live=True, ready=True, state="busy")
LOADING = WorkerHealth(live=True, ready=False, state="loading", detail="loading its model")
DOWN = WorkerHealth(live=False, ready=False, state="down", detail="connection refused")

NEVER_OPEN = BreakerPolicy(consecutive=10**9, share=1.0, window=1000, minimum=1000)
"""For tests of what comes before the breaker; a thousand faults in a row open even this: see `praise`."""


def refused() -> WorkerError:
    return PoolUnavailable("connection refused", detail="unreachable", phase="connect")


def overloaded(retry_after: float | None = None) -> WorkerError:
    return PoolUnavailable("the queue is full", detail="overloaded", retry_after=retry_after)


def loading(retry_after: float | None = None) -> WorkerError:
    return PoolUnavailable("Loading model", detail="loading", retry_after=retry_after)


def broke() -> WorkerError:
    return InternalError("the engine answered 500", detail="engine")


def reset(**facts: Any) -> WorkerError:
    return WorkerReset("connection reset by peer", detail="reset", **facts)


class Replica(Words):
    """Plays a script a task, in turn, the last one ever after. `asked` is when it was, `health_asked` when for that.

    What it takes to tidy up after a task is `tidying` seconds.
    """

    def __init__(self, *scripts: Sequence[Step], health: WorkerHealth = READY, tidying: float = 0.0) -> None:
        super().__init__()
        self.scripts = list(scripts) or [ANSWER]
        self.answer = health
        self.tidying = tidying
        self.asked: list[float] = []
        self.health_asked: list[float] = []

    async def health(self) -> WorkerHealth:
        self.health_asked.append(now())
        return self.answer

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.begun += 1
        self.asked.append(now())
        script = self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]
        try:
            for step in script:
                if isinstance(step, float | int):
                    await asyncio.sleep(step)
                elif isinstance(step, WorkerError):
                    raise copy.copy(step)
                else:
                    yield step
        finally:
            try:
                await self.clean_up()
            finally:
                self.freed += 1

    async def clean_up(self) -> None:
        await asyncio.sleep(self.tidying)


class Lingering(Replica):
    """Gives an iterator of a class of its own, which takes `tidying` seconds to close and is at once out of a wait."""

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        return _Iterator(super().submit(task), self.tidying)

    async def clean_up(self) -> None:
        """In `aclose` alone."""


class _Iterator:
    def __init__(self, stream: AsyncIterator[TokenEvent], tidying: float) -> None:
        self.stream = stream
        self.tidying = tidying

    def __aiter__(self) -> "_Iterator":
        return self

    async def __anext__(self) -> TokenEvent:
        return await anext(self.stream)

    async def aclose(self) -> None:
        await asyncio.sleep(self.tidying)
        await self.stream.aclose()  # type: ignore[attr-defined]  # it is an async generator


async def outcome_of(host: AdapterHost, request: TaskRequest | None = None) -> list[TokenEvent] | WorkerError:
    """What a task gave, or what it failed with."""
    try:
        return [event async for event in await host.submit("pool", request or task())]
    except WorkerError as error:
        return error


def record_of(host: AdapterHost, request: TaskRequest) -> FlightRecord:
    record = host.explain(request.task_id)
    assert record is not None
    return record


def replicas_of(record: FlightRecord) -> list[str]:
    """Where it was sent, in order."""
    return [attempt.replica.removeprefix("pool/") for attempt in record.attempts]


def praise(host: AdapterHost) -> None:
    """Speak well of every replica to its breaker, once."""
    for binding in host._registry.all():
        permit = binding.gate.breaker.enter(now())
        assert permit is not None
        binding.gate.breaker.leave(permit, "ok", now())


def left_behind(host: AdapterHost) -> list[object]:
    """What a host still holds of its tasks: nothing, once all of them are over."""
    bindings = host._registry.all()
    pools = host._registry.pools()
    return [
        *host._ledger.calls(),
        *(call for pool in pools for call in pool.live),
        *(lease for binding in bindings for lease in binding.leases),
    ]


# --- without a host


def bound(
    replica: str = "0",
    flights: int = 0,
    *,
    limit: int | None = None,
    slots: int | None = None,
    breaker: BreakerPolicy | None = None,
    health: HealthPolicy | None = None,
) -> Binding:
    """A replica of `pool` with so many tasks in flight; who counts them looks into none."""
    breakers = Breakers(random=lambda: 0.5, on_change=lambda *_: None)
    gate = Gate(breakers.create(replica, breaker or BreakerPolicy()), Health(health or HealthPolicy()), limit)
    gate.slots = slots
    binding = Binding(BindingInfo("pool", replica, "words", generation=1), Words(), Timeouts(), gate)
    for _ in range(flights):
        binding.leases.add(object())  # type: ignore[arg-type]
    return binding


def pool_of(*bindings: Binding, policy: PoolPolicy | None = None) -> Pool:
    pool = Pool("pool", policy or PoolPolicy())
    for binding in bindings:
        pool.set(binding)
    return pool


def trip(binding: Binding, now: float = 0.0) -> None:
    """Open its breaker."""
    breaker = binding.gate.breaker
    while breaker.state == "closed":
        permit = breaker.enter(now)
        assert permit is not None
        breaker.leave(permit, "fault", now)


def props(slots: int | None = 4, **facts: Any) -> WorkerProps:
    told: dict[str, Any] = {"ctx_max": 8192, "observed_at": datetime(2026, 1, 1, tzinfo=UTC)}
    return WorkerProps(slots, slots, Capabilities("words", "1", "model", **{**told, **facts}))
