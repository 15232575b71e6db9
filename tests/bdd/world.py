"""What the scenarios share: an orchestrator over a real host and fake engines in processes, and its clients."""

import asyncio
import json
import logging
import re
import socket
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import aiohttp
from aiohttp import web
from llama_orch_adapter_host import AdapterHost
from llama_orch_adapter_host.observe import Captured, captured
from llama_orch_adapter_testkit import Behaviour, EngineProcess
from llama_orch_orchestratord import create_app, parse_config

T = TypeVar("T")

PATIENCE = 20.0
"""Seconds within which what a step waits for has to come."""

ENDLESS = 1_000_000

POLICY = """\
[pools.chat.retry]
base = 0.001
[pools.chat.breaker]
consecutive = 2
open_for = 0.1
[pools.chat.health]
interval = 0.05
"""
"""Short spans, so that nothing has to be waited for long; what happens is the same."""

NAMES = ("alpha", "beta", "gamma", "delta", "epsilon")
"""Of tasks."""

TURNED_AWAY = {404, 409, 429, 503}
"""Statuses of a task that was read, and may be sent, but is not taken in."""

_LOGGERS = ("llama_orch_adapter_host.narration", "llama_orch_orchestratord")


class Answer(NamedTuple):
    """What a request got; `body` is text where it is no JSON."""

    status: int
    headers: Mapping[str, str]
    body: Any


class Frame(NamedTuple):
    """One server-sent event."""

    event: str
    data: dict[str, Any]


class Look(NamedTuple):
    """The tasks that an engine works on, and those that it let go of, in the order in which they came to it."""

    live: list[str]
    ended: list[str]


@dataclass
class Reading:
    """What came of a task's stream so far; `over` when its connection ended."""

    status: int = 0
    frames: list[Frame] = field(default_factory=list)
    over: bool = False
    client: "asyncio.Task[None] | None" = None

    @property
    def shape(self) -> list[str]:
        """The kinds of events that every stream has, in order."""
        return [frame.event for frame in self.frames if frame.event not in {"metrics", "narration"}]

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(frame.data["t"] for frame in self.frames if frame.event == "token")


class _Lines(logging.Handler):
    """What the program's log tells, line by line."""

    def __init__(self, lines: list[str]) -> None:
        super().__init__(logging.DEBUG)
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self._lines.append(record.getMessage())


class World:
    """A scenario's. Its loop runs during steps alone, so that between two of them nothing happens but in engines."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "pools.toml"
        self.settings = ["[server]\nshutdown = 0.1"]
        self.engines: list[EngineProcess] = []
        self.readings: dict[str, Reading] = {}
        self.refused: set[str] = set()
        self.lines: list[str] = []
        self.told = Captured()
        self.faults: list[dict[str, Any]] = []
        self.headers: dict[str, str] = {}
        self.tokens: dict[str, str] = {}
        self.answers: list[Answer] = []
        self._ended: list[list[str]] = []
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._logs = ExitStack()
        self._listen()

    # --- its life

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Let the loop run until this is done."""
        return self._runner.run(_bounded(work))

    def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Let the loop run until this holds. Fails with `what` where it does not come."""
        try:
            self.do(_polled(holds))
        except TimeoutError:
            story = "\n".join(self.lines)
            raise AssertionError(f"{what}: that did not come within {PATIENCE:g} s\n{story}") from None

    def close(self) -> None:
        """End all; nothing may have gone wrong behind the scenes."""
        try:
            self.do(self._close())
        finally:
            self._runner.close()
            self._logs.close()
        assert self.faults == []

    async def _close(self) -> None:
        for reading in self.readings.values():
            if reading.client is not None:
                reading.client.cancel()
                await asyncio.wait([reading.client])
        await self._stack.aclose()

    def _listen(self) -> None:
        handler = _Lines(self.lines)
        for name in _LOGGERS:
            logger = logging.getLogger(name)
            self._logs.callback(logger.setLevel, logger.level)
            self._logs.callback(logger.removeHandler, handler)
            logger.addHandler(handler)
            logger.setLevel(logging.DEBUG)

    # --- what there is

    def add_engine(self, slots: int, refuse: Mapping[int, float] | None = None) -> None:
        """An engine that gives a token every 2 ms, in a process of its own; it is the next replica."""
        engine = EngineProcess(Behaviour(slots=slots, pace=0.002, refuse=refuse or {}))
        self.engines.append(self.do(self._stack.enter_async_context(engine)))
        self._ended.append([])

    def revive(self, number: int) -> None:
        """Start another in the place of one that was killed."""
        dead = self.engines[number]
        behaviour = replace(dead.behaviour, port=int(dead.url.rsplit(":", 1)[1]))
        self.engines[number] = self.do(self._stack.enter_async_context(EngineProcess(behaviour)))

    def write_pools(self, *numbers: int, adapter: str = "llamacpp") -> None:
        """A file with the pool `chat` of these engines; of all where none is named."""
        engines = [self.engines[number] for number in numbers] or self.engines
        replicas = "".join(f'[[pools.chat.replicas]]\nurl = "{engine.url}"\n' for engine in engines)
        self.file.write_text(f'[pools.chat]\nengine = "{adapter}"\n{POLICY}{replicas}')

    def start(self) -> None:
        """Serve the pools."""
        self.do(self._start())
        self.until("every replica tells what it can do", lambda: _known(self.host))

    async def _start(self) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: self.faults.append(context))
        self.host = AdapterHost.from_config(self.file)
        self.told = self._stack.enter_context(captured(self.host))
        app = create_app(self.host, parse_config("\n".join(self.settings).encode()))
        runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        self._stack.push_async_callback(runner.cleanup)
        listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        await web.SockSite(runner, listener).start()
        connector = aiohttp.TCPConnector(limit=0)
        client = aiohttp.ClientSession(f"http://127.0.0.1:{listener.getsockname()[1]}", connector=connector)
        self._client = await self._stack.enter_async_context(client)

    # --- a client

    @property
    def answer(self) -> Answer:
        """The latest one."""
        return self.answers[-1]

    def credentials(self, which: str) -> dict[str, str]:
        """The headers with `no token`, `a wrong token` or `the token of "ROLE"`."""
        if which == "no token":
            return {}
        token = "wrong" * 4 if which == "a wrong token" else self.tokens[which.split('"')[1]]
        return {"Authorization": f"Bearer {token}"}

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """Send a request, and keep what it gets as the answer that steps speak of."""
        self.answers.append(self.do(self._ask(method, path, body, self.headers | headers)))
        return self.answer

    async def _ask(self, method: str, path: str, body: object, headers: Mapping[str, str]) -> Answer:
        async with self._client.request(method, path, json=body, headers=headers) as response:
            text = await response.text()
            is_json = response.content_type == "application/json"
            return Answer(response.status, response.headers, json.loads(text) if is_json else text)

    def send(self, name: str, **facts: object) -> None:
        """Send a task; its prompt is its name."""
        task = {"pool_id": "chat", "task_id": id_of(name), "prompt": name, "max_tokens": 5, **facts}
        if self.ask("POST", "/v1/tasks", task).status in TURNED_AWAY:
            self.refused.add(name)

    def read(self, name: str) -> Reading:
        """Begin to read a task's stream; returns when the answer's head is in."""
        reading = self.readings[name] = Reading()
        reading.client = self.do(self._begin(name, reading))
        self.until(f"the stream of {name} is answered", lambda: reading.status != 0)
        return reading

    async def _begin(self, name: str, reading: Reading) -> "asyncio.Task[None]":
        return asyncio.create_task(self._follow(name, reading))

    async def _follow(self, name: str, reading: Reading) -> None:
        async with self._client.get(f"/v1/tasks/{id_of(name)}/stream", headers=self.headers) as response:
            reading.status = response.status
            rest = ""
            async for chunk in response.content.iter_any():
                *blocks, rest = (rest + chunk.decode()).split("\n\n")
                reading.frames += [_frame(block) for block in blocks if not block.startswith(":")]
        reading.over = True

    def finished(self, name: str) -> Reading:
        """A stream at its end."""
        reading = self.readings[name]
        self.until(f"the stream of {name} is over", lambda: reading.over)
        return reading

    def leave(self, name: str) -> None:
        """The client of a stream closes its connection."""
        client = self.readings[name].client
        assert client is not None
        client.cancel()
        self.do(_waited(asyncio.wait([client])))

    # --- what engines saw

    def look(self, number: int) -> Look:
        """What an engine works on, and has worked on."""
        return self.do(self._look(number))

    async def _look(self, number: int) -> Look:
        report = await self.engines[number].report()
        self._ended[number] += [each.subject for each in report.ended]
        return Look([each.subject for each in report.live], self._ended[number])

    def until_engine(self, number: int, what: str, holds: Callable[[Look], bool]) -> Look:
        """Wait until an engine is so. Fails with `what` where it does not come."""
        try:
            return self.do(self._until_engine(number, holds))
        except TimeoutError:
            raise AssertionError(
                f"engine {number} {what}: not so within {PATIENCE:g} s, but {self.look(number)}"
            ) from None

    async def _until_engine(self, number: int, holds: Callable[[Look], bool]) -> Look:
        while not holds(look := await self._look(number)):
            await asyncio.sleep(0.002)
        return look

    # --- what was told

    @property
    def failed(self) -> set[str]:
        """The tasks that ended in an error, or were turned away."""
        in_error = {name for name, reading in self.readings.items() if "error" in reading.shape}
        return in_error | self.refused

    def untold(self) -> set[str]:
        """Those of them that no line tells of."""
        return {name for name in self.failed if not any(in_words(f"task {name}") in line for line in self.lines)}


def id_of(name: str) -> str:
    """The id of a task that steps call so."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def in_words(told: str) -> str:
    """A line of narration as it stands there: tasks go by the first digits of their ids."""
    return re.sub(rf"task ({'|'.join(NAMES)})", lambda found: f"task {id_of(found[1])[:8]}", told)


async def _bounded(work: Coroutine[Any, Any, T]) -> T:
    async with asyncio.timeout(PATIENCE):
        return await work


async def _polled(holds: Callable[[], bool]) -> None:
    while not holds():
        await asyncio.sleep(0.002)


async def _waited(work: Awaitable[object]) -> None:
    await work


def _frame(block: str) -> Frame:
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    return Frame(fields["event"], json.loads(fields["data"]))


def _known(host: AdapterHost) -> bool:
    """Whether every replica told what it can do."""
    replicas = [each for pool in host.capabilities().pools.values() for each in pool.replicas.values()]
    return bool(replicas) and all(each.capabilities for each in replicas)
