"""Any OpenAI-compatible server as a `WorkerAdapter`: which paths, and in which order."""

from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    Capabilities,
    PoolUnavailable,
    Secret,
    TaskRequest,
    WorkerError,
    WorkerHealth,
    WorkerProps,
    Workload,
)
from llama_orch_http_util import Exchange, HttpAdapter, Identity, mended
from llama_orch_http_util.openai import CHUNK, Answer, Chunk, path_of

from ._wire import ENGINE, MODELS, VERSION, LengthKey, Models, base_of, request_body

Feature = Literal["chat", "deterministic", "json_schema", "logprobs", "reasoning", "seed", "tools", "vision"]


class OpenAIConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A replica of this engine. `url` is the server's base URL, with or without its `/v1`.

    `model` serves the tasks that name none; it may be left out where the server has only one. What such a server does
    not tell is told here: its `features` and `workloads`, and `slots`, how many tasks it runs at once. `version_path`
    is where it gives its own version as JSON, if it does. `max_tokens_key` is the word that it has for it in chats.
    `reuse_after_stream` false gives each stream a connection of its own: for a server that closes them afterwards.
    """

    url: str
    api_key: Secret | None = None
    model: str | None = None
    version_path: Annotated[str, msgspec.Meta(pattern="^/")] | None = None
    slots: Annotated[int, msgspec.Meta(ge=1)] | None = None
    workloads: Annotated[tuple[Workload, ...], msgspec.Meta(min_length=1)] = ("completion",)
    features: tuple[Feature, ...] = ("chat",)
    max_tokens_key: LengthKey = "max_tokens"
    reuse_after_stream: bool = True


class OpenAIAdapter(HttpAdapter):
    """One such server. What it has in common with the others is all that is asked of it: its `/v1` routes."""

    engine = ENGINE

    def __init__(self, context: AdapterContext) -> None:
        self._config: OpenAIConfig = context.config
        url, key, reuse = base_of(self._config.url), self._config.api_key, self._config.reuse_after_stream
        super().__init__(context, url, key, reuse_after_stream=reuse)

    async def health(self) -> WorkerHealth:
        """Ready once it lists a model; it does not tell how busy it is."""
        try:
            await self._models(once=True)
        except WorkerError as error:
            return WorkerHealth.of(error)
        return WorkerHealth(live=True, ready=True, state="ready")

    async def props(self) -> WorkerProps:
        """From `/v1/models` and the config. `model_id` is empty where it has several models and none is configured."""
        models = await self._models(once=False)
        known, config = await self._known_by(models, once=False), self._config
        self.knows(known)
        capabilities = Capabilities(
            engine=ENGINE,
            engine_version=known.version,
            model_id=known.model,
            observed_at=datetime.now(UTC),
            ctx_max=models.context_of(known.model),
            slots=config.slots,
            workloads=config.workloads,
            features=config.features,
        )
        return WorkerProps(config.slots, None, capabilities)

    async def identity(self, *, once: bool) -> Identity:
        """From `/v1/models`, and the path of its version where one is configured."""
        return await self._known_by(await self._models(once=once), once=once)

    def model_of(self, task: TaskRequest, known: Identity) -> str:
        """The task's, the replica's, the only one of the server. Raises `AdapterError` where that leaves it open."""
        if model := task.model_ref or known.model:
            return model
        raise AdapterError(
            f"the engine has several models, and which is meant nobody says · {self.http.where} · "
            "set model of this replica, or model_ref of the task, to one of GET /v1/models",
            detail="bad_request",
        )

    def exchange(self, task: TaskRequest, model: str) -> Exchange[Chunk]:
        """OpenAI's dialect."""
        body = request_body(task, model, self._config.max_tokens_key)
        return Exchange(path_of(task), body, CHUNK, Answer(self.http.where))

    async def _known_by(self, models: Models, *, once: bool) -> Identity:
        version, path = "unknown", self._config.version_path
        if path is not None:
            version = (await self.http.get(path, once=once)).decode(VERSION, path).version
        return Identity(version, self._config.model or models.only)

    async def _models(self, *, once: bool) -> Models:
        try:
            models = (await self.http.get("/v1/models", once=once)).decode(MODELS, "/v1/models")
        except AdapterError as error:
            if error.detail != "not_found":
                raise
            mend = "is the path of url right? It is to be what stands before /v1/models"
            raise mended(error, "not_found", mend) from None
        if not models.data:
            raise PoolUnavailable(f"the engine has no model · {self.http.where} · load one", detail="loading")
        return models
