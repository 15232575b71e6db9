"""How the engine is, what it can do, and who it is."""

import json

import pytest
from llama_orch_adapter_api import (
    AdapterError,
    PoolUnavailable,
)
from llama_orch_adapter_testkit import (
    LoopbackEngine,
    Reply,
    outcome,
    run_virtual,
)

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    COMPLETIONS,
    GETS,
    IMPATIENT,
    SHELF,
    TASKS,
    adapter_for,
    running,
)

IDLE, BUSY = Reply.capture(SHELF["get_metrics_idle"]), Reply.capture(SHELF["get_metrics_busy"])
EMPTY_503 = Reply.raw(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
GAUGES = b"vllm:num_requests_running 4.0\nvllm:num_requests_waiting 0.0\n"
FULL = Reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(GAUGES), GAUGES))
READY = (True, True, "ready", "")


@pytest.mark.parametrize(
    ("health", "metrics", "expected"),
    [
        (Reply.capture(SHELF["get_health"]), IDLE, READY),
        (Reply.capture(SHELF["key_health"]), IDLE, READY),
        (Reply.capture(SHELF["get_health"]), Reply.capture(SHELF["err_unknown_path"]), READY),
        (Reply.capture(SHELF["get_health"]), Reply.json(200, {}), READY),
        (Reply.capture(SHELF["get_health"]), Reply.raw(b"nonsense\r\n\r\n", stop_after=99), READY),
        (Reply.capture(SHELF["get_health"]), FULL, READY),
        (Reply.capture(SHELF["get_health"]), BUSY, (True, True, "busy", "4 running, 1 waiting, KV cache 1% full")),
        (EMPTY_503, BUSY, (True, False, "down", "answered 503 · ")),
        (Reply.json(500, {}), BUSY, (True, False, "down", "answered 500 · ")),
    ],
    ids=["idle", "key", "no metrics route", "no metrics", "metrics nonsense", "working", "busy", "dead core", "broken"],
)
async def test_health(health: Reply, metrics: Reply, expected: tuple[bool, bool, str, str]):
    """A waiting task makes it busy, which is ready; an engine without metrics is simply ready; 503 is a dead core."""
    async with running({("GET", "/health"): health, ("GET", "/metrics"): metrics}) as (adapter, _):
        seen = await adapter.health()

    live, ready, state, words = expected
    assert (seen.live, seen.ready, seen.state) == (live, ready, state)
    assert words in seen.detail


async def test_health_of_an_engine_that_is_not_there():
    """A refused connection is an answer: down, and not live. So it is while the engine loads."""
    async with LoopbackEngine({}) as engine:
        adapter = adapter_for(engine.url)
    seen = await adapter.health()
    await adapter.aclose()

    assert (seen.live, seen.ready, seen.state) == (False, False, "down")
    assert "cannot connect" in seen.detail


@pytest.mark.parametrize(
    ("slots", "metrics", "free"),
    [(4, IDLE, 4), (4, BUSY, 0), (6, BUSY, 2), (6, Reply.capture(SHELF["err_unknown_path"]), None)],
)
async def test_props(slots: int, metrics: Reply, free: int | None):
    """Capabilities are the engine's own; how many slots it has is configured, how many are free it tells."""
    async with running({("GET", "/metrics"): metrics}, slots=slots) as (adapter, _):
        seen = await adapter.props()

    assert (seen.slots_total, seen.slots_free, seen.capabilities.slots) == (slots, free, slots)
    assert (seen.capabilities.engine_version, seen.capabilities.model_id) == ("0.32.0", "smollm2")
    assert seen.capabilities.ctx_max == 1024


async def test_props_where_slots_are_not_configured():
    """Nobody knows how many there are, nor how many are free."""
    async with running({}) as (adapter, engine):
        seen = await adapter.props()

    assert (seen.slots_total, seen.slots_free) == (None, None)
    assert [request.path for request in engine.requests] == ["/version", "/v1/models", "/openapi.json", "/metrics"]


GENERATES = {"/v1/completions": {}, "/v1/chat/completions": {}, "/health": {}}


@pytest.mark.parametrize(
    ("routes", "workloads", "chats"),
    [
        (Reply.json(200, {"openapi": "3.1.0", "paths": GENERATES}), ("completion",), True),
        (Reply.json(200, {"paths": {"/v1/completions": {"post": [1]}}}), ("completion",), False),
        (Reply.json(200, {"paths": {"/v1/embeddings": {}}}), ("embedding",), False),
        (Reply.json(200, {"paths": {"/v1/embeddings": {}, "/v1/rerank": {}}}), ("embedding", "rerank"), False),
        (Reply.capture(SHELF["err_unknown_path"]), ("completion",), True),
        (Reply.json(200, []), ("completion",), True),
    ],
    ids=["generates", "no chat", "embeds", "ranks", "not told", "nonsense"],
)
async def test_workloads_are_the_routes_there_are(routes: Reply, workloads: tuple[str, ...], chats: bool):
    """What the engine serves is read from its routes; one that hides them is taken to generate."""
    async with running({("GET", "/openapi.json"): routes}) as (adapter, _):
        seen = (await adapter.props()).capabilities

    assert seen.workloads == workloads
    assert ("chat" in seen.features) == chats
    assert ("seed" in seen.features) == ("completion" in workloads)


@pytest.mark.parametrize("path", ["/openapi.json", "/metrics"])
async def test_an_engine_that_does_not_answer_is_not_taken_for_one_without_the_route(path: str):
    """What an engine can do does not change because it is overloaded: then nobody knows, and it says so."""
    busy = Reply.json(503, {"error": {"message": "busy"}})
    async with LoopbackEngine({**GETS, ("GET", path): busy}) as engine:
        adapter = adapter_for(engine.url, http=IMPATIENT)
        with pytest.raises(PoolUnavailable, match="busy"):
            await adapter.props()
        await adapter.aclose()


def refused(head: str) -> Reply:
    return Reply.raw(f"HTTP/1.1 {head}\r\ncontent-length: 0\r\n\r\n".encode())


@pytest.mark.parametrize("path", ["/openapi.json", "/metrics"])
@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        (refused("302 Found\r\nlocation: /login"), "redirect"),
        (refused("200 OK\r\ncontent-encoding: gzip"), "encoding"),
        (Reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9000000\r\n\r\n" + bytes(9_000_000)), "too_large"),
        (Reply.raw(b"nonsense\r\n\r\n"), "decode"),
    ],
    ids=["redirected", "packed", "too large", "no HTTP"],
)
async def test_what_is_wrong_with_a_look_is_told(path: str, reply: Reply, detail: str):
    """What the user can mend, such as a proxy in the way, is told: it is no engine without the route."""
    async with LoopbackEngine({**GETS, ("GET", path): reply}) as engine:
        adapter = adapter_for(engine.url, http=IMPATIENT)
        with pytest.raises(AdapterError) as caught:
            await adapter.props()
        await adapter.aclose()

    assert caught.value.detail == detail


@pytest.mark.parametrize("path", ["/openapi.json", "/metrics"])
@pytest.mark.parametrize("status", ["401 Unauthorized", "403 Forbidden", "404 Not Found", "405 No", "501 No"])
async def test_a_look_that_is_refused(path: str, status: str):
    """An engine without the route, or a proxy that keeps it to itself, tells of all else."""
    async with running({("GET", path): refused(status)}, slots=4) as (adapter, _):
        seen = await adapter.props()

    assert seen.capabilities.model_id == "smollm2"
    assert (seen.slots_free is None) == (path == "/metrics")


async def test_the_version_is_asked_for_once():
    """It pins a replica set, and tasks need it: one look at the engine serves all, until props are asked anew."""
    stream = Reply.capture(SHELF["v1_completions_stream"])
    async with running({("POST", COMPLETIONS): stream}) as (adapter, engine):
        versions = [await adapter.engine_version(), await adapter.engine_version()]
        await outcome(adapter, TASKS[COMPLETIONS])

    assert versions == ["0.32.0"] * 2
    assert [request.path for request in engine.requests] == ["/version", "/v1/models", COMPLETIONS]


async def test_props_need_the_key():
    """Version, health and metrics stay open; the models do not, and a wrong key says so."""
    names = {
        ("GET", "/version"): Reply.capture(SHELF["key_version"]),
        ("GET", "/v1/models"): Reply.capture(SHELF["key_models"]),
    }
    async with running(names) as (adapter, _):
        with pytest.raises(AdapterError, match=r"401: Unauthorized .* set api_key"):
            await adapter.props()


async def test_an_engine_replaced_behind_its_url():
    """A model that is gone fails one task; the next one asks what is served now, and asks for that."""
    other = json.loads(SHELF["get_v1_models"].body.replace(b'"id":"smollm2"', b'"id":"other"'))
    models = [Reply.capture(SHELF["get_v1_models"]), Reply.json(200, other)]
    replies = [Reply.capture(SHELF["err_unknown_model"]), Reply.capture(SHELF["v1_completions_stream"])]
    async with running({("GET", "/v1/models"): models, ("POST", COMPLETIONS): replies}) as (adapter, engine):
        failed = await outcome(adapter, TASKS[COMPLETIONS])
        served = await outcome(adapter, TASKS[COMPLETIONS])

    assert failed.failure == "ADAPTER not_found"
    assert served.end is not None
    assert [request.json()["model"] for request in engine.requests if request.method == "POST"] == ["smollm2", "other"]


def test_a_look_is_tried_again() -> None:
    """Props of an engine that was overloaded come with a later attempt, and so does its version (ORCH-3611)."""
    busy, version = Reply.json(503, {"error": {"message": "busy"}}), Reply.capture(SHELF["get_version"])

    async def main() -> None:
        async with running({("GET", "/version"): [busy, version, busy, busy, version]}) as (adapter, engine):
            assert (await adapter.props()).capabilities.model_id == "smollm2"
            adapter._known = None
            assert await adapter.engine_version() == "0.32.0"
            paths = [request.path for request in engine.requests]
            assert paths[:5] == ["/version", "/version", "/v1/models", "/openapi.json", "/metrics"]
            assert paths[5:] == ["/version", "/version", "/version", "/v1/models"]

    run_virtual(main())


async def test_health_asks_once() -> None:
    """Health answers at once, with what the engine says now."""
    async with running({("GET", "/health"): EMPTY_503}) as (adapter, engine):
        assert (await adapter.health()).state == "down"
        assert [request.path for request in engine.requests] == ["/health"]
