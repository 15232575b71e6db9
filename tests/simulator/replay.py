"""Plays recorded flights again: the same tasks at the same moments, on replicas that answer as they did.

What a replica answered to a task is what it answers again; where the host now asks one that was not asked then, it
answers as it usually did to others. So a change of policy is tried on what really happened.
"""

import asyncio
import random
from collections import Counter, defaultdict, deque
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
from llama_orch_adapter_api import (
    AdapterError,
    AdapterSpec,
    DeadlineUnmet,
    DecodeTimeout,
    End,
    InternalError,
    PoolUnavailable,
    Started,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerError,
    WorkerHealth,
    WorkerProps,
    WorkerReset,
)
from llama_orch_adapter_host import AdapterHost, AttemptRecord, FlightRecord, Plugins, PoolPolicy, RetryPolicy

from .day import Config

_KINDS: dict[str, type[WorkerError]] = {
    kind.code: kind
    for kind in (AdapterError, DeadlineUnmet, DecodeTimeout, InternalError, PoolUnavailable, WorkerReset)
}


def read_records(path: Path) -> list[FlightRecord]:
    """The records in a file of JSON lines, in the order of their admission."""
    decoder = msgspec.json.Decoder(FlightRecord)
    lines = path.read_bytes().splitlines()
    return sorted((decoder.decode(line) for line in lines if line.strip()), key=lambda record: record.admitted_at)


class Replayed(WorkerAdapter):
    """A replica that answers each task as it did. `answers` are its attempts by task, `usual` those that went well."""

    def __init__(self, replica: str, answers: dict[str, deque[AttemptRecord]], usual: Sequence[AttemptRecord]) -> None:
        self._replica = replica
        self._answers = answers
        self._usual = usual

    async def health(self) -> WorkerHealth:
        """Ready: how it was between the tasks, the records do not tell."""
        return WorkerHealth(live=True, ready=True, state="ready")

    async def props(self) -> WorkerProps:
        """Not recorded."""
        raise AdapterError("a record holds no props", detail="unsupported")

    async def engine_version(self) -> str:
        """Not recorded."""
        return "recorded"

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        """The recorded latencies, tokens and failure."""
        left = self._answers.get(task.task_id)
        was = left.popleft() if left else random.choice(self._usual) if self._usual else None
        first = (was and was.first_token) or 0.0
        yield Started("replayed", "recorded", "recorded", self._replica)
        if was is not None and was.first_token is None and was.duration is not None:
            await asyncio.sleep(was.duration)
        else:
            await asyncio.sleep(first)
            yield Token("…", 0)
            await asyncio.sleep(max(0.0, ((was and was.duration) or 0.0) - first))
        if was is not None and was.error_kind is not None:
            raise _KINDS[was.error_kind]("as recorded", detail=was.detail or "", retry_after=was.retry_after)
        yield End(None, None, "stop")


async def replayed(records: list[FlightRecord], attempts: int) -> dict[str, object]:
    """How the recorded tasks end with so many attempts each, beside how they did end."""
    answers: dict[str, dict[str, deque[AttemptRecord]]] = defaultdict(lambda: defaultdict(deque))
    usual: dict[str, list[AttemptRecord]] = defaultdict(list)
    for record in records:
        for attempt in record.attempts:
            answers[attempt.replica][record.task_id].append(attempt)
            if attempt.outcome == "ok":
                usual[attempt.replica].append(attempt)
    plugins = Plugins()
    plugins.register(
        AdapterSpec("replayed", 1, Config, lambda c: Replayed(c.replica, answers[c.replica], usual[c.replica]))
    )
    host = AdapterHost(plugins=plugins)
    policy = PoolPolicy(retry=RetryPolicy(attempts=attempts))
    for replica in sorted(answers):
        pool, _, name = replica.partition("/")
        host.bind(pool, "replayed", {"url": replica}, replica_id=name, policy=policy)
    async with host:
        ends = await asyncio.gather(*(_again(host, record, records[0].admitted_at) for record in records))
    return {
        "tasks": len(records),
        "recorded": dict(Counter(_ending(record) for record in records).most_common()),
        "replayed": dict(Counter(ends).most_common()),
        "attempts_recorded": sum(len(record.attempts) for record in records),
    }


async def _again(host: AdapterHost, record: FlightRecord, start: float) -> str:
    await asyncio.sleep(record.admitted_at - start)
    try:
        request = TaskRequest(task_id=record.task_id, prompt="…", session_id=record.session_id)
        async with host.submit(record.pool_id, request) as stream:
            result = await stream.collect()
    except WorkerError as error:
        return f"{error.code} {error.detail}"
    return "cancelled" if result.end.finish_reason == "cancelled" else "ok"


def _ending(record: FlightRecord) -> str:
    return f"{record.error_kind} {record.detail}" if record.ending == "failed" else record.ending or "runs"
