"""How often the engine is asked about itself: again and again for a look, once on a task's way (ORCH-3611)."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
from llama_orch_adapter_api import AdapterContext, End, PoolUnavailable, TaskRequest, Timeouts, WorkerError
from llama_orch_adapter_llamacpp._adapter import LlamaCppAdapter, LlamaCppConfig
from llama_orch_adapter_testkit import LoopbackEngine, Reply, captures, run_virtual

TASK = TaskRequest(prompt="Hi")
PROPS = Reply.capture(captures.load("llamacpp", "get_props"))
SLOTS = Reply.capture(captures.load("llamacpp", "get_slots_idle"))
STREAM = Reply.capture(captures.load("llamacpp", "completion_stream"))
LOADING = Reply.capture(captures.load("llamacpp", "loading_get_props"))


@asynccontextmanager
async def asked(
    props: Reply | Sequence[Reply], http: Mapping[str, Any] | None = None
) -> AsyncIterator[tuple[LlamaCppAdapter, LoopbackEngine]]:
    """An adapter and its engine, which answers so when it is asked about itself."""
    script = {("GET", "/health"): props, ("GET", "/props"): props, ("GET", "/slots"): SLOTS}
    async with LoopbackEngine({**script, ("POST", "/completion"): STREAM}) as engine:
        config = LlamaCppConfig(url=engine.url)
        adapter = LlamaCppAdapter(AdapterContext("pool", "r0", config, Timeouts(), http or {}, time.monotonic, print))
        try:
            yield adapter, engine
        finally:
            await adapter.aclose()


def paths(engine: LoopbackEngine) -> list[str]:
    return [request.path for request in engine.requests]


def test_a_look_is_tried_again() -> None:
    """Props of an engine that was loading come with a later attempt; so does its version (ORCH-3611)."""

    async def main() -> None:
        async with asked([LOADING, PROPS, LOADING, LOADING, PROPS]) as (adapter, engine):
            assert (await adapter.props()).slots_total == 2
            assert paths(engine) == ["/props", "/props", "/slots"]
            adapter._known = None
            assert await adapter.engine_version() == "b0-unknown"
            assert paths(engine)[3:] == ["/props", "/props", "/props", "/slots"]

    run_virtual(main())


@pytest.mark.parametrize(("http", "attempts"), [({}, 3), ({"retry": {"attempts": 1}}, 1), ({"retry": {"cap": 5}}, 3)])
def test_a_look_gives_up(http: Mapping[str, Any], attempts: int) -> None:
    """As often as the pool's http.retry says, then the last failure is told with its attempts (ORCH-3611, 3612)."""

    async def main() -> None:
        async with asked(LOADING, http) as (adapter, engine):
            with pytest.raises(PoolUnavailable, match="Loading model") as caught:
                await adapter.props()

            assert caught.value.attempts == attempts
            assert paths(engine) == ["/props"] * attempts

    run_virtual(main())


async def test_a_task_asks_once() -> None:
    """What a task must know first is asked for once: the attempt is the host's, which retries the whole."""
    async with asked([LOADING, PROPS]) as (adapter, engine):
        with pytest.raises(WorkerError, match="Loading model"):
            await anext(adapter.submit(TASK))
        assert paths(engine) == ["/props"]

        assert isinstance([event async for event in adapter.submit(TASK)][-1], End)
        assert paths(engine)[1:] == ["/props", "/slots", "/completion"]


async def test_health_asks_once() -> None:
    """Health answers at once, with what the engine says now."""
    async with asked([LOADING, PROPS]) as (adapter, engine):
        assert (await adapter.health()).state == "loading"
        assert paths(engine) == ["/health"]


def test_a_look_that_is_given_up() -> None:
    """Who cancels a look between two attempts ends it at once, and the engine is not asked again (ORCH-3611)."""

    async def main() -> None:
        patient = {"retry": {"base": 100, "cap": 100, "patience": 1000}}
        waits = Reply.json(503, {"error": {"message": "Loading model"}}, headers={"Retry-After": "50"})
        async with asked(waits, patient) as (adapter, engine):
            look = asyncio.create_task(adapter.props())
            await engine.request()
            await asyncio.sleep(40)
            look.cancel()
            with pytest.raises(asyncio.CancelledError):
                await look

            assert asyncio.get_running_loop().time() < 41
            assert paths(engine) == ["/props"]

    run_virtual(main())
