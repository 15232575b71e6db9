"""What the adapter sends, how it stops, and that whatever answers, an event or a `WorkerError` comes out."""

import asyncio
import json
import os
from contextlib import suppress

import llama_orch_adapter_vllm as package
import msgspec
import pytest
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterSpec,
    Sampling,
    Secret,
    Started,
    TaskRequest,
    Token,
    WorkerError,
    WorkerHealth,
    WorkerProps,
    token_budget,
)
from llama_orch_adapter_testkit import (
    LoopbackEngine,
    Reply,
    Request,
    all_kinds_of_cuts,
    cases,
    dice,
    mutilated_reply,
    outcome,
)
from llama_orch_adapter_vllm._adapter import VllmConfig
from llama_orch_adapter_vllm._wire import request_body

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    CHAT,
    COMPLETIONS,
    GETS,
    IMPATIENT,
    REFUSALS,
    SHELF,
    STREAMS,
    TASKS,
    adapter_for,
    running,
)


async def test_a_trace_is_passed_on():
    """ORCH-3604: a task's traceparent goes to the engine as its header, and none where it has none."""
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    async with running({("POST", COMPLETIONS): Reply.sse([])}) as (adapter, engine):
        for task in (msgspec.structs.replace(TASKS[COMPLETIONS], traceparent=trace), TASKS[COMPLETIONS]):
            await outcome(adapter, task)
        sent = [request.headers.get("traceparent") for request in engine.requests if request.method == "POST"]

    assert sent == [trace, None]


@pytest.mark.parametrize("path", TASKS)
@pytest.mark.parametrize("model", [None, "lora"])
async def test_a_task_is_posted(path: str, model: str | None):
    """The body is the task's, for the model it names or else the engine's own; the key is in its header."""
    task = TaskRequest(
        prompt=TASKS[path].prompt,
        messages=TASKS[path].messages,
        model_ref=model,
        max_tokens=3,
        sampling=Sampling(temperature=0.5, stop=("x",)),
        extra={"min_tokens": 1},
    )
    script = {("POST", path): Reply.capture(SHELF["v1_completions_stream"])}
    async with running(script, Secret("sekret")) as (adapter, engine):
        seen = await outcome(adapter, task)

    posted = engine.requests[-1]
    assert posted.json() == json.loads(json.dumps(request_body(task, model or "smollm2")))
    assert seen.events[0] == Started("vllm", "0.32.0", model or "smollm2", "pool/r0")
    assert {request.headers["authorization"] for request in engine.requests} == {"Bearer sekret"}
    assert posted.headers["content-type"] == "application/json"


async def test_the_seed_is_told():
    """`Started` and `End` carry the seed that is sent and the sampler profile; without one the engine draws it."""
    profiled = msgspec.structs.replace(TASKS[COMPLETIONS], sampler_profile_version="v3")
    tasks = [profiled, msgspec.structs.replace(profiled, seed=None)]
    async with running({("POST", COMPLETIONS): Reply.capture(SHELF["v1_completions_stream"])}) as (adapter, engine):
        seen = [await outcome(adapter, task) for task in tasks]

    assert [(one.events[0].seed, one.end.seed) for one in seen] == [(7, 7), (None, None)]
    assert {event.sampler_profile_version for one in seen for event in (one.events[0], one.end)} == {"v3"}
    assert ["seed" in request.json() for request in engine.requests if request.method == "POST"] == [True, False]


async def test_streams_share_a_connection():
    """This engine keeps a connection after a stream: props and three tasks need one."""
    stream = Reply.capture(SHELF["v1_completions_stream"])
    async with running({("POST", COMPLETIONS): stream}) as (adapter, engine):
        seen = [await outcome(adapter, TASKS[COMPLETIONS]) for _ in range(3)]

    assert all(one.end for one in seen)
    assert engine.connections_made == 1


def test_the_entry_point_registers_the_engine():
    """The package registers one engine, whose settings name a URL and refuse what they do not know."""
    registered: list[AdapterSpec] = []
    package.llama_orch_register_adapters(registered.append)

    [spec] = registered
    assert spec == AdapterSpec("vllm", API_VERSION, VllmConfig, package.VllmAdapter, advise=token_budget)


def test_slots_are_at_least_one():
    """A replica without slots could take no task."""
    with pytest.raises(msgspec.ValidationError, match=r">= 1 - at `\$\.slots`"):
        msgspec.convert({"url": "http://127.0.0.1:8000", "slots": 0}, VllmConfig)


@pytest.mark.parametrize("path", TASKS)
async def test_closing_the_stream_stops_the_engine(path: str):
    """Closed in mid-decode, the connection is dropped: that is what cancels in this engine."""
    one = SHELF["v1_chat_stream" if path == CHAT else "v1_completions_stream"]
    reply = Reply.capture(one, stop_after=all_kinds_of_cuts(one.response)["events"][2], hang=True)
    async with running({("POST", path): reply}) as (adapter, engine):
        stream = adapter.submit(TASKS[path])
        async for event in stream:
            if isinstance(event, Token):
                break
        await stream.aclose()  # type: ignore[attr-defined]  # submit gives an async generator
        await (await engine.request(2)).disconnected()

    assert engine.requests[2].path == path


@pytest.mark.parametrize("sent", [None, 0, 400], ids=["no head", "nothing", "head and more"])
async def test_cancelling_the_waiting_task_stops_the_engine(sent: int | None):
    """Cancelled before the head, before the first token or in the middle of an event, nothing is left behind."""
    one = SHELF["v1_completions_stream"]
    reply = Reply.silence() if sent is None else Reply.capture(one, stop_after=sent, hang=True)
    async with running({("POST", COMPLETIONS): reply}) as (adapter, engine):
        waiting = asyncio.create_task(outcome(adapter, TASKS[COMPLETIONS]))
        request = await engine.request(2)
        for _ in range(20):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await request.disconnected()


async def test_closing_the_adapter_lets_go_of_its_connections():
    """After `aclose` no connection is open; a second one does nothing."""
    async with running({}) as (adapter, engine):
        await adapter.health()
        assert engine.open_connections == 1
        await adapter.aclose()
        await adapter.aclose()
        await engine.deserted()


@pytest.mark.nightly
@pytest.mark.timeout(60 if not os.environ.get("NIGHTLY") else 7200)
async def test_any_bytes_end_in_an_event_or_a_worker_error():
    """Whatever answers, nothing but WorkerErrors comes out (battery 5, client_path_fuzz); SEED replays a run."""
    chance = dice()
    shelf = [SHELF[name] for name in ("get_version", "get_v1_models", *STREAMS, *list(REFUSALS)[:8])]
    asyncio.get_running_loop().set_debug(False)  # it makes this five times as slow

    def script(request: Request) -> Reply:
        return reply if request.method == "POST" or probing else GETS[request.route]

    async with LoopbackEngine(script) as engine:
        adapter = adapter_for(engine.url, http=IMPATIENT)
        for _ in range(cases(10_000, nightly=1_000_000)):
            reply, path = mutilated_reply(chance, chance.choice(shelf)), chance.choice([COMPLETIONS, CHAT])
            probing, asked = chance.random() < 0.2, chance.choice(["health", "props"])
            async with asyncio.timeout(5):
                if not probing:
                    seen = await outcome(adapter, TASKS[path])
                    assert (seen.end is None) == (seen.error is not None)
                elif asked == "health":
                    assert isinstance(await adapter.health(), WorkerHealth)
                else:
                    with suppress(WorkerError):
                        assert isinstance(await adapter.props(), WorkerProps)
        await adapter.aclose()
