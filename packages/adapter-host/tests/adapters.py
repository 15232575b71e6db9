"""Adapters without an engine, each with one habit, and a way to run a test on a virtual clock."""

import asyncio
import functools
import gc
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import pytest
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterSpec,
    Capabilities,
    End,
    Secret,
    Started,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerError,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_adapter_host import AdapterHost, CancelReceipt, Plugins, PoolPolicy
from llama_orch_adapter_testkit import VirtualClockLoop, run_virtual

T = TypeVar("T")

STARTED = Started("words", "1", "model", "pool/0", tokens_in=3)
PROPS = WorkerProps(4, 3, Capabilities("words", "1", "model", datetime(2026, 1, 1, tzinfo=UTC)))

READY = WorkerHealth(live=True, ready=True, state="ready")
LOADING = WorkerHealth(live=True, ready=False, state="loading", detail="12 of 32 layers")
DOWN = WorkerHealth(live=False, ready=False, state="down", detail="connection refused")


class Config(msgspec.Struct, forbid_unknown_fields=True):
    """An adapter's own table."""

    url: str = "http://127.0.0.1"
    api_key: Secret | None = None
    slots: int = 1


def end(tokens: int) -> End:
    return End(3, tokens, "stop")


def task(prompt: str = "say something", **facts: Any) -> TaskRequest:
    return TaskRequest(prompt=prompt, **facts)


class Words(WorkerAdapter):
    """An async generator of `words` tokens with `pause` seconds before each (None: it never waits).

    `begun` and `freed` count streams; `closed` counts how often the adapter was.
    """

    def __init__(self, words: int = 3, pause: float | None = 1.0) -> None:
        self.words = words
        self.pause = pause
        self.begun = 0
        self.freed = 0
        self.closed = 0

    async def health(self) -> WorkerHealth:
        return READY

    async def props(self) -> WorkerProps:
        return PROPS

    async def engine_version(self) -> str:
        return "1"

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.begun += 1
        try:
            yield STARTED
            for i in range(self.words):
                await self.wait()
                yield Token(f"{i} ", i)
            yield end(self.words)
        finally:
            await self.clean_up()
            self.freed += 1

    async def wait(self) -> None:
        if self.pause is not None:
            await asyncio.sleep(self.pause)

    async def clean_up(self) -> None:
        pass

    async def aclose(self) -> None:
        self.closed += 1


class Scripted(Words):
    """Yields what the script holds, in order: a number is a pause, an exception is raised, a callable is awaited."""

    def __init__(
        self, *script: TokenEvent | float | BaseException | Callable[[TaskRequest], Awaitable[object]]
    ) -> None:
        super().__init__()
        self.script = script

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.begun += 1
        try:
            for step in self.script:
                if isinstance(step, float | int):
                    await asyncio.sleep(step)
                elif isinstance(step, BaseException):
                    raise step
                elif callable(step):
                    await step(task)
                else:
                    yield step
        finally:
            await self.clean_up()
            self.freed += 1


class Iterating(Words):
    """Gives an iterator of a class of its own, which counts how often it is closed."""

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.begun += 1
        return _Iterator(self)


class _Iterator:
    def __init__(self, adapter: Words) -> None:
        self.adapter = adapter
        self.left: list[TokenEvent] = [STARTED, *(Token("w", i) for i in range(adapter.words)), end(adapter.words)]

    def __aiter__(self) -> "_Iterator":
        return self

    async def __anext__(self) -> TokenEvent:
        await self.adapter.wait()
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)

    async def aclose(self) -> None:
        await self.adapter.clean_up()
        self.adapter.freed += 1


class Bare(Words):
    """Gives an iterator that cannot be closed."""

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        inner = _Iterator(self)

        class Unclosable:
            def __aiter__(self) -> "Unclosable":
                return self

            async def __anext__(self) -> TokenEvent:
                return await inner.__anext__()

        return Unclosable()


class Swallowing(Words):
    """Takes no notice of being cancelled: it goes on waiting, and then goes on speaking."""

    async def wait(self) -> None:
        assert self.pause is not None
        until = asyncio.get_running_loop().time() + self.pause
        while (left := until - asyncio.get_running_loop().time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                return


class Clinging(Words):
    """Hangs in its clean-up; the first `deaf` cancellations do not move it."""

    def __init__(self, words: int = 3, pause: float | None = 1.0, deaf: int = 0) -> None:
        super().__init__(words, pause)
        self.deaf = deaf

    async def clean_up(self) -> None:
        for _ in range(self.deaf):
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue
        await asyncio.Event().wait()


class Tidy(Words):
    """Takes `seconds` to clean up, and counts how often it could."""

    def __init__(self, words: int = 3, pause: float | None = 1.0, seconds: float = 0.5) -> None:
        super().__init__(words, pause)
        self.seconds = seconds
        self.tidied = 0

    async def clean_up(self) -> None:
        await asyncio.sleep(self.seconds)
        self.tidied += 1


class Fussy(Words):
    """Raises what is no WorkerError while it cleans up."""

    async def clean_up(self) -> None:
        raise OSError("the door is stuck")


class Mistaken(Words):
    """`submit` written as a coroutine function, by mistake."""

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:  # type: ignore[override]
        raise NotImplementedError


class Engine(Words):
    """Says of its health what it is told to, and keeps the tasks it was sent and how many were open when it closed."""

    def __init__(self, words: int = 3, pause: float | None = 1.0) -> None:
        super().__init__(words, pause)
        self.told: WorkerHealth | WorkerError = READY
        self.props_told: WorkerProps | WorkerError = PROPS
        self.asked = 0  # for its health
        self.tasks: list[str] = []
        self.open_at_close: list[int] = []

    async def health(self) -> WorkerHealth:
        self.asked += 1
        return said(self.told)

    async def props(self) -> WorkerProps:
        return said(self.props_told)

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.tasks.append(task.task_id)
        async for event in super().submit(task):
            yield event

    async def aclose(self) -> None:
        self.open_at_close.append(self.begun - self.freed)
        await super().aclose()


class Yard:
    """Plugins whose engine `words` is made by `make`, which is given the replica's url; `built` are all it made."""

    def __init__(self, make: Callable[[str], WorkerAdapter] = lambda _: Engine()) -> None:
        self.built: list[Any] = []
        self.contexts: list[AdapterContext] = []
        self.plugins = Plugins()
        self.plugins.register(AdapterSpec("words", 1, Config, self._build))
        self._make = make

    def _build(self, context: AdapterContext) -> WorkerAdapter:
        adapter = self._make(context.config.url)
        self.contexts.append(context)
        self.built.append(adapter)
        return adapter

    @property
    def closed(self) -> list[int]:
        """How often each was closed."""
        return [adapter.closed for adapter in self.built]


class SelfCancelling(Words):
    """Cancels its own task through the host, from inside its own `submit`, and then waits or speaks on."""

    host: AdapterHost
    waits = False

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.begun += 1
        try:
            yield STARTED
            yield Token("before", 0)
            await self.host.cancel("pool", task.task_id)
            if self.waits:
                await asyncio.Event().wait()
            yield Token("after", 1)
            yield end(2)
        finally:
            self.freed += 1


def plugins_with(*adapters: WorkerAdapter) -> Plugins:
    """One engine, `words`; its factory gives these adapters in turn."""
    plugins = Plugins()
    left = list(adapters)
    plugins.register(AdapterSpec("words", 1, Config, lambda _: left.pop(0)))
    return plugins


def host_of(
    *adapters: WorkerAdapter, timeouts: Timeouts | None = None, policy: PoolPolicy | None = None
) -> AdapterHost:
    """A host with these adapters bound as the replicas 0, 1, … of `pool`."""
    host = AdapterHost(plugins=plugins_with(*adapters))
    for i in range(len(adapters)):
        host.bind("pool", "words", {}, replica_id=str(i), timeouts=timeouts, policy=policy)
    return host


def seen_by(contexts: list[AdapterContext], *adapters: WorkerAdapter) -> Plugins:
    """As `plugins_with`; what the factory is given is added to `contexts`."""
    plugins = Plugins()
    left = list(adapters)

    def factory(context: AdapterContext) -> WorkerAdapter:
        contexts.append(context)
        return left.pop(0)

    plugins.register(AdapterSpec("words", 1, Config, factory))
    return plugins


def said(answer: T | WorkerError) -> T:
    """An answer, or the error it is, raised."""
    if isinstance(answer, WorkerError):
        raise answer
    return answer


def cancel_now(host: AdapterHost, request: TaskRequest) -> CancelReceipt:
    """Cancel from where nothing can be awaited: it answers at once."""
    try:
        host.cancel("pool", request.task_id).send(None)
    except StopIteration as answer:
        receipt: CancelReceipt = answer.value
        return receipt
    raise AssertionError("cancel waited for something")


def now() -> float:
    return asyncio.get_running_loop().time()


def moment(seconds: float) -> Any:
    """A time to compare with: a virtual clock sums up floats."""
    return pytest.approx(seconds, abs=1e-6)


def tokens(events: list[TokenEvent]) -> list[str]:
    return [event.t for event in events if isinstance(event, Token)]


async def drained(stream: AsyncIterator[TokenEvent]) -> list[TokenEvent]:
    return [event async for event in stream]


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on a virtual clock. It fails too if it leaves a task running, or if its loop complains of anything."""

    @functools.wraps(test)
    def run(*args: Any, **facts: Any) -> None:
        run_virtual(_tidy(test(*args, **facts)))

    return run


def eager(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T], **facts: Any) -> asyncio.Future[T]:
    """A task factory like `asyncio.eager_task_factory`, which came with Python 3.12: what it starts runs at once."""
    try:
        waits = work.send(None)
    except StopIteration as done:
        ended: asyncio.Future[T] = loop.create_future()
        ended.set_result(done.value)
        return ended
    return asyncio.Task(_resumed(work, waits), loop=loop, **facts)


@types.coroutine
def _resumed(work: Coroutine[Any, Any, T], waits: Any) -> Generator[Any, Any, T]:
    """What is left of a coroutine that waits for something already."""
    while True:
        try:
            try:
                told = yield waits
            except BaseException as error:  # noqa: BLE001  # whatever it is, the coroutine gets it
                waits = work.throw(error)
            else:
                waits = work.send(told)
        except StopIteration as done:
            return done.value


def run_many(main: Coroutine[Any, Any, T]) -> T:
    """Run a simulation of many cases on a virtual clock, without the debugging that records a stack each turn."""
    with asyncio.Runner(debug=False, loop_factory=VirtualClockLoop) as runner:
        return runner.run(main)


async def _tidy(main: Coroutine[Any, Any, None]) -> None:
    complaints: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(str(context)))
    await main
    gc.collect()
    await asyncio.sleep(0.2)  # streams dropped just now are closed
    left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]

    assert complaints == []
    assert left == []
