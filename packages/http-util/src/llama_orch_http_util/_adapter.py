"""An adapter of an engine that serves HTTP: all of it that does not depend on which engine it is."""

import asyncio
from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from itertools import chain, repeat
from typing import Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

import msgspec
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    DecodeTimeout,
    End,
    Secret,
    Started,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerError,
)

from ._client import HttpClient
from ._config import HttpConfig
from ._openai_outputs import end_of
from ._openai_requests import body_of, headers_of, path_of

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)

LET_GO = 1.9
"""Seconds in which a cancelled task must be gone from its engine: the host waits 2 s to be told."""

_LOOKS = (0.005, 0.01, 0.02, 0.04, 0.08)
"""Seconds between two looks at an engine that was told to stop, the last one again and again."""

_REMEMBERED = 1024
"""Tasks that ended early of which a cancel is still expected."""

_ABSENT_ROUTES = ("404: Not Found", "404: File Not Found")
"""What web frameworks say of a route that they do not have (FastAPI, llama.cpp); of a model there are other words."""


class Identity(NamedTuple):
    """What an engine is, for as long as it is the same one."""

    version: str
    model: str


class Reader(Protocol[T_contra]):
    """Makes tokens of a stream's events and, once it is `finished`, the end."""

    @property
    def finished(self) -> bool: ...
    def take(self, event: T_contra) -> list[Token]: ...
    def end(self) -> End: ...


class Exchange(NamedTuple, Generic[T]):
    """How a completion task is sent, and how its answer is read."""

    path: str
    body: Mapping[str, object]
    decoder: msgspec.json.Decoder[T]
    answer: Reader[T]


class Underway(msgspec.Struct):
    """A task that was sent. `head`: the engine took it. `begun`: an event came, so that it is no longer queued."""

    seed: int | None
    head: bool = False
    begun: bool = False


class HttpAdapter(WorkerAdapter):
    """A `WorkerAdapter` but for what is the engine's own: `health`, `props`, `identity` and `exchange`.

    Completions are streamed; embeddings and scores are asked for in OpenAI's dialect. What is known of the engine is
    forgotten when a task fails in a way that leaves open whether another one stands behind the url by now.
    """

    engine: ClassVar[str]

    def __init__(
        self, context: AdapterContext, url: str, api_key: Secret | None = None, *, reuse_after_stream: bool = True
    ) -> None:
        self.http = HttpClient(
            url,
            HttpConfig.of(context.http, context.timeouts),
            api_key=api_key,
            reuse_after_stream=reuse_after_stream,
            narrate=context.narrate,
            count=context.count,
        )
        self._replica = context.replica
        self._known: Identity | None = None
        self._underway: dict[str, Underway] = {}
        self._left: dict[str, Underway] = {}  # ended before they were whole, the oldest first

    # --- the engine's own

    @abstractmethod
    async def identity(self, *, once: bool) -> Identity:
        """Who the engine is, asked for now. `once`: on a task's way, where nothing is tried again."""

    @abstractmethod
    def exchange(self, task: TaskRequest, model: str) -> Exchange[Any]:
        """How to send a completion task; `model` is the one that `model_of` names."""

    def model_of(self, task: TaskRequest, known: Identity) -> str:
        """Which model serves the task."""
        return task.model_ref or known.model

    def seed_of(self, body: Mapping[str, object]) -> object:
        """The seed in a body; for an engine that has another name or place for it."""
        return body.get("seed")

    def meant(self, task: TaskRequest, error: WorkerError) -> WorkerError:  # noqa: ARG002  # who overrides it may ask
        """What a task's failure means; for an engine whose words say more than its status, see `mended`."""
        return error

    # --- the boundary

    async def engine_version(self) -> str:
        """Asked of the engine once."""
        known = self._known or await self._meet(once=False)
        return known.version

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        """A stream of tokens, or the one answer of an embedding or rerank task."""
        return self._streamed(task) if task.workload == "completion" else self._asked(task)

    async def aclose(self) -> None:
        """Let go of the shared session."""
        await self.http.aclose()

    # --- what engines' adapters call

    def knows(self, identity: Identity) -> None:
        """Keep what was just seen of the engine."""
        self._known = identity

    async def until_let_go(
        self, task_id: str, gone: Callable[[Underway, Collection[Underway]], Awaitable[bool]]
    ) -> None:
        """Return when the engine no longer works on a task whose stream is closed; for `cancel`.

        `gone` looks at the engine and is told of the task and of the others underway. Raises a `WorkerError` where
        nobody can tell, or the engine works on for `LET_GO` seconds.
        """
        task = self._underway.get(task_id) or self._left.pop(task_id, None)
        if task is None:
            return  # it was never sent, or is whole
        with suppress(TimeoutError):
            async with asyncio.timeout(LET_GO):
                for pause in chain(_LOOKS, repeat(_LOOKS[-1])) if task.head else ():
                    if await gone(task, [other for other in self._underway.values() if other is not task]):
                        return
                    await asyncio.sleep(pause)
        raise DecodeTimeout(
            f"nobody saw the engine let go of the task within {LET_GO:g} s · {self.http.where} · look at its load",
            detail="idle",
        )

    # --- a task

    async def _streamed(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        known = self._known or await self._meet(once=True)
        model = self.model_of(task, known)
        path, body, decoder, answer = self.exchange(task, model)
        seed = _known_seed(self.seed_of(body))
        mine = self._underway[task.task_id] = Underway(seed)
        try:
            async with self.http.stream(path, body, decoder, headers_of(task)) as events:
                mine.head = True
                yield self._started(task, known.version, model, seed)
                async for batch in events:
                    mine.begun = True
                    for event in batch:
                        for token in answer.take(event):
                            yield token
                    if answer.finished:
                        events.complete()
                if not answer.finished:
                    raise events.ended_early()
        except WorkerError as error:
            self._doubt(error)
            meant = self.meant(task, error)
            if meant is error:
                raise
            raise meant from None
        finally:
            self._over(task.task_id, mine, whole=answer.finished)
        yield _signed(answer.end(), task, seed)

    async def _asked(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        known = self._known or await self._meet(once=True)
        model = self.model_of(task, known)
        body = body_of(task, model) | task.extra
        seed = _known_seed(self.seed_of(body))
        mine = self._underway[task.task_id] = Underway(seed)
        end: End | None = None
        try:
            end = end_of(task, await self.http.request("POST", path_of(task), body, headers=headers_of(task)))
        except WorkerError as error:
            self._doubt(error)
            meant = _unserved(self.meant(task, error))
            if meant is error:
                raise
            raise meant from None
        finally:
            self._over(task.task_id, mine, whole=end is not None)
        yield self._started(task, known.version, model, seed)
        yield _signed(end, task, seed)

    def _started(self, task: TaskRequest, version: str, model: str, seed: int | None) -> Started:
        profile = task.sampler_profile_version
        return Started(self.engine, version, model, self._replica, seed=seed, sampler_profile_version=profile)

    async def _meet(self, *, once: bool) -> Identity:
        self._known = known = await self.identity(once=once)
        return known

    def _doubt(self, error: WorkerError) -> None:
        if error.detail in ("unreachable", "not_found") or error.code == "WORKER_RESET":
            self._known = None  # another engine may stand behind the url by now

    def _over(self, task_id: str, task: Underway, *, whole: bool) -> None:
        if self._underway.get(task_id) is task:  # else it was sent again meanwhile
            del self._underway[task_id]
        if whole:
            return
        self._left[task_id] = task
        if len(self._left) > _REMEMBERED:
            del self._left[next(iter(self._left))]


def mended(error: WorkerError, detail: str, mend: str) -> AdapterError:
    """The refusal as an `AdapterError` of that detail, with another mend; its phase and attempts are kept."""
    message = f"{error.message.rpartition(' · ')[0]} · {mend}"
    return AdapterError(message, detail=detail, phase=error.phase, attempts=error.attempts)


def _unserved(error: WorkerError) -> WorkerError:
    """A refusal of an embedding or rerank task: an absent route says that the engine does not serve it."""
    if error.detail != "not_found" or not any(words in error.message for words in _ABSENT_ROUTES):
        return error
    return mended(error, "unsupported", "start the engine for this workload, or use a pool that serves it")


def _known_seed(seed: object) -> int | None:
    """The seed that was sent; None where it was none that chooses for itself."""
    return seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**32 - 1 else None


def _signed(end: End, task: TaskRequest, seed: int | None) -> End:
    return msgspec.structs.replace(end, seed=seed, sampler_profile_version=task.sampler_profile_version)
