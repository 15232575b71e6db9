"""What an adapter says of its engine: how it is, and what it can do."""

import asyncio
import re
from datetime import UTC, datetime, timedelta

from llama_orch_adapter_api import (
    AdapterError,
    Capabilities,
    TaskRequest,
    WorkerAdapter,
    WorkerError,
    WorkerHealth,
    WorkerProps,
)

from .._dialect import Load
from .._engine import LoopbackEngine
from .._outcome import outcome
from .._reply import Reply
from ._check import Broken, Trial, check, require, the

BUSY = Load(slots=1, running=1, waiting=1)

_WORD = re.compile(r"[a-z0-9_]+")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_WORKLOADS = {"completion", "embedding", "rerank"}


@check("health.ready")
async def ready(trial: Trial) -> None:
    """An engine that is well is live and ready."""
    async with trial.bench.meeting(trial.bench.script(Reply.silence())) as (adapter, _):
        _is(await _health(adapter), "ready", live=True, ready=True)


@check("health.loading")
async def loading(trial: Trial) -> None:
    """An engine that loads its model is live and not ready: `loading`, which is no failure."""
    words = trial.bench.dialect.refusal(503, "Loading model")
    async with trial.bench.meeting(lambda _: words) as (adapter, _):
        seen = await _health(adapter)

    if "loading" in trial.bench.dialect.states:
        _is(seen, "loading", live=True, ready=False)
    else:
        require(not seen.ready, f"an engine that answers 503 to everything is told as {seen}; it is not ready")


@check("health.busy")
async def busy(trial: Trial) -> None:
    """An engine all of whose slots work is ready all the same: `busy`, where it lets one see that."""
    async with trial.bench.meeting(trial.bench.script(Reply.silence(), BUSY)) as (adapter, _):
        seen = await _health(adapter)

    state = "busy" if "busy" in trial.bench.dialect.states else "ready"
    _is(seen, state, live=True, ready=True)


@check("health.down")
async def down(trial: Trial) -> None:
    """An engine that is not there is down and not live, one that is broken down and live; neither is an exception."""
    async with LoopbackEngine({}) as gone:
        adapter = trial.bench.adapter(gone.url)
    try:
        _is(await _health(adapter), "down", live=False, ready=False)
    finally:
        await adapter.aclose()
    async with trial.bench.meeting(lambda _: trial.bench.dialect.refusal(500, "out of memory")) as (adapter, _):
        _is(await _health(adapter), "down", live=True, ready=False)


@check("health.cancelled")
async def cancelled(trial: Trial) -> None:
    """A look at an engine that says nothing can be cancelled, and then lets go of its connection."""
    async with trial.bench.meeting(lambda _: Reply.silence()) as (adapter, engine):
        waiting = asyncio.create_task(adapter.health())
        request = await engine.request()
        waiting.cancel()
        await asyncio.wait([waiting])
        require(waiting.cancelled(), "health() swallows its cancellation; let CancelledError pass")
        await request.disconnected()


@check("props.complete")
async def complete(trial: Trial) -> None:
    """Capacity and capabilities say what the engine said, in the forms of the boundary."""
    async with trial.bench.meeting(trial.bench.script(Reply.silence())) as (adapter, _):
        props = the(WorkerProps, await adapter.props(), "props()")
        said = the(Capabilities, props.capabilities, "capabilities")

    bench = trial.bench
    require(said.engine == bench.spec.engine, f"capabilities.engine is {said.engine!r}, not {bench.spec.engine!r}")
    require(said.model_id == bench.dialect.model, f"model_id is {said.model_id!r}, not {bench.dialect.model!r}")
    require(said.engine_version, "engine_version is empty; say 'unknown' where the engine does not tell")
    require(said.ctx_max is None or said.ctx_max > 0, f"ctx_max is {said.ctx_max}; None means that nobody knows")
    require(said.observed_at.tzinfo is not None, "observed_at has no time zone; give datetime.now(UTC)")
    require(abs(datetime.now(UTC) - said.observed_at) < timedelta(minutes=1), f"observed_at is {said.observed_at}")
    require(said.workloads and set(said.workloads) <= _WORKLOADS, f"workloads are {said.workloads}")
    require(all(_WORD.fullmatch(word) for word in said.features), f"features are {said.features}; use lower-case words")
    digest = said.model_digest
    require(digest is None or _DIGEST.fullmatch(digest), f"model_digest is {digest!r}; give sha256:<64 hex> or None")
    _counts(props)


@check("props.fresh")
async def fresh(trial: Trial) -> None:
    """`props()` asks the engine now, each time; one that is not there raises a WorkerError."""
    async with trial.bench.meeting(trial.bench.script(Reply.silence())) as (adapter, engine):
        await adapter.props()
        before = len(engine.requests)
        await adapter.props()
        require(len(engine.requests) > before, "a second props() asks the engine nothing; it is to tell of now")
    async with LoopbackEngine({}) as gone:
        adapter = trial.bench.adapter(gone.url)
    try:
        told = await adapter.props()
    except WorkerError as error:
        require(error.detail == "unreachable", f"props() of an engine that is gone: {error.detail}, not unreachable")
    else:
        raise Broken(f"props() of an engine that is gone says {told}; it is to raise")
    finally:
        await adapter.aclose()


@check("version.stable")
async def stable(trial: Trial) -> None:
    """`engine_version()` is what the engine says, the same each time and the same as in props and `Started`."""
    bench = trial.bench
    async with bench.meeting(bench.script(bench.reply())) as (adapter, _):
        versions = [await adapter.engine_version(), (await adapter.props()).capabilities.engine_version]
        seen = await outcome(adapter, bench.task())
        versions += [seen.started.engine_version if seen.started else "", await adapter.engine_version()]

    require(set(versions) == {bench.dialect.version}, f"{versions} were told, all are to be {bench.dialect.version!r}")


@check("workloads.refused")
async def refused(trial: Trial) -> None:
    """A workload that is not declared is refused as unsupported, by the adapter or by an engine without the route."""
    bench = trial.bench
    declared = (await bench.capabilities()).workloads
    tasks = {
        "embedding": TaskRequest(workload="embedding", inputs=("a",)),
        "rerank": TaskRequest(workload="rerank", inputs=("a",), query="b"),
    }
    async with bench.meeting(bench.script(bench.dialect.refusal(404, "Not Found"))) as (adapter, _):
        for workload in tasks.keys() - set(declared):
            await _is_unsupported(adapter, tasks[workload])


async def _is_unsupported(adapter: WorkerAdapter, task: TaskRequest) -> None:
    try:
        seen = await outcome(adapter, task)
    except AdapterError as error:  # raised by submit() itself, which is no coroutine
        refusal: WorkerError | None = error
    else:
        refusal = seen.error
    detail = refusal.detail if refusal is not None else "no refusal"
    require(detail == "unsupported", f"workload {task.workload!r}, not declared: {detail}; raise unsupported")


async def _health(adapter: WorkerAdapter) -> WorkerHealth:
    try:
        return the(WorkerHealth, await adapter.health(), "health()")
    except WorkerError as error:
        raise Broken(f"health() raises {error!r}; a replica that is down is an answer: WorkerHealth.of") from None


def _is(seen: WorkerHealth, state: str, *, live: bool, ready: bool) -> None:
    told = (seen.state, seen.live, seen.ready)
    require(told == (state, live, ready), f"state, live, ready are {told}, not {(state, live, ready)}: {seen.detail}")


def _counts(props: WorkerProps) -> None:
    total, free = props.slots_total, props.slots_free
    require(total is None or total > 0, f"slots_total is {total}; None means that nobody counts them")
    require(free is None or free >= 0, f"slots_free is {free}")
    require(total is None or free is None or free <= total, f"{free} slots are free of {total}")
