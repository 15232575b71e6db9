"""vLLM's server as a `WorkerAdapter`: which paths, and in which order."""

from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime
from typing import Annotated

import msgspec
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    Secret,
    TaskRequest,
    WorkerError,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_http_util import Exchange, HttpAdapter, Identity, Response, Underway
from llama_orch_http_util.openai import CHUNK, Answer, Chunk, path_of

from ._wire import ENGINE, MODELS, ROUTES, VERSION, Load, Models, Routes, Version, request_body, worker_props

_NOT_FOR_US = frozenset({"auth", "bad_request", "not_found", "unsupported"})
"""What the refusals of a route mean that is not there, or that a proxy keeps to itself."""


class VllmConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A replica of this engine. `url` is the server's base URL.

    `slots` is how many tasks it runs at once (its `--max-num-seqs`): the engine does not tell.
    """

    url: str
    api_key: Secret | None = None
    slots: Annotated[int, msgspec.Meta(ge=1)] | None = None


class VllmAdapter(HttpAdapter):
    """One vLLM server. A prompt goes to `/v1/completions`, messages to the chat route."""

    engine = ENGINE

    def __init__(self, context: AdapterContext) -> None:
        config: VllmConfig = context.config
        super().__init__(context, config.url, config.api_key)
        self._slots = config.slots

    async def health(self) -> WorkerHealth:
        """Ready once it listens; busy while tasks wait in the engine. It answers 503 when its core is dead."""
        try:
            await self.http.request("GET", "/health")
        except WorkerError as error:
            return WorkerHealth.of(error)
        with suppress(WorkerError):  # without its load it is still healthy
            load = Load.read((await self.http.get("/metrics", once=True)).body)
            if load is not None and load.waiting:
                return WorkerHealth(live=True, ready=True, state="busy", detail=str(load))
        return WorkerHealth(live=True, ready=True, state="ready")

    async def props(self) -> WorkerProps:
        """From `/version` and `/v1/models`, and `/openapi.json` and `/metrics` where it serves them."""
        version, models = await self._names(once=False)
        self.knows(Identity(version.version, models.data[0].id))
        routes, load = await self._routes(), await self._load()
        return worker_props(version, models, datetime.now(UTC), routes=routes, slots=self._slots, load=load)

    async def identity(self, *, once: bool) -> Identity:
        """From `/version` and `/v1/models`."""
        version, models = await self._names(once=once)
        return Identity(version.version, models.data[0].id)

    def exchange(self, task: TaskRequest, model: str) -> Exchange[Chunk]:
        """OpenAI's dialect, with knobs of vLLM's own."""
        return Exchange(path_of(task), request_body(task, model), CHUNK, Answer(self.http.where))

    async def cancel(self, task_id: str) -> None:
        """Return when no more tasks are in the engine than others of ours decode; beside strangers, nobody can tell."""
        await self.until_let_go(task_id, self._gone)

    async def _gone(self, _: Underway, others: Collection[Underway]) -> bool:
        load = Load.read((await self.http.get("/metrics", once=True)).body)
        return load is not None and load.running + load.waiting <= sum(other.begun for other in others)

    async def _names(self, *, once: bool) -> tuple[Version, Models]:
        version = (await self.http.get("/version", once=once)).decode(VERSION, "/version")
        models = (await self.http.get("/v1/models", once=once)).decode(MODELS, "/v1/models")
        return version, models

    async def _routes(self) -> Routes | None:
        """None where it was started without its documentation: what it serves is not known."""
        answer = await self._where_served("/openapi.json")
        with suppress(AdapterError):  # the documentation of something before it
            return None if answer is None else answer.decode(ROUTES, "/openapi.json")
        return None

    async def _load(self) -> Load | None:
        """None where it was started without /metrics: nothing more is known."""
        answer = await self._where_served("/metrics")
        return None if answer is None else Load.read(answer.body)

    async def _where_served(self, path: str) -> Response | None:
        """The answer to a GET, None where it says that there is none for us; every other failure is raised."""
        try:
            return await self.http.get(path)
        except AdapterError as error:
            if error.detail in _NOT_FOR_US:
                return None
            raise
