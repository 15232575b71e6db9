"""An orchestrator on a free port, with a real host and an engine of the test's own, and clients that talk to it."""

import asyncio
import functools
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp
import msgspec
from aiohttp import web
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterSpec,
    Capabilities,
    End,
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
from llama_orch_adapter_host import AdapterHost, Plugins, PoolPolicy
from llama_orch_adapter_testkit import run_virtual
from llama_orch_orchestratord import create_app
from llama_orch_orchestratord._config import ServerConfig, parse_config
from llama_orch_orchestratord._counts import Census
from llama_orch_orchestratord._keys import JOBS

T = TypeVar("T")

STARTED = Started("words", "1", "m", "chat/0")

Script = Callable[[TaskRequest], list[TokenEvent | float | WorkerError]]
"""What an engine does with a task, in order: an event is yielded, a number is a pause in seconds, an error raised."""


class Config(msgspec.Struct, forbid_unknown_fields=True):
    """An adapter's own table."""

    url: str = "http://127.0.0.1"


class Engine(WorkerAdapter):
    """Speaks by its script; `begun` are the tasks it was sent, `freed` counts those it let go of.

    `asked` counts the looks at it.
    """

    def __init__(self, script: Script, slots: int | None = 4) -> None:
        self.script = script
        self.slots = slots
        self.begun: list[TaskRequest] = []
        self.freed = 0
        self.said = 0
        self.asked = 0
        self.told = WorkerHealth(live=True, ready=True, state="ready")

    @property
    def running(self) -> int:
        """How many tasks it works on."""
        return len(self.begun) - self.freed

    async def health(self) -> WorkerHealth:
        self.asked += 1
        return self.told

    async def props(self) -> WorkerProps:
        self.asked += 1
        return WorkerProps(self.slots, None, Capabilities("words", "1", "m", datetime.now(UTC), slots=self.slots))

    async def engine_version(self) -> str:
        return "1"

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.begun.append(task)
        try:
            for step in self.script(task):
                if isinstance(step, float | int):
                    await asyncio.sleep(step)
                elif isinstance(step, WorkerError):
                    raise step
                else:
                    self.said += 1
                    yield step
        finally:
            self.freed += 1


def words(count: int = 3, pause: float | None = None, text: str = "word ") -> Script:
    """So many tokens, with a pause in seconds before each (None: it never waits)."""

    def script(_: TaskRequest) -> list[TokenEvent | float | WorkerError]:
        steps: list[TokenEvent | float | WorkerError] = [STARTED]
        for i in range(count):
            steps += ([] if pause is None else [pause]) + [Token(text, i)]
        return [*steps, End(3, count, "stop")]

    return script


def forever(pause: float = 1.0) -> Script:
    """Tokens without an end worth waiting for."""
    return words(100_000, pause)


class Frame(NamedTuple):
    """One server-sent event."""

    event: str
    id: int | None
    data: dict[str, Any]


def frames(body: str) -> list[Frame]:
    """What a stream's text holds, comments left out."""
    found = []
    for block in body.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if ": " in line)
        if fields:
            number = int(fields["id"]) if "id" in fields else None
            found.append(Frame(fields["event"], number, json.loads(fields["data"])))
    return found


def shape(found: list[Frame]) -> list[str]:
    """What kinds came, in order."""
    return [each.event for each in found]


class Client:
    """Talks to an orchestrator at `url`; `host` is its host."""

    def __init__(self, session: aiohttp.ClientSession, url: str, host: AdapterHost, runner: web.AppRunner) -> None:
        self.session = session
        self.url = url
        self.host = host
        self.app = runner.app
        self._server = runner.server

    def held(self) -> list[int]:
        """How many bytes wait in the orchestrator for each of its clients."""
        assert self._server is not None
        transports = [each.transport for each in self._server.connections]
        return [each.get_write_buffer_size() for each in transports if each is not None]

    def census(self) -> Census:
        """How many tasks the pool has of each kind."""
        return self.app[JOBS].census()["chat"]

    async def post(self, body: object, **headers: str) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Send a task: the status, the body, the headers."""
        async with self.session.post(f"{self.url}/v1/tasks", json=body, headers=headers) as response:
            return response.status, await response.json(), response.headers

    async def send(self, **facts: Any) -> str:
        """Send a task that is taken in; its id."""
        status, body, _ = await self.post({"pool_id": "chat", "prompt": "say something", **facts})
        assert status == 202, body
        task_id: str = body["task_id"]
        return task_id

    async def read(self, task_id: str, query: str = "") -> list[Frame]:
        """A stream to its end."""
        status, text = await self.get(f"/v1/tasks/{task_id}/stream{query}")
        assert status == 200, text
        return frames(text)

    async def get(self, path: str) -> tuple[int, str]:
        async with self.session.get(self.url + path) as response:
            return response.status, await response.text()

    def open(self, task_id: str, query: str = "", **headers: str) -> Any:
        """A stream, to be entered, read in pieces and left."""
        return self.session.get(f"{self.url}/v1/tasks/{task_id}/stream{query}", headers=headers)

    async def order(self, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
        """POST without a body: the status and the answer."""
        async with self.session.post(self.url + path, headers=headers) as response:
            return response.status, await response.json()

    async def stop(self, drain: float) -> "asyncio.Task[None]":
        """Begin to stop, as at a signal; the task ends with the last stream, or when so many seconds are over."""
        closing = asyncio.create_task(self.app[JOBS].aclose(drain))
        await until(lambda: self.app[JOBS].stopping)
        return closing

    async def cancel(self, task_id: str) -> int:
        async with self.session.post(f"{self.url}/v1/tasks/{task_id}/cancel") as response:
            return response.status


def settings(toml: str) -> ServerConfig:
    """A config as its file would give it."""
    return parse_config(toml.encode())


def plugins_of(*engines: WorkerAdapter) -> Plugins:
    """One engine, `words`; its factory gives these in turn."""
    plugins = Plugins()
    left = list(engines)
    plugins.register(AdapterSpec("words", API_VERSION, Config, lambda _: left.pop(0)))
    return plugins


@asynccontextmanager
async def serving(
    *engines: WorkerAdapter,
    toml: str = "",
    policy: PoolPolicy | None = None,
    told: bool = True,
    timeouts: Timeouts | None = None,
    file: Path | None = None,
    later: Sequence[WorkerAdapter] = (),
) -> AsyncIterator[Client]:
    """These engines as the replicas of the pool `chat`, or as a file of pools says.

    `told`: handlers are cancelled when their client leaves. `later` are engines for what is bound or rebound.
    """
    plugins = plugins_of(*engines, *later)
    host = AdapterHost(plugins=plugins) if file is None else AdapterHost.from_config(file, plugins)
    for i in range(len(engines) if file is None else 0):
        host.bind("chat", "words", {}, replica_id=str(i), policy=policy, timeouts=timeouts)
    app = create_app(host, settings(toml))
    runner = web.AppRunner(app, handler_cancellation=told, shutdown_timeout=1.0)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    limits = aiohttp.ClientTimeout(total=None)
    try:
        async with aiohttp.ClientSession(timeout=limits, connector=aiohttp.TCPConnector(limit=0)) as session:
            await until(lambda: _known(host))
            yield Client(session, f"http://127.0.0.1:{listener.getsockname()[1]}", host, runner)
    finally:
        await runner.cleanup()


def _known(host: AdapterHost) -> bool:
    """Whether every replica told what it can do, if it takes tasks at all."""
    replicas = [each for pool in host.capabilities().pools.values() for each in pool.replicas.values()]
    return host.refusal("chat") is not None or all(each.capabilities for each in replicas)


def virtual(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test on a virtual clock."""

    @functools.wraps(test)
    def run(*args: Any, **facts: Any) -> None:
        run_virtual(test(*args, **facts))

    return run


async def until(holds: Callable[[], bool], within: float = 5.0) -> None:
    """Wait for what others bring about; fails when it does not come."""
    async with asyncio.timeout(within):
        while not holds():
            await asyncio.sleep(0.005)
