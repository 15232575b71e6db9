"""llama.cpp's server as a `WorkerAdapter`: which paths, in which order, and the reading of its streams."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Protocol, TypeVar

import msgspec
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    Capabilities,
    End,
    Secret,
    Started,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerError,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_http_util import HttpClient, HttpConfig
from llama_orch_http_util.openai import CHAT, CHUNK, Answer, headers_of

from ._wire import ENGINE, EVENT, PROPS, SLOTS, NativeAnswer, chat_body, completion_body, worker_props

_NO_SLOTS = ("unsupported", "not_found")
"""What a server that was started without /slots says of it."""

T_contra = TypeVar("T_contra", contravariant=True)


class LlamaCppConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A replica of this engine. `url` is the server's base URL."""

    url: str
    api_key: Secret | None = None


class _Reader(Protocol[T_contra]):
    """Makes tokens of events; both of the engine's dialects have one."""

    @property
    def finished(self) -> bool: ...
    def take(self, event: T_contra) -> list[Token]: ...
    def end(self) -> End: ...


class LlamaCppAdapter(WorkerAdapter):
    """One llama.cpp server. Tasks are always streamed: it finishes a request that is not, even when nobody listens."""

    def __init__(self, context: AdapterContext) -> None:
        config: LlamaCppConfig = context.config
        self._replica = context.replica
        self._http = HttpClient(
            config.url,
            HttpConfig.of(context.http, context.timeouts),
            api_key=config.api_key,
            reuse_after_stream=False,  # it closes after every stream, although it says Keep-Alive
            narrate=context.narrate,
        )
        self._known: Capabilities | None = None

    async def health(self) -> WorkerHealth:
        """Ready once the model is loaded; busy while every slot works (tasks then queue in the engine)."""
        try:
            await self._http.request("GET", "/health")
            return await self._ready_or_busy()
        except WorkerError as error:
            return WorkerHealth.of(error)

    async def props(self) -> WorkerProps:
        """From `/props`, and `/slots` where the server was started with it."""
        return await self._look()

    async def engine_version(self) -> str:
        """`build_info`, asked of the engine once."""
        known = self._known or (await self._look()).capabilities
        return known.engine_version

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        """A prompt goes to `/completion`, messages to the chat route."""
        if task.workload != "completion":
            raise AdapterError(
                f"workload {task.workload!r} is not served · {self._http.where} · send it to a pool of another engine",
                detail="unsupported",
            )
        if task.messages:
            return self._stream(task, CHAT, chat_body(task), CHUNK, Answer(self._http.where))
        return self._stream(task, "/completion", completion_body(task), EVENT, NativeAnswer(self._http.where))

    async def aclose(self) -> None:
        """Let go of the shared session."""
        await self._http.aclose()

    async def _stream(
        self,
        task: TaskRequest,
        path: str,
        body: dict[str, object],
        decoder: msgspec.json.Decoder[T_contra],
        answer: _Reader[T_contra],
    ) -> AsyncIterator[TokenEvent]:
        known = self._known or (await self._look(once=True)).capabilities
        try:
            async with self._http.stream(path, body, decoder, headers_of(task)) as events:
                yield Started(ENGINE, known.engine_version, known.model_id, self._replica, seed=task.seed)
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
        props = (await self._http.get("/props", once=once)).decode(PROPS, "/props")
        slots = (await self._http.get("/slots", once=once)).decode(SLOTS, "/slots") if props.endpoint_slots else None
        seen = worker_props(props, slots, datetime.now(UTC))
        self._known = seen.capabilities
        return seen

    async def _ready_or_busy(self) -> WorkerHealth:
        try:
            await self._http.request("GET", "/slots?fail_on_no_slot=1")
        except WorkerError as error:
            if error.detail == "overloaded":
                return WorkerHealth(live=True, ready=True, state="busy", detail="every slot is working")
            if error.detail not in _NO_SLOTS:
                raise
        return WorkerHealth(live=True, ready=True, state="ready")
