"""What the adapter is configured with, what it sends, and how it stops."""

import asyncio
import os
from contextlib import suppress

import llama_orch_adapter_openai as package
import msgspec
import pytest
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterError,
    AdapterSpec,
    Grammar,
    Secret,
    Started,
    TaskRequest,
    Token,
    WorkerError,
    WorkerHealth,
    WorkerProps,
    token_budget,
)
from llama_orch_adapter_openai._adapter import OpenAIConfig
from llama_orch_adapter_testkit import (
    OPENAI,
    LoopbackEngine,
    Reply,
    Request,
    all_kinds_of_cuts,
    cases,
    dice,
    mutilated_reply,
    outcome,
)
from llama_orch_adapter_testkit.conformance import certify

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    CHAT,
    COMPLETIONS,
    HUB,
    MODELS,
    ONE_MODEL,
    TASKS,
    adapter_for,
    capture,
    reply,
    running,
)

STREAM = reply("vllm/v1_completions_stream")


def test_the_entry_point_registers_the_engine():
    """The package registers one engine."""
    registered: list[AdapterSpec] = []
    package.llama_orch_register_adapters(registered.append)

    assert registered == [AdapterSpec("openai", API_VERSION, OpenAIConfig, package.OpenAIAdapter, advise=token_budget)]


@pytest.mark.timeout(120)  # a whole certificate, on a machine that may be busy
def test_a_server_that_nothing_is_told_of():
    """ORCH-3612: with its url alone, the adapter keeps every rule as well, and declares no more than chats."""
    seen = certify("openai", OPENAI)

    assert seen.verdict == "passed"
    tried = {one.group for one in seen.checks if one.status == "passed"}
    assert tried == {"required", "sse", "chat"}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"slots": 0}, r">= 1 - at `\$\.slots`"),
        ({"version_path": "version"}, r"regex '\^/' - at `\$\.version_path`"),
        ({"workloads": []}, r"length >= 1 - at `\$\.workloads`"),
        ({"features": ["confirms_cancel"]}, r"'confirms_cancel' - at `\$\.features\[0\]`"),
        ({"modle": "m"}, "unknown field `modle`"),
    ],
)
def test_a_config_that_cannot_be_right(config: dict[str, object], words: str):
    """What no server can be is refused, and so is a promise that only an adapter could keep."""
    with pytest.raises(msgspec.ValidationError, match=words):
        msgspec.convert({"url": "http://127.0.0.1:8000", **config}, OpenAIConfig)


@pytest.mark.parametrize("path", ["", "/", "/v1", "/v1/"])
@pytest.mark.parametrize("route", TASKS)
async def test_a_task_is_posted(route: str, path: str):
    """ORCH-3600: the routes are OpenAI's, whether the url ends in `/v1` or not; the key is in its header."""
    async with running({("POST", route): STREAM}, path, api_key=Secret("sekret")) as (adapter, engine):
        seen = await outcome(adapter, TASKS[route])

    assert seen.events[0] == Started("openai", "unknown", "smollm2", "pool/r0", seed=7)
    assert [request.route for request in engine.requests] == [MODELS, ("POST", route)]
    assert {request.headers["authorization"] for request in engine.requests} == {"Bearer sekret"}
    assert (engine.requests[1].json()["model"], engine.requests[1].json()["seed"]) == ("smollm2", 7)


async def test_a_url_with_a_path():
    """A server, or a gateway, may have its `/v1` below a path."""
    routes = {("GET", "/openai/v1/models"): ONE_MODEL, ("POST", f"/openai{COMPLETIONS}"): STREAM}
    async with running(routes, "/openai/v1") as (adapter, _):
        seen = await outcome(adapter, TASKS[COMPLETIONS])

    assert seen.end


@pytest.mark.parametrize(
    ("models", "configured", "asked", "sent"),
    [
        (ONE_MODEL, None, None, "smollm2"),
        (ONE_MODEL, None, "lora", "lora"),
        (ONE_MODEL, "alias", None, "alias"),
        (HUB, "large", None, "large"),
        (HUB, "large", "small", "small"),
        (HUB, None, "small", "small"),
    ],
)
async def test_which_model_is_meant(models: Reply, configured: str | None, asked: str | None, sent: str):
    """The task's own, else the replica's, else the only one that the server has."""
    task = msgspec.structs.replace(TASKS[CHAT], model_ref=asked)
    async with running({MODELS: models, ("POST", CHAT): STREAM}, model=configured) as (adapter, engine):
        seen = await outcome(adapter, task)

    assert seen.started is not None
    assert (engine.requests[-1].json()["model"], seen.started.model) == (sent, sent)


async def test_several_models_and_nobody_says_which():
    """The task is refused before it is sent, with the mend; the server is not blamed."""
    async with running({MODELS: HUB}) as (adapter, engine):
        seen = await outcome(adapter, TASKS[COMPLETIONS])

    assert (seen.failure, seen.events) == ("ADAPTER bad_request", ())
    assert "set model of this replica, or model_ref of the task" in str(seen.error)
    assert [request.method for request in engine.requests] == ["GET"]


async def test_a_grammar_is_not_left_out_in_silence():
    """The dialect has no word for one: the task is refused, with the mend, and never sent without it."""
    async with running({}) as (adapter, engine):
        seen = await outcome(adapter, TaskRequest(prompt="Hi", response_format=Grammar("root ::= x")))

    assert (seen.failure, seen.events) == ("ADAPTER unsupported", ())
    assert "give the server's own word in extra" in str(seen.error)
    assert [request.method for request in engine.requests] == ["GET"]


@pytest.mark.parametrize(("reuse", "connections"), [(True, 1), (False, 3)])
async def test_a_connection_for_each_stream(reuse: bool, connections: int):
    """Three tasks share a connection, or each stream has its own: for a server that closes it afterwards."""
    async with running({("POST", COMPLETIONS): STREAM}, reuse_after_stream=reuse) as (adapter, engine):
        seen = [await outcome(adapter, TASKS[COMPLETIONS]) for _ in range(3)]

    assert all(one.end for one in seen)
    assert engine.connections_made == connections


@pytest.mark.parametrize("path", TASKS)
async def test_closing_the_stream_stops_the_engine(path: str):
    """ORCH-3601: closed in mid-decode, the connection is dropped: that is what cancels in such engines."""
    one = capture("vllm/v1_chat_stream" if path == CHAT else "vllm/v1_completions_stream")
    hung = Reply.capture(one, stop_after=all_kinds_of_cuts(one.response)["events"][2], hang=True)
    async with running({("POST", path): hung}) as (adapter, engine):
        stream = adapter.submit(TASKS[path])
        async for event in stream:
            if isinstance(event, Token):
                break
        await stream.aclose()  # type: ignore[attr-defined]  # submit gives an async generator
        await adapter.cancel(TASKS[path].task_id)
        await (await engine.request(1)).disconnected()


@pytest.mark.nightly
@pytest.mark.timeout(60 if not os.environ.get("NIGHTLY") else 7200)
async def test_any_bytes_end_in_an_event_or_a_worker_error():
    """Whatever answers, nothing but WorkerErrors comes out (battery 5, client_path_fuzz); SEED replays a run."""
    chance = dice()
    names = ["vllm/get_v1_models", "llamacpp/get_v1_models", "vllm/key_wrong", "vllm/err_unknown_path"]
    shelf = [capture(name) for name in (*names, "vllm/v1_chat_stream", "llamacpp/v1_completions_stream")]
    asyncio.get_running_loop().set_debug(False)  # it makes this five times as slow

    def script(request: Request) -> Reply:
        return ONE_MODEL if request.method == "GET" and not probing else answer

    async with LoopbackEngine(script) as engine:
        adapter = adapter_for(engine.url)
        for _ in range(cases(3_000, nightly=300_000)):
            answer, probing = mutilated_reply(chance, chance.choice(shelf)), chance.random() < 0.4
            async with asyncio.timeout(5):
                if not probing:
                    seen = await outcome(adapter, TASKS[chance.choice([COMPLETIONS, CHAT])])
                    assert (seen.end is None) == (seen.error is not None)
                    continue
                assert isinstance(await adapter.health(), WorkerHealth)
                with suppress(WorkerError):
                    assert isinstance(await adapter.props(), WorkerProps)
        await adapter.aclose()


async def test_the_trace_and_the_bad_request_of_a_hosted_server():
    """ORCH-3604: a traceparent goes along; a knob that the server refuses is told in its own words."""
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    words = "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
    error = {"message": words, "type": "invalid_request_error", "param": "max_tokens", "code": "unsupported_parameter"}
    async with running({("POST", CHAT): Reply.json(400, {"error": error})}) as (adapter, engine):
        seen = await outcome(adapter, msgspec.structs.replace(TASKS[CHAT], traceparent=trace, max_tokens=5))

    assert isinstance(seen.error, AdapterError)
    assert (seen.failure, words in seen.error.message) == ("ADAPTER bad_request", True)
    assert engine.requests[-1].headers["traceparent"] == trace
