"""The data plane over HTTP: send a task, read its stream, cancel it."""

import contextlib
from collections.abc import Mapping
from typing import Annotated

import msgspec
from aiohttp import web
from llama_orch_adapter_api import AdapterError, TaskRequest, get_logger
from msgspec import UNSET, UnsetType

from ._config import StreamSettings
from ._job import Job
from ._keys import BATCHES, CONFIG, CORRELATION, JOBS, NARRATIONS
from ._reader import Manner, Reader
from ._refusal import Refusal, invalid
from ._replay import GapFrame
from ._routes import JSON, Flag, Reply, Route, answer, read_query
from ._wire import Accepted, Frame, Submission, TaskView, read_submission

logger = get_logger(__name__)

_LEAST_HEARTBEAT = 1.0
_LEAST_PATIENCE = 1.0
_LONGEST_ID = 18


class StreamQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a stream is to be written, where not as configured."""

    heartbeat: Annotated[
        Annotated[float, msgspec.Meta(ge=0, le=300)] | UnsetType,
        msgspec.Meta(
            description="seconds of silence after which a comment is sent, from 1 to 300, or 0 for none",
            extra_json_schema={"anyOf": [{"const": 0}, {"minimum": _LEAST_HEARTBEAT}]},
        ),
    ] = UNSET
    narration: Annotated[
        Flag | UnsetType, msgspec.Meta(description="true or false: tell the story of the task, for people")
    ] = UNSET
    batch: Annotated[
        Flag | UnsetType, msgspec.Meta(description="true or false: write tokens that are there together in one go")
    ] = UNSET

    def __post_init__(self) -> None:
        if self.heartbeat is not UNSET and 0 < self.heartbeat < _LEAST_HEARTBEAT:
            raise ValueError(f"heartbeat is {self.heartbeat:g}")


async def _submit(request: web.Request) -> web.Response:
    jobs = request.app[JOBS]
    try:
        pool_id, task = await _read_task(request)
    except Refusal as refusal:
        jobs.counts.refused(refusal.reason)
        raise
    accepted = jobs.admit(pool_id, task)
    return answer(202, accepted, {"Location": f"/v1/tasks/{accepted.task_id}"})


async def _read_task(request: web.Request) -> tuple[str, TaskRequest]:
    """A request's body as a pool and a task. Raises `Refusal`."""
    if request.content_type != JSON:
        raise invalid(f"the body is no {JSON}; send it with that Content-Type", status=415)
    try:
        pool_id, task = read_submission(await request.read(), request[CORRELATION])
    except AdapterError as error:
        raise Refusal(400, error) from None
    request[CORRELATION] = task.correlation_id or request[CORRELATION]  # the task's own is that of its records
    return pool_id, task


async def _view(request: web.Request) -> web.Response:
    jobs = request.app[JOBS]
    return answer(200, jobs.view(jobs.find(request.match_info["task_id"])))


async def _stream(request: web.Request) -> web.StreamResponse:
    jobs = request.app[JOBS]
    manner = manner_of(read_query(request, StreamQuery), request.app[CONFIG].stream)
    job = jobs.find(request.match_info["task_id"])
    jobs.take(job, _seen(request))
    try:
        return await write_stream(job, request, manner)
    finally:
        await jobs.leave(job)


def _seen(request: web.Request) -> int | None:
    """The id of the event that a client saw last, None where it does not say. Raises `Refusal`."""
    text = request.headers.get("Last-Event-ID", "")
    if not text:
        return None
    if not text.isascii() or not text.isdecimal() or len(text) > _LONGEST_ID:
        raise invalid("Last-Event-ID is no number; give the id of the event that you got last, or leave it out")
    return int(text)


async def write_stream(
    job: Job, request: web.Request, manner: Manner, headers: Mapping[str, str] | None = None
) -> web.StreamResponse:
    """A task's stream to its end, or to that of its client."""
    reader = Reader(job, request, manner, request.app[BATCHES])
    reader.response.headers.update(headers or {})
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


def manner_of(query: StreamQuery, settings: StreamSettings) -> Manner:
    """How a stream is to be written: as configured, where the query does not say otherwise."""
    return Manner(
        heartbeat=settings.heartbeat if query.heartbeat is UNSET else query.heartbeat,
        narration=settings.narration if query.narration is UNSET else query.narration == "true",
        narration_every=settings.narration_every,
        batch=settings.batch if query.batch is UNSET else query.batch == "true",
        patience=max(_LEAST_PATIENCE, settings.unread_expiry),
    )


_UNKNOWN = "No task has this id; it is forgotten, or was never sent here."

ROUTES = (
    Route(
        name="submitTask",
        method="POST",
        path="/v1/tasks",
        handler=_submit,
        summary="Send a task. It runs from now on, read or not.",
        body=Submission,
        example={"pool_id": "chat", "prompt": "Why is the sky blue?", "max_tokens": 16},
        replies={202: Reply("It was taken in.", (Accepted,), headers=("Location",))},
        refusals={
            400: "The task cannot be read.",
            404: "No pool has this id.",
            409: "A task with this id is known already.",
            429: "The queue of the pool is full, or too many tasks are known.",
            503: "The pool takes no tasks, or the process is stopping.",
        },
        follows=("viewTask", "streamTask", "cancelTask", "explainTask"),
    ),
    Route(
        name="viewTask",
        method="GET",
        path="/v1/tasks/{task_id}",
        handler=_view,
        summary="How a task stands with its pool and its readers.",
        replies={200: Reply("It is known.", (TaskView,))},
        refusals={404: _UNKNOWN},
    ),
    Route(
        name="streamTask",
        method="GET",
        path="/v1/tasks/{task_id}/stream",
        handler=_stream,
        summary="Read a task's events: started, tokens and metrics, then end or error. One reader at a time.",
        query=StreamQuery,
        takes=("Last-Event-ID",),
        replies={
            200: Reply(
                "Server-sent events, each with these fields; lines that begin with a colon are comments.",
                (Frame | GapFrame,),
                ("text/event-stream",),
                ("Cache-Control", "X-Accel-Buffering"),
            )
        },
        refusals={
            400: "The query or Last-Event-ID cannot be read, or names no event that came.",
            404: _UNKNOWN,
            409: "Another one reads it.",
            410: "It was read to its end, nobody read it for too long, or its reader left, which ended it.",
        },
    ),
    Route(
        name="cancelTask",
        method="POST",
        path="/v1/tasks/{task_id}/cancel",
        handler=_cancel,
        summary="End a task, wherever it is; not one token of it is handed out afterwards. Twice is once.",
        replies={204: Reply("It is over.")},
        refusals={404: _UNKNOWN},
    ),
)
