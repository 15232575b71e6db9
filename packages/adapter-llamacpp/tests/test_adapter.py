"""What the adapter sends, how it stops, and that whatever answers, an event or a `WorkerError` comes out."""

import asyncio
import json
import os
from collections.abc import Callable
from contextlib import suppress

import llama_orch_adapter_llamacpp as package
import msgspec
import pytest
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterSpec,
    Sampling,
    Secret,
    TaskRequest,
    Token,
    WorkerError,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_adapter_llamacpp._adapter import LlamaCppConfig
from llama_orch_adapter_llamacpp._wire import chat_body, completion_body
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

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    CHAT,
    IDLE,
    IMPATIENT,
    NATIVE,
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
    async with running({("POST", NATIVE): Reply.sse([])}) as (adapter, engine):
        for task in (msgspec.structs.replace(TASKS[NATIVE], traceparent=trace), TASKS[NATIVE]):
            await outcome(adapter, task)
        sent = [request.headers.get("traceparent") for request in engine.requests if request.method == "POST"]

    assert sent == [trace, None]


@pytest.mark.parametrize(("path", "body_of"), [(NATIVE, completion_body), (CHAT, chat_body)])
async def test_a_task_is_posted(path: str, body_of: Callable[[TaskRequest], dict[str, object]]):
    """The body is the task's, the key is in its header, and the connection is to be closed after the stream."""
    task = TaskRequest(
        prompt=TASKS[path].prompt,
        messages=TASKS[path].messages,
        seed=7,
        max_tokens=3,
        sampling=Sampling(temperature=0.5, stop=("x",)),
        extra={"cache_prompt": False},
    )
    script = {("POST", path): Reply.capture(SHELF["key_wrong"])}
    async with running(script, api_key=Secret("sekret")) as (adapter, engine):
        seen = await outcome(adapter, task)

    posted = engine.requests[-1]
    assert seen.failure == "ADAPTER auth"
    assert posted.json() == json.loads(json.dumps(body_of(task)))
    assert {request.headers["authorization"] for request in engine.requests} == {"Bearer sekret"}
    assert posted.headers["content-type"] == "application/json"
    assert posted.headers["connection"] == "close"
    assert "x-conversation-id" not in posted.headers  # with it, closing the connection would no longer cancel


STARTED_WITH_A_SEED = json.loads(SHELF["get_props"].body) | {
    "default_generation_settings": {"n_ctx": 2048, "params": {"seed": 42}}
}


@pytest.mark.parametrize("path", TASKS)
@pytest.mark.parametrize(
    ("props", "own", "extra", "told"),
    [
        (Reply.capture(SHELF["get_props"]), 7, {}, 7),
        (Reply.capture(SHELF["get_props"]), 7, {"seed": 8}, 8),
        (Reply.json(200, STARTED_WITH_A_SEED), None, {}, 42),
        (Reply.json(200, STARTED_WITH_A_SEED), 7, {}, 7),
        (Reply.capture(SHELF["get_props"]), 7, {"seed": -1}, None),
        (Reply.capture(SHELF["get_props"]), 7, {"seed": "x"}, None),
    ],
    ids=["task's", "extra's", "engine's", "task's before engine's", "drawn by the engine", "none"],
)
async def test_the_seed_in_force_is_told(path: str, props: Reply, own: int | None, extra: dict[str, object], told: int):
    """`Started` and `End` carry the seed that is sent, whoever chose it, and the task's sampler profile."""
    task = msgspec.structs.replace(TASKS[path], seed=own, extra=extra, sampler_profile_version="v3")
    stream = Reply.capture(SHELF["v1_chat_stream" if path == CHAT else "completion_stream"])
    async with running({("GET", "/props"): props, ("POST", path): stream}) as (adapter, engine):
        seen = await outcome(adapter, task)

    assert [(event.seed, event.sampler_profile_version) for event in (seen.events[0], seen.end)] == [(told, "v3")] * 2
    assert engine.requests[-1].json()["seed"] == extra.get("seed", told)


async def test_a_task_without_a_seed_is_given_one():
    """So its answer can be had again: each such task gets a seed of its own, which is told."""
    async with running({("POST", NATIVE): Reply.capture(SHELF["completion_stream"])}) as (adapter, engine):
        seen = [await outcome(adapter, TaskRequest(prompt="Hi")) for _ in range(8)]

    seeds = [one.events[0].seed for one in seen]
    assert seeds == [request.json()["seed"] for request in engine.requests if request.method == "POST"]
    assert len(set(seeds)) == 8
    assert all(0 <= seed < 2**32 - 1 for seed in seeds)


@pytest.mark.parametrize("path", TASKS)
async def test_each_stream_has_a_connection_of_its_own(path: str):
    """This engine closes after a stream although it says Keep-Alive: no task is sent into a closing connection."""
    stream = Reply.capture(SHELF["v1_chat_stream" if path == CHAT else "completion_stream"])
    async with running({("POST", path): stream}) as (adapter, engine):
        seen = [await outcome(adapter, TASKS[path]) for _ in range(3)]

    assert [one.error for one in seen] == [None] * 3
    assert engine.connections_made == 3


def test_the_entry_point_registers_the_engine():
    """The package registers one engine, whose settings name a URL and refuse what they do not know."""
    registered: list[AdapterSpec] = []
    package.llama_orch_register_adapters(registered.append)

    [spec] = registered
    assert (spec.engine, spec.api, spec.config_type, spec.factory) == (
        "llamacpp",
        API_VERSION,
        LlamaCppConfig,
        package.LlamaCppAdapter,
    )
    assert spec.launch is not None


@pytest.mark.parametrize("path", TASKS)
async def test_closing_the_stream_stops_the_engine(path: str):
    """Closed in mid-decode, the connection is dropped: that is what cancels in this engine."""
    one = SHELF["v1_chat_stream" if path == CHAT else "completion_stream"]
    reply = Reply.capture(one, stop_after=all_kinds_of_cuts(one.response)["events"][2], hang=True)
    async with running({("POST", path): reply}) as (adapter, engine):
        stream = adapter.submit(TASKS[path])
        async for event in stream:
            if isinstance(event, Token):
                break
        await stream.aclose()  # type: ignore[attr-defined]  # submit gives an async generator
        await (await engine.request(1)).disconnected()

    assert engine.requests[1].path == path


@pytest.mark.parametrize("sent", [None, 0, 400], ids=["no head", "nothing", "head and more"])
async def test_cancelling_the_waiting_task_stops_the_engine(sent: int | None):
    """Cancelled before the head, before the first token or in the middle of an event, nothing is left behind."""
    one = SHELF["completion_stream"]
    reply = Reply.silence() if sent is None else Reply.capture(one, stop_after=sent, hang=True)
    async with running({("POST", NATIVE): reply}) as (adapter, engine):
        waiting = asyncio.create_task(outcome(adapter, TASKS[NATIVE]))
        request = await engine.request(1)
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
    shelf = [SHELF[name] for name in ("get_health", "get_props", "get_slots_busy", *STREAMS, *list(REFUSALS)[:8])]
    asyncio.get_running_loop().set_debug(False)  # it makes this five times as slow

    def script(request: Request) -> Reply:
        return reply if request.method == "POST" or probing else IDLE[request.route]

    async with LoopbackEngine(script) as engine:
        adapter = adapter_for(engine.url, http=IMPATIENT)
        for _ in range(cases(10_000, nightly=1_000_000)):
            reply, path = mutilated_reply(chance, chance.choice(shelf)), chance.choice([NATIVE, CHAT])
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
