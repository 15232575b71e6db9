"""OpenAI's own client, connected to orchestratord over an engine of the test's own that speaks as vLLM does."""

import asyncio
import secrets
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Literal, NamedTuple

import openai
import pytest
from aiohttp import web
from llama_orch_adapter_host import AdapterHost, Plugins
from llama_orch_adapter_testkit import (
    VLLM,
    Asked,
    Behaviour,
    FakeEngine,
    Finish,
    Load,
    LoopbackEngine,
    Piece,
    Reply,
    Request,
    Script,
)
from llama_orch_orchestratord import create_app, parse_config

PLUGINS = Plugins.installed()
KEY = secrets.token_hex(16)
HELLO: Any = [{"role": "user", "content": "hello"}]
WEATHER: Any = {
    "type": "function",
    "function": {"name": "tool_0", "description": "Tells it.", "parameters": {"type": "object"}, "strict": True},
}


class Served(NamedTuple):
    """A client, and the engine behind what it talks to."""

    client: openai.AsyncOpenAI
    engine: LoopbackEngine

    def sent(self) -> dict[str, Any]:
        """The body of the latest task that the engine was sent."""
        (*_, body) = [request.json() for request in self.engine.requests if request.method == "POST" and request.body]
        return dict(body)


@asynccontextmanager
async def served(
    script: Script, toml: str = "", key: str = KEY, role: Literal["tasks", "control"] = "tasks"
) -> AsyncIterator[Served]:
    """The pool `chat` with one replica, asked with a key, which is the right one unless another is given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ORCH_TOKEN", KEY)
        config = parse_config(
            f"openai.enabled = true\nauth.tokens = [{{ env = 'ORCH_TOKEN', role = '{role}' }}]\n{toml}".encode()
        )
    async with LoopbackEngine(script) as engine:
        host = AdapterHost(plugins=PLUGINS)
        host.bind("chat", "vllm", {"url": engine.url})
        async with listening(create_app(host, config)) as url:
            await until(lambda: host.capabilities().pools["chat"].replicas["0"].capabilities is not None)
            async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                yield Served(client, engine)


@asynccontextmanager
async def listening(app: web.Application) -> AsyncIterator[str]:
    """Serve it on a free port; gives its base URL."""
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    try:
        listener = socket.create_server(("127.0.0.1", 0))
        await web.SockSite(runner, listener).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await runner.cleanup()


async def until(holds: Callable[[], bool]) -> None:
    """Wait for what others bring about; fails when it does not come."""
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.005)


def fake(**behaviour: Any) -> FakeEngine:
    return FakeEngine(Behaviour(dialect="vllm", **behaviour))


def answering(answer: Callable[[Asked], Reply]) -> Callable[[Request], Reply]:
    """An engine that is well, and answers each task so."""

    def reply(request: Request) -> Reply:
        asked = VLLM.asked(request)
        if asked is None:
            return VLLM.look(request, Load(4, 0, 0)) or VLLM.refusal(404, "Not Found")
        return answer(asked)

    return reply


def saying(*pieces: Piece, finish: Finish = "stop") -> Callable[[Request], Reply]:
    """An engine that gives each task these pieces."""

    def said(asked: Asked) -> Reply:
        tokens = [VLLM.token(asked, piece, number) for number, piece in enumerate(pieces, 1)]
        return Reply.sse([*tokens, *VLLM.last(asked, finish, len(pieces))])

    return answering(said)
