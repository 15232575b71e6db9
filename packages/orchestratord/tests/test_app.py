"""The HTTP face over a real socket, with a real host and an adapter of the test's own."""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import aiohttp
import msgspec
from aiohttp import web
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterContext,
    AdapterSpec,
    Capabilities,
    End,
    TaskRequest,
    TokenEvent,
    WorkerAdapter,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_adapter_host import AdapterHost, Plugins, parse_config
from llama_orch_orchestratord import create_app


class Config(msgspec.Struct, forbid_unknown_fields=True):
    """A replica whose health is what its config says."""

    url: str
    ready: bool = True


class Scripted(WorkerAdapter):
    """An adapter whose only life is its health."""

    def __init__(self, context: AdapterContext) -> None:
        self.config: Config = context.config

    async def health(self) -> WorkerHealth:
        ready = self.config.ready
        return WorkerHealth(live=True, ready=ready, state="ready" if ready else "loading")

    async def props(self) -> WorkerProps:
        return WorkerProps(None, None, Capabilities("scripted", "1", "m", datetime.now(UTC)))

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        yield End(0, 0, "stop")

    async def engine_version(self) -> str:
        return "1"


@asynccontextmanager
async def serving(toml: str) -> AsyncIterator[str]:
    """The application on a free port; gives its base URL."""
    plugins = Plugins()
    plugins.register(AdapterSpec("scripted", API_VERSION, Config, Scripted))
    runner = web.AppRunner(create_app(AdapterHost(parse_config(toml.encode()), plugins)))
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listener).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await runner.cleanup()


async def get(url: str) -> tuple[int, object]:
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, await response.json()


POOLS = """
[pools.chat]
engine = "scripted"
replicas = [{ url = "http://127.0.0.1:1" }, { url = "http://127.0.0.1:2", ready = false }]
[pools.cold]
engine = "scripted"
replicas = [{ url = "http://127.0.0.1:3", ready = false }]
"""


async def test_the_process_answers() -> None:
    """`/healthz` tells that the process lives, whatever its pools are."""
    async with serving(POOLS) as url:
        assert await get(f"{url}/healthz") == (200, {"status": "ok"})


async def test_a_pool_with_one_ready_replica_is_up() -> None:
    """One ready replica is enough for 200, and every replica is told."""
    async with serving(POOLS) as url:
        status, body = await get(f"{url}/v1/pools/chat/health")

    assert status == 200
    assert isinstance(body, dict)
    assert {replica: health["state"] for replica, health in body.items()} == {"0": "ready", "1": "loading"}


async def test_a_pool_with_none_ready_is_503() -> None:
    """A pool whose only replica still loads is not available yet."""
    async with serving(POOLS) as url:
        status, _ = await get(f"{url}/v1/pools/cold/health")

    assert status == 503


async def test_an_unknown_pool_is_404_with_the_mend() -> None:
    """The error's wire form names the pools that are bound."""
    async with serving(POOLS) as url:
        status, body = await get(f"{url}/v1/pools/nope/health")

    assert status == 404
    assert isinstance(body, dict)
    assert body["code"] == "POOL_UNAVAILABLE"
    assert "bound: chat, cold" in body["message"]
