"""How the engine is, what it can do, and who it is."""

import json

import pytest
from llama_orch_adapter_api import (
    PoolUnavailable,
    Started,
)
from llama_orch_adapter_testkit import (
    Capture,
    LoopbackEngine,
    Reply,
    outcome,
    run_virtual,
)

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    NATIVE,
    SHELF,
    TASKS,
    adapter_for,
    running,
)

BUSY = Reply.capture(SHELF["get_slots_fail_on_no_slot_busy"])
READY = (True, True, "ready", "")


@pytest.mark.parametrize(
    ("health", "slots", "expected"),
    [
        (SHELF["get_health"], Reply.capture(SHELF["fail_on_no_slot_idle"]), READY),
        (SHELF["key_health"], Reply.capture(SHELF["key_slots"]), (True, False, "down", "401: Invalid API Key")),
        (SHELF["get_health"], Reply.capture(SHELF["off_slots"]), READY),
        (SHELF["get_health"], Reply.raw(b"nonsense\r\n\r\n", stop_after=99), (True, False, "down", "not HTTP")),
        (SHELF["get_health"], Reply.capture(SHELF["loading_get_slots"]), (True, False, "loading", "Loading model")),
        (SHELF["get_health"], BUSY, (True, True, "busy", "every slot is working")),
        (SHELF["loading_get_health"], BUSY, (True, False, "loading", "503: Loading model")),
        (SHELF["get_slots_fail_on_no_slot_busy"], BUSY, (True, False, "down", "503: no slot available")),
        (SHELF["emb_too_long"], BUSY, (True, False, "down", "answered 500: ")),
    ],
    ids=[
        "idle",
        "wrong key",
        "no slots route",
        "slots nonsense",
        "loads again",
        "busy",
        "loading",
        "unavailable",
        "broken",
    ],
)
async def test_health(health: Capture, slots: Reply, expected: tuple[bool, bool, str, str]):
    """Loading is no failure, busy is ready, and an engine without `/slots` is simply ready."""
    async with running({("GET", "/health"): Reply.capture(health), ("GET", "/slots"): slots}) as (adapter, engine):
        seen = await adapter.health()

    live, ready, state, words = expected
    assert (seen.live, seen.ready, seen.state) == (live, ready, state)
    assert words in seen.detail
    assert ready <= any(request.query == {"fail_on_no_slot": "1"} for request in engine.requests)


@pytest.mark.parametrize(
    ("metrics", "expected"),
    [
        ("get_metrics_busy", ("busy", "2 working, 1 waiting")),
        ("get_metrics", ("ready", "")),
        ("get_metrics_after", ("ready", "")),
        ("off_metrics", ("ready", "")),
        ("err_unknown_path", ("ready", "")),
        ("loading_get_metrics", ("loading", "Loading model")),
    ],
)
async def test_health_without_slots(metrics: str, expected: tuple[str, str]):
    """Where there is no `/slots`, it is busy while tasks wait, as its metrics tell; without those it is ready."""
    script = {
        ("GET", "/slots"): Reply.capture(SHELF["off_slots"]),
        ("GET", "/metrics"): Reply.capture(SHELF[metrics]),
    }
    async with running(script) as (adapter, _):
        seen = await adapter.health()

    assert (seen.state, expected[1] in seen.detail) == (expected[0], True)
    assert seen.ready == (expected[0] != "loading")


async def test_health_of_an_engine_that_is_not_there():
    """A refused connection is an answer: down, and not live."""
    async with LoopbackEngine({}) as engine:
        adapter = adapter_for(engine.url)
    seen = await adapter.health()
    await adapter.aclose()

    assert (seen.live, seen.ready, seen.state) == (False, False, "down")
    assert "cannot connect" in seen.detail


@pytest.mark.parametrize("name", [name for name in SHELF if name.startswith("loading_")])
async def test_while_loading_every_path_says_so(name: str):
    """A task, props and health meet the same 503, whatever was asked for: loading, to be tried again."""
    loading = Reply.capture(SHELF[name])
    paths = [("GET", "/health"), ("GET", "/props"), ("POST", NATIVE)]
    async with running(dict.fromkeys(paths, loading)) as (adapter, _):
        health = await adapter.health()
        seen = await outcome(adapter, TASKS[NATIVE])
        with pytest.raises(PoolUnavailable, match="Loading model"):
            await adapter.props()

    assert (health.live, health.ready, health.state) == (True, False, "loading")
    assert seen.failure == "POOL_UNAVAILABLE loading"


@pytest.mark.parametrize(("slots", "free"), [("get_slots_idle", 2), ("get_slots_busy", 0)])
async def test_props(slots: str, free: int):
    """Slots and capabilities as the engine tells them now."""
    async with running({("GET", "/slots"): Reply.capture(SHELF[slots])}) as (adapter, _):
        seen = await adapter.props()

    assert (seen.slots_total, seen.slots_free) == (2, free)
    assert (seen.capabilities.engine_version, seen.capabilities.model_id) == ("b0-unknown", "smollm2")
    assert (seen.capabilities.ctx_max, seen.capabilities.slots) == (2048, 2)


@pytest.mark.parametrize(
    ("routes", "free", "asked"),
    [
        ({"endpoint_slots": True, "endpoint_metrics": False}, 2, ["/slots"]),
        ({"endpoint_slots": False, "endpoint_metrics": True}, 0, ["/metrics"]),
        ({"endpoint_slots": False, "endpoint_metrics": False}, None, []),
    ],
    ids=["slots", "metrics", "neither"],
)
async def test_props_of_an_engine_with_fewer_routes(routes: dict[str, bool], free: int | None, asked: list[str]):
    """Only what `/props` says is there is asked: slots, else metrics, else nobody knows how many slots are free."""
    told = json.loads(SHELF["get_props"].body) | routes
    script = {("GET", "/props"): Reply.json(200, told), ("GET", "/metrics"): Reply.capture(SHELF["get_metrics_busy"])}
    async with running(script) as (adapter, engine):
        seen = await adapter.props()

    assert (seen.slots_total, seen.slots_free, seen.capabilities.ctx_max) == (2, free, 2048)
    assert ("confirms_cancel" in seen.capabilities.features) == routes["endpoint_slots"]
    assert [request.path for request in engine.requests if request.method == "GET"] == ["/props", *asked]


@pytest.mark.parametrize(
    ("embeddings", "rerank", "workloads"),
    [
        ("v1_embeddings_unsupported", "v1_rerank_unsupported", ("completion",)),
        ("bad_type_prompt", "emb_rerank", ("completion", "embedding")),
        ("bad_type_prompt", "rerank_missing", ("completion", "embedding", "rerank")),
        ("err_unknown_path", "err_unknown_path", ("completion",)),
    ],
)
async def test_workloads_are_found_by_asking(embeddings: str, rerank: str, workloads: tuple[str, ...]):
    """An empty body is refused as 501 where the engine was started without the route, else as a bad request."""
    script = {
        ("POST", "/v1/embeddings"): Reply.capture(SHELF[embeddings]),
        ("POST", "/v1/rerank"): Reply.capture(SHELF[rerank]),
    }
    async with running(script) as (adapter, engine):
        seen = await adapter.props()

    assert seen.capabilities.workloads == workloads
    assert [request.json() for request in engine.requests if request.method == "POST"] == [{}, {}]


async def test_the_version_is_asked_for_once():
    """It pins a replica set, and tasks need it: one look at the engine serves all, until props are asked anew."""
    async with running({("POST", NATIVE): Reply.capture(SHELF["completion_stream"])}) as (adapter, engine):
        versions = [await adapter.engine_version(), await adapter.engine_version()]
        await outcome(adapter, TASKS[NATIVE])

    assert versions == ["b0-unknown"] * 2
    assert [request.path for request in engine.requests] == ["/props", NATIVE]


async def test_an_engine_replaced_behind_its_url():
    """What is known of an engine is forgotten when a task fails: the next one tells of the engine that is there now."""
    other = SHELF["get_props"].body.replace(b'"model_alias":"smollm2"', b'"model_alias":"other"')
    props = [Reply.capture(SHELF["get_props"]), Reply.json(200, json.loads(other))]
    replies = [Reply.capture(SHELF["completion_stream"], stop_after=600), Reply.capture(SHELF["completion_stream"])]
    async with running({("GET", "/props"): props, ("POST", NATIVE): replies}) as (adapter, _):
        failed = await outcome(adapter, TASKS[NATIVE])
        served = await outcome(adapter, TASKS[NATIVE])

    assert failed.error is not None
    assert isinstance(served.events[0], Started)
    assert served.events[0].model == "other"


def test_a_look_is_tried_again() -> None:
    """Props of an engine that was loading come with a later attempt, and so does its version (ORCH-3611)."""
    loading, props = Reply.capture(SHELF["loading_get_props"]), Reply.capture(SHELF["get_props"])

    async def main() -> None:
        async with running({("GET", "/props"): [loading, props, loading, loading, props]}) as (adapter, engine):
            assert (await adapter.props()).slots_total == 2
            adapter._known = None
            assert await adapter.engine_version() == "b0-unknown"
            looks = [request.path for request in engine.requests if request.method == "GET"]
            assert looks == ["/props", "/props", "/slots", "/props", "/props", "/props"]

    run_virtual(main())


async def test_health_asks_once() -> None:
    """Health answers at once, with what the engine says now."""
    async with running({("GET", "/health"): Reply.capture(SHELF["loading_get_health"])}) as (adapter, engine):
        assert (await adapter.health()).state == "loading"
        assert [request.path for request in engine.requests] == ["/health"]
