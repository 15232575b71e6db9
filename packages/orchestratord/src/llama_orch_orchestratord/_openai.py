"""OpenAI's API over HTTP: chats and prompts as tasks like all others, pools as models."""

import asyncio
import time
from collections.abc import Callable

from aiohttp import web
from llama_orch_adapter_api import AdapterError
from llama_orch_adapter_host import AdapterHost, PoolCapabilities
from msgspec import UNSET

from ._job import Job
from ._keys import CONFIG, CORRELATION, HOST, JOBS
from ._openai_answers import ChatAnswer, ChunkEvent, Model, Models, TextAnswer
from ._openai_errors import ErrorBody, Unfit, refused
from ._openai_forms import ChatChunks, OpenAIForm, TextChunks, WholeChat, WholeText
from ._openai_requests import Asked, read_chat, read_completion
from ._openai_wire import ChatRequest, CompletionRequest
from ._refusal import Refusal, invalid
from ._routes import JSON, Reply, Route, answer
from ._tasks import StreamQuery, manner_of, write_stream

PATHS = ("/v1/models", "/v1/chat/", "/v1/completions", "/v1/embeddings", "/v1/responses")
"""Where failures are told as OpenAI tells them, whether there is such a route or not."""

_REQUEST_ID = "X-Request-Id"


async def _models(request: web.Request) -> web.Response:
    pools = request.app[HOST].capabilities().pools
    return answer(200, Models(tuple(_model(pool_id, pool) for pool_id, pool in pools.items())))


async def _one_model(request: web.Request) -> web.Response:
    host, pool_id = request.app[HOST], request.match_info["model"]
    _check_model(host, pool_id)
    return answer(200, _model(pool_id, host.capabilities().pools[pool_id]))


def _model(pool_id: str, pool: PoolCapabilities) -> Model:
    replicas = tuple(pool.replicas.values())
    lengths = [each.capabilities.ctx_max for each in replicas if each.capabilities and each.capabilities.ctx_max]
    return Model(pool_id, ", ".join(sorted({each.engine for each in replicas})), min(lengths, default=UNSET))


def _check_model(host: AdapterHost, pool_id: str) -> None:
    pools = host.pools()
    if pool_id not in pools:
        named = ", ".join(sorted(pools)) or "none is served now"
        text = f"model {pool_id[:80]!a} is no pool here; give one of: {named}"
        raise Unfit(404, AdapterError(text, detail="not_found"), "model", "unknown_pool")


async def _chat(request: web.Request) -> web.StreamResponse:
    asked = await _read(request, read_chat)
    return await _serve(request, asked, (ChatChunks if asked.stream else WholeChat)(asked, int(time.time())))


async def _completion(request: web.Request) -> web.StreamResponse:
    asked = await _read(request, read_completion)
    return await _serve(request, asked, (TextChunks if asked.stream else WholeText)(asked, int(time.time())))


async def _read(request: web.Request, read: Callable[[bytes, str], Asked]) -> Asked:
    """What is asked, of a pool that there is. Raises `Refusal`."""
    try:
        if request.content_type != JSON:
            raise invalid(f"the body is no {JSON}; send it with that Content-Type", status=415)
        asked = read(await request.read(), request[CORRELATION])
        _check_model(request.app[HOST], asked.pool_id)
    except Refusal as refusal:
        request.app[JOBS].counts.refused(refusal.reason)
        raise
    return asked


async def _serve(request: web.Request, asked: Asked, form: OpenAIForm) -> web.StreamResponse:
    """The answer to a task that is taken in like any other, and ends with its client: nobody can come back to it."""
    jobs = request.app[JOBS]
    jobs.admit(asked.pool_id, asked.task, form)
    job = jobs.find(asked.task.task_id)
    jobs.take(job)
    try:
        return await (_stream(request, job, form) if asked.stream else _whole(job, form))
    finally:
        await jobs.leave(job, for_good=True)


async def _whole(job: Job, form: OpenAIForm) -> web.Response:
    await _said(job, None)
    if form.refusal is not None:
        return _named(refused(form.refusal), job)
    return _named(web.Response(body=job.outbox.take(1), content_type=JSON), job)


async def _stream(request: web.Request, job: Job, form: OpenAIForm) -> web.StreamResponse:
    """Chunks. A task that fails before its first one, and before a client would miss a sign of life, gets a status."""
    settings = request.app[CONFIG].stream
    manner = manner_of(_PLAIN, settings)
    await _said(job, manner.heartbeat or manner.patience)
    if form.refusal is not None and not form.begun:
        return _named(refused(form.refusal), job)
    return await write_stream(job, request, manner, {_REQUEST_ID: job.task_id})


async def _said(job: Job, patience: float | None) -> None:
    """Wait until there is something to write, or for so many seconds; from the turn on in which it was taken in."""
    said = asyncio.Event()
    job.outbox.on_change = said.set
    try:
        async with asyncio.timeout(patience):
            await said.wait()
    except TimeoutError:
        pass
    finally:
        job.outbox.on_change = None


def _named(response: web.Response, job: Job) -> web.Response:
    response.headers[_REQUEST_ID] = job.task_id
    return response


_PLAIN = StreamQuery(narration="false")

_AGAIN = ("X-Should-Retry",)
_WAIT = ("Retry-After", "X-Backoff-Ms", "Retry-After-Ms")

_FAILURES = {
    400: Reply("The request cannot be done as it stands; `param` names the field.", (ErrorBody,), headers=_AGAIN),
    401: Reply("The token is missing, or not known.", (ErrorBody,), headers=(*_AGAIN, "WWW-Authenticate")),
    403: Reply("The token's role may not do this, or a page of another site asks.", (ErrorBody,), headers=_AGAIN),
    404: Reply("No pool has the name of this model.", (ErrorBody,), headers=_AGAIN),
    408: Reply("The body did not come in time.", (ErrorBody,), headers=_AGAIN),
    413: Reply("The body is larger than server.max_body.", (ErrorBody,), headers=_AGAIN),
    415: Reply("The body is encoded, or of another type.", (ErrorBody,), headers=_AGAIN),
    429: Reply("The pool's queue is full, or too many tasks are known.", (ErrorBody,), headers=(*_AGAIN, *_WAIT)),
    499: Reply("Somebody cancelled the task.", (ErrorBody,), headers=_AGAIN),
    500: Reply("The engine, or this software, broke.", (ErrorBody,), headers=_AGAIN),
    502: Reply("The engine's answer cannot be used.", (ErrorBody,), headers=_AGAIN),
    503: Reply("The pool takes no tasks, or its engine was lost.", (ErrorBody,), headers=_AGAIN),
    504: Reply("The engine was silent for too long.", (ErrorBody,), headers=_AGAIN),
}
_LOOKED_AT = {status: _FAILURES[status] for status in (401, 403)}
_ANSWERED = "The answer, or a stream of its chunks."

ROUTES = (
    Route(
        name="listModels",
        method="GET",
        path="/v1/models",
        handler=_models,
        summary="The pools, as OpenAI lists models.",
        replies={200: Reply("All of them.", (Models,)), **_LOOKED_AT},
    ),
    Route(
        name="viewModel",
        method="GET",
        path="/v1/models/{model}",
        handler=_one_model,
        summary="A pool, as OpenAI tells of a model.",
        replies={200: Reply("It is served.", (Model,)), **_LOOKED_AT, 404: _FAILURES[404]},
    ),
    Route(
        name="createChatCompletion",
        method="POST",
        path="/v1/chat/completions",
        handler=_chat,
        summary="Answer a chat, whole or streamed, as OpenAI does.",
        body=ChatRequest,
        example={"model": "chat", "messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 16},
        replies={
            200: Reply(_ANSWERED, (ChatAnswer,), headers=(_REQUEST_ID,), event=ChunkEvent),
            **_FAILURES,
        },
    ),
    Route(
        name="createCompletion",
        method="POST",
        path="/v1/completions",
        handler=_completion,
        summary="Complete a prompt, whole or streamed, as OpenAI does.",
        body=CompletionRequest,
        example={"model": "chat", "prompt": "Why is the sky blue?", "max_tokens": 16},
        replies={200: Reply(_ANSWERED, (TextAnswer,), headers=(_REQUEST_ID,), event=ChunkEvent), **_FAILURES},
    ),
)
