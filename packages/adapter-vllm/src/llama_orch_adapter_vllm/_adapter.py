"""vLLM's server as a `WorkerAdapter`: which paths, in which order, and the reading of its streams."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    Capabilities,
    Secret,
    Started,
    TaskRequest,
    TokenEvent,
    WorkerAdapter,
    WorkerError,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_http_util import HttpClient, HttpConfig
from llama_orch_http_util.openai import CHUNK, Answer, headers_of, path_of

from ._wire import ENGINE, MODELS, VERSION, Load, request_body, worker_props


class VllmConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A replica of this engine. `url` is the server's base URL.

    `slots` is how many tasks it runs at once (its `--max-num-seqs`): the engine does not tell.
    """

    url: str
    api_key: Secret | None = None
    slots: Annotated[int, msgspec.Meta(ge=1)] | None = None


class VllmAdapter(WorkerAdapter):
    """One vLLM server."""

    def __init__(self, context: AdapterContext) -> None:
        config: VllmConfig = context.config
        self._replica = context.replica
        self._slots = config.slots
        self._http = HttpClient(
            config.url,
            HttpConfig.of(context.http, context.timeouts),
            api_key=config.api_key,
            narrate=context.narrate,
        )
        self._known: Capabilities | None = None

    async def health(self) -> WorkerHealth:
        """Ready once it listens; busy while tasks wait in the engine. It answers 503 when its core is dead."""
        try:
            await self._http.request("GET", "/health")
        except WorkerError as error:
            return WorkerHealth.of(error)
        load = await self._load(once=True)
        if load is not None and load.waiting:
            return WorkerHealth(live=True, ready=True, state="busy", detail=str(load))
        return WorkerHealth(live=True, ready=True, state="ready")

    async def props(self) -> WorkerProps:
        """From `/version` and `/v1/models`, and `/metrics` where `slots` is configured."""
        return await self._look()

    async def engine_version(self) -> str:
        """`/version`, asked of the engine once."""
        known = self._known or (await self._look()).capabilities
        return known.engine_version

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        """A prompt goes to `/v1/completions`, messages to the chat route."""
        if task.workload != "completion":
            raise AdapterError(
                f"workload {task.workload!r} is not served · {self._http.where} · send it to a pool of another engine",
                detail="unsupported",
            )
        return self._stream(task)

    async def aclose(self) -> None:
        """Let go of the shared session."""
        await self._http.aclose()

    async def _stream(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        known = self._known or (await self._look(once=True)).capabilities
        model = task.model_ref or known.model_id
        answer = Answer(self._http.where)
        try:
            body = request_body(task, model)
            async with self._http.stream(path_of(task), body, CHUNK, headers_of(task)) as events:
                yield Started(ENGINE, known.engine_version, model, self._replica, seed=task.seed)
                async for batch in events:
                    for event in batch:
                        for token in answer.take(event):
                            yield token
                    if answer.finished:
                        events.complete()
                if not answer.finished:
                    raise events.ended_early()
        except WorkerError as error:
            if error.detail in ("unreachable", "not_found") or error.code == "WORKER_RESET":
                self._known = None  # another engine may stand behind the url by now
            raise
        yield answer.end()

    async def _look(self, *, once: bool = False) -> WorkerProps:
        """The engine's props, asked for now; what they tell of it is kept. `once`: on a task's way."""
        version = (await self._http.get("/version", once=once)).decode(VERSION, "/version")
        models = (await self._http.get("/v1/models", once=once)).decode(MODELS, "/v1/models")
        load = None if self._slots is None else await self._load(once=once)
        seen = worker_props(version, models, self._slots, load, datetime.now(UTC))
        self._known = seen.capabilities
        return seen

    async def _load(self, *, once: bool) -> Load | None:
        try:
            return Load.read((await self._http.get("/metrics", once=once)).body)
        except WorkerError:  # started without /metrics: nothing more is known
            return None
