"""All that is going on, as one value for people who look in. Nothing here asks an engine, or holds what a task says."""

from collections.abc import Mapping
from heapq import nsmallest

import msgspec
from llama_orch_adapter_api import one_line, redact
from llama_orch_adapter_host import AdapterHost, ReplicaStatus, Snapshot

from ._job import Job
from ._jobs import Jobs
from ._lane import Lane
from ._queue import Priority

SHOWN = 50
"""Streams that are told one by one, those that run longest; the others are counted."""

_LONGEST = 240
_READ = 4096
"""Characters of a text that are shown, and that are looked at for it."""

_TASK = 8
"""Characters of a task's id: who knows all of it can read and cancel the task."""


class ReplicaNow(msgspec.Struct, frozen=True, kw_only=True):
    """A replica, as `ReplicaStatus` has it, with the model that it serves, None where that is not known.

    `problem` is why its engine is not ready or could not be asked, in the engine's words.
    """

    replica_id: str
    engine: str
    model: str | None
    generation: int
    stage: str
    health: str
    breaker: str
    reopens_in: float
    in_flight: int
    slots: int | None
    problem: str


class PoolNow(msgspec.Struct, frozen=True, kw_only=True):
    """A pool. `refusal` is why it would take no task now. `ok`, `failed`, `cancelled` count tasks that are over."""

    pool_id: str
    refusal: str | None
    replicas: tuple[ReplicaNow, ...]
    running: int
    interactive: int
    batch: int
    queue: int
    tokens_per_s: float
    ok: int
    failed: int
    cancelled: int


class StreamNow(msgspec.Struct, frozen=True, kw_only=True):
    """A task that runs: the beginning of its id, which replica serves it, "" before one does, and for how long."""

    task: str
    place: str
    priority: Priority
    seconds: float
    tokens: int
    unread: int
    read: bool


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """Everything. `more` streams run besides those that are told."""

    stopping: bool
    pools: tuple[PoolNow, ...]
    streams: tuple[StreamNow, ...]
    more: int


def overview(host: AdapterHost, jobs: Jobs, queue: int, rates: dict[str, float], now: float) -> Overview:
    """As things stand at `now`, on the loop's clock. `queue` is the bound of each queue, `rates` tokens/s by pool."""
    lanes, seen = jobs.dispatch.lanes, host.capabilities().pools
    replicas: dict[str, list[ReplicaStatus]] = {pool_id: [] for pool_id in host.pools()}
    for status in host.status():
        replicas.setdefault(status.pool_id, []).append(status)
    for pool_id, lane in lanes.items():
        if lane.running or lane.queue:
            replicas.setdefault(pool_id, [])
    running = [job for lane in lanes.values() for job in lane.running]
    shown = nsmallest(SHOWN, running, key=lambda job: (job.started or 0.0, job.task_id))
    return Overview(
        stopping=jobs.stopping,
        pools=tuple(
            _pool(
                pool_id,
                _refusal(host, pool_id),
                lanes.get(pool_id),
                rates.get(pool_id, 0.0),
                replicas=tuple(_replica(each, seen[pool_id].replicas if pool_id in seen else {}) for each in statuses),
                queue=queue,
            )
            for pool_id, statuses in replicas.items()
        ),
        streams=tuple(_stream(job, now) for job in shown),
        more=len(running) - len(shown),
    )


def words(text: str) -> str:
    """Somebody else's text, for people: one line, no secrets, not endless."""
    safe = one_line(redact(text[:_READ]))
    return safe if len(safe) <= _LONGEST else safe[: _LONGEST - 1] + "…"


def _refusal(host: AdapterHost, pool_id: str) -> str | None:
    refusal = host.refusal(pool_id)
    return None if refusal is None else words(refusal.message)


def _pool(
    pool_id: str, refusal: str | None, lane: Lane | None, rate: float, *, replicas: tuple[ReplicaNow, ...], queue: int
) -> PoolNow:
    interactive = 0 if lane is None else lane.queue.ahead_of("interactive")
    return PoolNow(
        pool_id=words(pool_id),
        refusal=refusal,
        replicas=replicas,
        running=0 if lane is None else len(lane.running),
        interactive=interactive,
        batch=0 if lane is None else len(lane.queue) - interactive,
        queue=queue,
        tokens_per_s=round(rate, 1),
        ok=0 if lane is None else lane.ended["ok"],
        failed=0 if lane is None else lane.ended["failed"],
        cancelled=0 if lane is None else lane.ended["cancelled"],
    )


def _replica(status: ReplicaStatus, seen: Mapping[str, Snapshot]) -> ReplicaNow:
    known = seen.get(status.replica_id)
    if known is not None and known.generation != status.generation:
        known = None
    told = None if known is None else known.capabilities
    problem = status.detail if status.health in {"down", "loading"} else (known and known.problem) or ""
    limits = [each for each in (status.slots, status.limit) if each is not None]
    return ReplicaNow(
        replica_id=words(status.replica_id),
        engine=words(status.engine),
        model=None if told is None else words(told.model_id),
        generation=status.generation,
        stage=status.stage,
        health=status.health,
        breaker=status.breaker,
        reopens_in=round(status.reopens_in, 1),
        in_flight=status.in_flight,
        slots=min(limits, default=None),
        problem=words(problem),
    )


def _stream(job: Job, now: float) -> StreamNow:
    return StreamNow(
        task=words(job.task_id[:_TASK]),
        place=words(job.stream.replica) if job.stream is not None else "",
        priority=job.priority,
        seconds=round(now - (job.admitted if job.started is None else job.started), 1),
        tokens=job.told,
        unread=len(job.outbox),
        read=job.taken,
    )
