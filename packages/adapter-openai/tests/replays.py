"""Two engines' captures of OpenAI's routes, and what tasks come to that meet them."""

import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from llama_orch_adapter_api import AdapterContext, Message, TaskRequest, Timeouts
from llama_orch_adapter_openai import OpenAIAdapter
from llama_orch_adapter_openai._adapter import OpenAIConfig
from llama_orch_adapter_testkit import Capture, LoopbackEngine, Outcome, Reply, captures, outcome

SECRET = "words nobody else may read"
COMPLETIONS, CHAT, MODELS = "/v1/completions", "/v1/chat/completions", ("GET", "/v1/models")
TASKS = {
    COMPLETIONS: TaskRequest(prompt=SECRET, seed=7),
    CHAT: TaskRequest(messages=(Message("user", SECRET),), seed=7),
}
IMPATIENT = {"retry": {"base": 1e-9, "cap": 1e-9, "patience": 0.1}}
"""As many attempts as ever, and no time between them."""


SHELF = {
    f"{engine}/{name}": captures.load(engine, name)
    for engine in ("llamacpp", "vllm")
    for name in captures.names(engine)
}


def capture(name: str) -> Capture:
    """By "engine/name"."""
    return SHELF[name]


def reply(name: str) -> Reply:
    """The same as an answer."""
    return Reply.capture(capture(name))


ONE_MODEL = reply("vllm/get_v1_models")
HUB = Reply.json(200, {"object": "list", "data": [{"id": "small"}, {"id": "large", "max_model_len": 4096}]})
"""A server of several models."""


def adapter_for(url: str, **config: Any) -> OpenAIAdapter:
    given = OpenAIConfig(url=url, **config)
    return OpenAIAdapter(AdapterContext("pool", "r0", given, Timeouts(), IMPATIENT, time.monotonic, print))


@asynccontextmanager
async def running(
    script: Mapping[tuple[str, str], Reply | Sequence[Reply]], path: str = "", **config: Any
) -> AsyncIterator[tuple[OpenAIAdapter, LoopbackEngine]]:
    """An adapter and its engine, which has one model unless the script says otherwise; `path` is that of the url."""
    async with LoopbackEngine({MODELS: ONE_MODEL, **script}) as engine:
        adapter = adapter_for(engine.url + path, **config)
        try:
            yield adapter, engine
        finally:
            await adapter.aclose()


async def met_with(answer: Reply, path: str = COMPLETIONS) -> Outcome:
    """What the route's task comes to with this answer."""
    async with running({("POST", path): answer}) as (adapter, _):
        return await outcome(adapter, TASKS[path])
