"""Clients of real web servers that go away: an aiohttp server over a real socket, and ASGI as it is called."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from aiohttp import web
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterSpec,
    Capabilities,
    End,
    Started,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_adapter_host import AdapterHost, FlightRecord, Plugins

PROMPT = b"a prompt"
LIMIT = 2.0
"""Seconds within which the task of a client that left is over; a server's request is looked at ten times a second."""


class Config(msgspec.Struct):
    url: str = ""


class Endless(WorkerAdapter):
    """Works on a prompt until it is let go, or writes without end; `working` is set while it does, `freed` after it."""

    def __init__(self, *, writes: bool) -> None:
        self.writes = writes
        self.working = asyncio.Event()
        self.freed = asyncio.Event()

    async def health(self) -> WorkerHealth:
        return WorkerHealth(live=True, ready=True, state="ready")

    async def props(self) -> WorkerProps:
        return WorkerProps(1, 1, Capabilities("endless", "1", "none", observed_at=datetime.now(UTC)))

    async def engine_version(self) -> str:
        return "1"

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        try:
            yield Started("endless", "1", "none", "chat/0")
            i = 0
            while self.writes:
                yield Token("word ", i)
                i += 1
                await asyncio.sleep(0.01)
                if i == 5:
                    self.working.set()
            self.working.set()
            await asyncio.Event().wait()
            yield End(1, 0, "stop")  # never
        finally:
            self.freed.set()


@asynccontextmanager
async def host_of(engine: Endless) -> AsyncIterator[AdapterHost]:
    plugins = Plugins()
    plugins.register(AdapterSpec("endless", API_VERSION, Config, lambda _: engine))
    async with AdapterHost(plugins=plugins) as host:
        host.bind("chat", "endless", {})
        yield host


@asynccontextmanager
async def served(host: AdapterHost, task: TaskRequest) -> AsyncIterator[int]:
    """The port of a server that streams the task's tokens to whoever posts a prompt."""

    async def answer(request: web.Request) -> web.StreamResponse:
        assert await request.read() == PROMPT
        response = web.StreamResponse()
        async with host.cancel_on_disconnect(request, "chat", task.task_id), host.submit("chat", task) as stream:
            await response.prepare(request)
            async for event in stream:
                if isinstance(event, Token):
                    await response.write(event.t.encode())
        return response

    app = web.Application()
    app.router.add_post("/", answer)
    runner = web.AppRunner(app, handler_cancellation=False, shutdown_timeout=1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def over(host: AdapterHost, engine: Endless, task: TaskRequest) -> FlightRecord:
    """The record of a task whose client has left."""
    async with asyncio.timeout(LIMIT):
        await engine.freed.wait()
    record = host.explain(task.task_id)
    assert record is not None
    return record


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
@pytest.mark.parametrize(("writes", "phase"), [(False, "first_token"), (True, "decode")], ids=["prefill", "decode"])
async def test_a_client_of_aiohttp_hangs_up(writes: bool, phase: str, reset: bool):
    """ORCH-3601: a socket that a client closes or resets, in prefill or decode, stops its task's engine."""
    engine, task = Endless(writes=writes), TaskRequest(prompt="p")
    async with host_of(engine) as host, served(host, task) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(PROMPT), PROMPT))
        await engine.working.wait()
        if writes:
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        if reset:
            writer.transport.abort()
        else:
            writer.close()
        record = await over(host, engine, task)

        assert (record.ending, record.phase) == ("cancelled", phase)
        assert not host._ledger.calls()
        await writer_gone(writer)


async def writer_gone(writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        await writer.wait_closed()


class Client:
    """The client's side of an ASGI call: its request, its `hang_up`, and what it was sent."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self.messages.put_nowait({"type": "http.request", "body": PROMPT[:2], "more_body": True})
        self.messages.put_nowait({"type": "http.request", "body": PROMPT[2:], "more_body": False})
        self.sent: list[dict[str, Any]] = []

    def hang_up(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})

    async def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)


def application(host: AdapterHost, task: TaskRequest) -> Callable[..., Any]:
    """An ASGI application without a framework, that streams the task's tokens."""

    async def answer(scope: dict[str, Any], receive: Any, send: Any) -> None:
        assert scope["type"] == "http"
        prompt, more = b"", True
        while more:
            message = await receive()
            prompt += message["body"]
            more = message["more_body"]
        assert prompt == PROMPT
        async with host.cancel_on_disconnect(receive, "chat", task.task_id), host.submit("chat", task) as stream:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            async for event in stream:
                if isinstance(event, Token):
                    await send({"type": "http.response.body", "body": event.t.encode(), "more_body": True})
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return answer


@pytest.mark.parametrize(("writes", "phase"), [(False, "first_token"), (True, "decode")], ids=["prefill", "decode"])
async def test_a_client_of_asgi_hangs_up(writes: bool, phase: str):
    """ORCH-3601: an ASGI call that receives `http.disconnect`, in prefill or decode, ends with its task cancelled."""
    engine, task, client = Endless(writes=writes), TaskRequest(prompt="p"), Client()
    async with host_of(engine) as host:
        call = asyncio.create_task(application(host, task)({"type": "http"}, client.messages.get, client.send))
        await engine.working.wait()
        client.hang_up()
        record = await over(host, engine, task)
        async with asyncio.timeout(LIMIT):
            await call

        assert (record.ending, record.phase) == ("cancelled", phase)
        told = [message["type"] for message in client.sent]
        assert told.count("http.response.body") > 5 * writes
        assert client.sent[-1] == {"type": "http.response.body", "body": b"", "more_body": False}
