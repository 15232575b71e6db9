"""The data plane over HTTP: send a task, read its stream, cancel it."""

import contextlib
import math
from collections.abc import Mapping

import msgspec
from aiohttp import web
from llama_orch_adapter_api import AdapterError, get_logger

from ._config import StreamSettings
from ._job import Job
from ._jobs import Jobs
from ._narration import Narrations
from ._reader import Manner, Reader
from ._refusal import Refusal, invalid
from ._wire import read_submission

logger = get_logger(__name__)

JOBS = web.AppKey("jobs", Jobs)
NARRATIONS = web.AppKey("narrations", Narrations)
STREAM = web.AppKey("stream", StreamSettings)
CORRELATION = web.RequestKey("correlation", str)

_HEARTBEATS = (1.0, 300.0)
_LEAST_PATIENCE = 1.0


def add_task_routes(app: web.Application) -> None:
    """The routes of tasks. `app` has the keys above by the time it serves."""
    app.router.add_post("/v1/tasks", _submit)
    app.router.add_get("/v1/tasks/{task_id}", _view, allow_head=False)
    app.router.add_get("/v1/tasks/{task_id}/stream", _stream, allow_head=False)
    app.router.add_post("/v1/tasks/{task_id}/cancel", _cancel)


def answer(status: int, body: object, headers: dict[str, str] | None = None) -> web.Response:
    """A body as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json", headers=headers)


async def _submit(request: web.Request) -> web.Response:
    if request.content_type != "application/json":
        raise invalid("the body is no application/json; send it with that Content-Type", status=415)
    body = await request.read()
    try:
        pool_id, task = read_submission(body, request[CORRELATION])
    except AdapterError as error:
        raise Refusal(400, error) from None
    accepted = request.app[JOBS].admit(pool_id, task)
    return answer(202, accepted, {"Location": f"/v1/tasks/{accepted.task_id}"})


async def _view(request: web.Request) -> web.Response:
    jobs = request.app[JOBS]
    return answer(200, jobs.view(jobs.find(request.match_info["task_id"])))


async def _stream(request: web.Request) -> web.StreamResponse:
    jobs = request.app[JOBS]
    manner = manner_of(request.query, request.app[STREAM])
    job = jobs.find(request.match_info["task_id"])
    jobs.take(job)
    try:
        return await _read(job, request, manner)
    finally:
        await jobs.leave(job)


async def _read(job: Job, request: web.Request, manner: Manner) -> web.StreamResponse:
    """A task's stream to its end, or to that of its client."""
    reader = Reader(job, request, manner)
    try:
        with contextlib.ExitStack() as following:
            if manner.narration:
                following.enter_context(request.app[NARRATIONS].follow(job.task_id, reader.tell))
            await reader.serve()
    except (ConnectionError, TimeoutError):
        reader.abort()
    except Exception:
        logger.exception("task %s: its stream failed", job.task_id)
        reader.abort()  # a head was sent: there is no other way to say so
    return reader.response


async def _cancel(request: web.Request) -> web.Response:
    jobs = request.app[JOBS]
    await jobs.cancel(jobs.find(request.match_info["task_id"]))
    return web.Response(status=204)


def manner_of(query: Mapping[str, str], settings: StreamSettings) -> Manner:
    """How a stream is to be written: as configured, where the query does not say otherwise. Raises `Refusal`."""
    return Manner(
        heartbeat=_seconds(query.get("heartbeat"), settings.heartbeat),
        narration=_flag("narration", query.get("narration"), usual=settings.narration),
        narration_every=settings.narration_every,
        batch=_flag("batch", query.get("batch"), usual=settings.batch),
        patience=max(_LEAST_PATIENCE, settings.unread_expiry),
    )


def _flag(name: str, given: str | None, *, usual: bool) -> bool:
    if given is None:
        return usual
    if given not in {"true", "false"}:
        raise invalid(f"{name} is {given[:20]!a}; give true or false")
    return given == "true"


def _seconds(given: str | None, usual: float) -> float:
    if given is None:
        return usual
    least, most = _HEARTBEATS
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if seconds != 0 and not least <= seconds <= most:
        raise invalid(f"heartbeat is {given[:20]!a}; give seconds from {least:g} to {most:g}, or 0 for none")
    return seconds
