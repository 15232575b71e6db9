"""A good adapter with hooks for doing one thing wrong."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from typing import Any, ClassVar

import msgspec
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterContext,
    AdapterSpec,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerError,
    WorkerProps,
)
from llama_orch_adapter_testkit import VLLM
from llama_orch_adapter_vllm import VllmAdapter
from llama_orch_adapter_vllm._adapter import VllmConfig

replace = msgspec.structs.replace
DIALECT = VLLM
IMPATIENT = {"retry": {"base": 1e-9, "cap": 1e-9, "patience": 0.1}}

BAD: dict[str, tuple[type["Twisted"], frozenset[str]]] = {}
"""By the name of the adapter: the adapter, and the checks that it is to fail."""


class Twisted(VllmAdapter):
    """vLLM's adapter; each hook is where another one goes wrong."""

    features: ClassVar[tuple[str, ...]] = ()
    workloads: ClassVar[tuple[Any, ...]] = ()

    def __init__(self, context: AdapterContext) -> None:
        super().__init__(replace(context, http=IMPATIENT))
        self.context = context
        self.http = _Bent(self.http, self)  # type: ignore[assignment]  # as far as it is used

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        return self.stream(task) if task.workload == "completion" else super().submit(task)

    async def stream(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        seen: list[TokenEvent] = []
        try:
            async with aclosing(self.good(self.asked(task))) as inner:
                async for event in inner:
                    seen.append(event)
                    for each in self.told(event):
                        yield each
        except WorkerError as error:
            instead = self.failed(error, seen)
            if isinstance(instead, WorkerError):
                raise instead from None
            for each in instead:
                yield each

    def good(self, task: TaskRequest) -> Any:
        return VllmAdapter.submit(self, task)

    async def props(self) -> WorkerProps:
        seen = await super().props()
        said = seen.capabilities
        more = replace(said, features=said.features + self.features, workloads=said.workloads + self.workloads)
        return replace(seen, capabilities=more)

    def asked(self, task: TaskRequest) -> TaskRequest:
        return task

    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (event,)

    def failed(self, error: WorkerError, seen: list[TokenEvent]) -> WorkerError | Iterable[TokenEvent]:
        return error

    def read(self, chunk: bytes) -> bytes:
        return chunk


class _Bent:
    """The client, what it reads bent."""

    def __init__(self, http: Any, adapter: Twisted) -> None:
        self._http = http
        self._adapter = adapter

    def __getattr__(self, name: str) -> Any:
        return getattr(self._http, name)

    @asynccontextmanager
    async def stream(self, *args: Any) -> AsyncIterator[Any]:
        async with self._http.stream(*args) as events:
            framing = events._framing
            events._framing = _BentFraming(framing, self._adapter.read)
            yield events


class _BentFraming:
    def __init__(self, framing: Any, read: Callable[[bytes], bytes]) -> None:
        self._framing = framing
        self._read = read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._framing, name)

    def feed_data(self, chunk: bytes) -> Any:
        return self._framing.feed_data(self._read(bytes(chunk)))


def breaks(*checks: str) -> Callable[[type[Twisted]], type[Twisted]]:
    """Note an adapter, and the checks that it fails."""

    def note(kind: type[Twisted]) -> type[Twisted]:
        BAD[kind.__name__] = (kind, frozenset(checks))
        return kind

    return note


def spec_of(factory: Callable[[AdapterContext], Any], config: type[msgspec.Struct] = VllmConfig) -> AdapterSpec:
    """The spec of such an adapter."""
    return AdapterSpec("vllm", API_VERSION, config, factory)


def tokens_of(events: Iterable[TokenEvent]) -> list[Token]:
    """The tokens among them."""
    return [event for event in events if isinstance(event, Token)]
