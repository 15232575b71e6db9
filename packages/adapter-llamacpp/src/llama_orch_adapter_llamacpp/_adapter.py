"""llama.cpp's server as a `WorkerAdapter`: which paths, and in which order."""

import random
from collections.abc import Collection
from datetime import UTC, datetime
from typing import Any

import msgspec
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    Secret,
    TaskRequest,
    WorkerError,
    WorkerHealth,
    WorkerProps,
    Workload,
)
from llama_orch_http_util import Exchange, HttpAdapter, Identity, Underway, mended
from llama_orch_http_util.openai import CHAT, CHUNK, EMBEDDINGS, RERANK, Answer

from ._digest import Digests
from ._wire import (
    ENGINE,
    EVENT,
    PROPS,
    RANDOM_SEED,
    SLOTS,
    Load,
    NativeAnswer,
    Props,
    Slot,
    chat_body,
    completion_body,
    let_go,
    worker_props,
)

_OFF = ("unsupported", "not_found")
"""What a server that was started without a route says of it."""

_OPTIONAL: tuple[tuple[Workload, str], ...] = (("embedding", EMBEDDINGS), ("rerank", RERANK))


class LlamaCppConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A replica of this engine. `url` is the server's base URL."""

    url: str
    api_key: Secret | None = None


class LlamaCppAdapter(HttpAdapter):
    """One llama.cpp server. A prompt goes to `/completion`, messages to the chat route.

    Completions are always streamed: it finishes a request that is not, even when nobody listens.
    """

    engine = ENGINE

    def __init__(self, context: AdapterContext) -> None:
        config: LlamaCppConfig = context.config
        # it closes after every stream, although it says Keep-Alive
        super().__init__(context, config.url, config.api_key, reuse_after_stream=False)
        self._digests = Digests(config.url)
        self._seed: int | None = None  # that of tasks that bring none, where the engine was started with one

    async def health(self) -> WorkerHealth:
        """Ready once the model is loaded; busy while every slot works (tasks then queue in the engine)."""
        try:
            await self.http.request("GET", "/health")
            return await self._ready_or_busy()
        except WorkerError as error:
            return WorkerHealth.of(error)

    async def props(self) -> WorkerProps:
        """From `/props`, and `/slots` or `/metrics` where it was started with them; the digest is the file's."""
        props = await self._props(once=False)
        self.knows(Identity(props.build_info, props.model_id))
        return worker_props(
            props,
            datetime.now(UTC),
            slots=await self._slots() if props.endpoint_slots else None,
            load=await self._load() if props.endpoint_metrics and not props.endpoint_slots else None,
            workloads=("completion", *[workload for workload, path in _OPTIONAL if await self._serves(path)]),
            digest=await self._digests.of(props.model_path),
        )

    async def identity(self, *, once: bool) -> Identity:
        """From `/props`."""
        props = await self._props(once=once)
        return Identity(props.build_info, props.model_id)

    def model_of(self, task: TaskRequest, known: Identity) -> str:  # noqa: ARG002 - it serves one, whatever is named
        """The engine's own."""
        return known.model

    def exchange(self, task: TaskRequest, model: str) -> Exchange[Any]:  # noqa: ARG002 - as above
        """A task without a seed is given one, so that its `Started` tells how to repeat it."""
        seed = random.randrange(RANDOM_SEED) if self._seed is None else self._seed
        if task.messages:
            return Exchange(CHAT, chat_body(task, seed), CHUNK, Answer(self.http.where))
        return Exchange("/completion", completion_body(task, seed), EVENT, NativeAnswer(self.http.where))

    async def cancel(self, task_id: str) -> None:
        """Return when no slot works on the task; during its prefill the engine goes on, which may take too long."""
        await self.until_let_go(task_id, self._gone)

    def meant(self, task: TaskRequest, error: WorkerError) -> WorkerError:
        """An input that is too long for it is no fault of the engine's, although it answers 500."""
        asked = task.workload != "completion"
        if asked and error.code == "INTERNAL" and "is too large to process" in error.message:
            return mended(error, "context_length", "shorten the input, or give the engine a larger ubatch")
        return error

    async def aclose(self) -> None:
        """Let go of the shared session, and of a model's file that is still being read."""
        await self._digests.aclose()
        await super().aclose()

    async def _gone(self, task: Underway, others: Collection[Underway]) -> bool:
        alike = sum(other.seed == task.seed for other in others)
        return let_go(await self._slots(once=True), task.seed, alike=alike, begun=task.begun)

    async def _props(self, *, once: bool) -> Props:
        props = (await self.http.get("/props", once=once)).decode(PROPS, "/props")
        self._seed = props.seed
        return props

    async def _slots(self, *, once: bool = False) -> list[Slot]:
        return (await self.http.get("/slots", once=once)).decode(SLOTS, "/slots")

    async def _load(self, *, once: bool = False) -> Load | None:
        return Load.read((await self.http.get("/metrics", once=once)).body)

    async def _serves(self, path: str) -> bool:
        """Asked with an empty body, which it refuses in other words where it serves the route."""
        try:
            await self.http.request("POST", path, {})
        except AdapterError as error:
            return error.detail == "bad_request"
        return True

    async def _ready_or_busy(self) -> WorkerHealth:
        try:
            await self.http.request("GET", "/slots?fail_on_no_slot=1")
        except WorkerError as error:
            if error.detail == "overloaded":
                return WorkerHealth(live=True, ready=True, state="busy", detail="every slot is working")
            if error.detail not in _OFF:
                raise
            return await self._ready_or_waited_for()
        return WorkerHealth(live=True, ready=True, state="ready")

    async def _ready_or_waited_for(self) -> WorkerHealth:
        """From `/metrics`, where there is no `/slots`."""
        try:
            load = await self._load(once=True)
        except WorkerError as error:
            if error.detail not in _OFF:
                raise
            load = None
        if load is not None and load.waiting:
            return WorkerHealth(live=True, ready=True, state="busy", detail=str(load))
        return WorkerHealth(live=True, ready=True, state="ready")
