"""How the server is, and what it can do, as far as such a server tells."""

from typing import Any

import pytest
from llama_orch_adapter_api import AdapterError, Capabilities, PoolUnavailable, WorkerError
from llama_orch_adapter_testkit import LoopbackEngine, Reply, outcome

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    COMPLETIONS,
    HUB,
    MODELS,
    ONE_MODEL,
    TASKS,
    adapter_for,
    reply,
    running,
)

PAGE = Reply.raw(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: 13\r\n\r\n<html></html>")
NO_PATH = "404: File Not Found · {where} · is the path of url right? It is to be what stands before /v1/models"


@pytest.mark.parametrize(
    ("models", "state", "detail"),
    [
        (ONE_MODEL, "ready", ""),
        (reply("llamacpp/get_v1_models"), "ready", ""),
        (HUB, "ready", ""),
        (reply("llamacpp/loading_get_v1_models"), "loading", "the engine answered 503: Loading model"),
        (Reply.json(200, {"object": "list", "data": []}), "loading", "the engine has no model · {where} · load one"),
        (Reply.json(200, {"object": "list", "data": None}), "loading", "the engine has no model"),
        (reply("llamacpp/key_wrong"), "down", "the engine answered 401: Invalid API Key · {where} · set api_key"),
        (reply("llamacpp/err_unknown_path"), "down", f"the engine answered {NO_PATH}"),
        (Reply.json(500, {}), "down", "the engine answered 500"),
        (PAGE, "down", "/v1/models is not understood: DecodeError · {where} · check that url points at the engine"),
    ],
    ids=["vLLM", "llama.cpp", "several", "loading", "none", "null", "key", "path", "broken", "page"],
)
async def test_health(models: Reply, state: str, detail: str):
    """It is ready where it lists a model; what it answers otherwise says what is wrong, and the mend."""
    async with running({MODELS: models}) as (adapter, engine):
        seen = await adapter.health()

    assert (seen.live, seen.ready, seen.state) == (True, state == "ready", state)
    assert seen.detail.startswith(detail.format(where=engine.url.removeprefix("http://")))


async def test_health_of_an_engine_that_is_not_there():
    """A refused connection is an answer: down, and not live."""
    async with LoopbackEngine({}) as engine:
        adapter = adapter_for(engine.url)
    seen = await adapter.health()
    await adapter.aclose()

    assert (seen.live, seen.ready, seen.state) == (False, False, "down")


@pytest.mark.parametrize(
    ("models", "config", "wanted"),
    [
        (ONE_MODEL, {}, {"model_id": "smollm2", "ctx_max": 1024}),
        (reply("llamacpp/get_v1_models"), {}, {"model_id": "smollm2"}),
        (HUB, {}, {"model_id": ""}),
        (HUB, {"model": "large"}, {"model_id": "large", "ctx_max": 4096}),
        (ONE_MODEL, {"model": "an alias"}, {"model_id": "an alias"}),
        (
            ONE_MODEL,
            {"slots": 3, "workloads": ("embedding",), "features": ("tools",)},
            {"model_id": "smollm2", "ctx_max": 1024, "slots": 3, "workloads": ("embedding",), "features": ("tools",)},
        ),
    ],
    ids=["vLLM", "llama.cpp", "several", "one of several", "an alias", "told"],
)
async def test_props(models: Reply, config: dict[str, Any], wanted: dict[str, Any]):
    """ORCH-3600: the model that the server lists and what the config tells; nothing else is claimed."""
    async with running({MODELS: models}, **config) as (adapter, _):
        seen = await adapter.props()

    told = seen.capabilities
    assert (seen.slots_total, seen.slots_free) == (config.get("slots"), None)
    assert told == Capabilities("openai", "unknown", observed_at=told.observed_at, **{"features": ("chat",)} | wanted)


@pytest.mark.parametrize("path", ["/version", "/api/version", "/info"])
async def test_a_version_that_is_served(path: str):
    """Where the server gives its version, it is that of props, of `Started` and for pinning; it is asked for once."""
    stream = reply("vllm/v1_completions_stream")
    script = {("GET", path): Reply.json(200, {"version": "0.13.1", "more": 1}), ("POST", COMPLETIONS): stream}
    async with running(script, version_path=path) as (adapter, engine):
        first = await adapter.engine_version()
        seen = await outcome(adapter, TASKS[COMPLETIONS])
        told = (await adapter.props()).capabilities.engine_version

    assert seen.started is not None
    assert {first, seen.started.engine_version, told} == {"0.13.1"}
    assert [request.path for request in engine.requests].count(path) == 2


async def test_a_version_that_is_not_there():
    """A configured path that the server does not have is an error that says so, not a made-up version."""
    async with running({("GET", "/version"): reply("vllm/err_unknown_path")}, version_path="/version") as (adapter, _):
        with pytest.raises(AdapterError) as caught:
            await adapter.engine_version()

    assert caught.value.detail == "not_found"


@pytest.mark.parametrize(
    ("models", "kind", "detail"),
    [
        ("llamacpp/loading_get_v1_models", PoolUnavailable, "loading"),
        ("vllm/key_models", AdapterError, "auth"),
        ("vllm/err_unknown_path", AdapterError, "not_found"),
        ("vllm/get_version", AdapterError, "decode"),
    ],
)
async def test_props_of_a_server_that_does_not_tell(models: str, kind: type[WorkerError], detail: str):
    """What stands in the way of the list of models is raised, by props and by the first task alike."""
    async with running({MODELS: reply(models)}) as (adapter, _):
        seen = await outcome(adapter, TASKS[COMPLETIONS])
        with pytest.raises(kind) as caught:
            await adapter.props()

    assert seen.error is not None
    assert (caught.value.detail, seen.error.detail) == (detail, detail)
    assert caught.value.message == seen.error.message
