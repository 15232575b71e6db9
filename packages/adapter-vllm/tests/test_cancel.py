"""A cancel is told of when no more tasks are in the engine than others of ours decode (ORCH-3601)."""

from collections.abc import AsyncGenerator
from typing import cast

import pytest
from llama_orch_adapter_api import AdapterError, DecodeTimeout, TaskRequest, Token, TokenEvent
from llama_orch_adapter_testkit import Reply, all_kinds_of_cuts, run_virtual
from llama_orch_adapter_vllm import VllmAdapter

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    COMPLETIONS,
    SHELF,
    TASKS,
    running,
)

ONE = SHELF["v1_completions_stream"]
HUNG = Reply.capture(ONE, stop_after=all_kinds_of_cuts(ONE.response)["events"][2], hang=True)
IDLE, BUSY = Reply.capture(SHELF["get_metrics_idle"]), Reply.capture(SHELF["get_metrics_busy"])
MINE, OTHER = TASKS[COMPLETIONS], TaskRequest(prompt="other")


def metrics(running: int, waiting: int) -> Reply:
    text = b"vllm:num_requests_running %d\nvllm:num_requests_waiting %d\n" % (running, waiting)
    return Reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(text), text))


async def begun(adapter: VllmAdapter, task: TaskRequest) -> AsyncGenerator[TokenEvent, None]:
    """The task's stream, its first token taken."""
    stream = cast("AsyncGenerator[TokenEvent, None]", adapter.submit(task))
    while not isinstance(await anext(stream), Token):
        pass
    return stream


async def test_the_engine_is_asked_until_it_is_idle():
    """Its captured metrics, busy and idle: what is waiting counts as well."""
    script = {("POST", COMPLETIONS): HUNG, ("GET", "/metrics"): [BUSY, metrics(0, 1), IDLE]}
    async with running(script) as (adapter, engine):
        await (await begun(adapter, MINE)).aclose()
        await adapter.cancel(MINE.task_id)

    assert [request.path for request in engine.requests].count("/metrics") == 3


async def test_others_of_ours_may_go_on():
    """As many tasks as others decode: none of them is the one that was cancelled."""
    script = {("POST", COMPLETIONS): HUNG, ("GET", "/metrics"): [metrics(2, 0), metrics(1, 0)]}
    async with running(script) as (adapter, engine):
        other, mine = await begun(adapter, OTHER), await begun(adapter, MINE)
        await mine.aclose()
        await adapter.cancel(MINE.task_id)
        assert [request.path for request in engine.requests].count("/metrics") == 2
        await other.aclose()


def test_one_of_ours_that_has_not_begun_does_not_count():
    """The engine may not have seen it yet, so that what it works on may be the cancelled task: that is not claimed."""

    async def main() -> None:
        head = all_kinds_of_cuts(ONE.response)["head"][-1]
        silent = Reply.capture(ONE, stop_after=head, hang=True)
        script = {("POST", COMPLETIONS): [HUNG, silent], ("GET", "/metrics"): metrics(1, 0)}
        async with running(script) as (adapter, _):
            mine, other = await begun(adapter, MINE), cast("AsyncGenerator[TokenEvent, None]", adapter.submit(OTHER))
            await anext(other)
            await mine.aclose()
            with pytest.raises(DecodeTimeout, match="nobody saw the engine let go"):
                await adapter.cancel(MINE.task_id)
            await other.aclose()

    run_virtual(main())


async def test_an_engine_without_metrics_cannot_tell():
    """It says so at once."""
    absent = Reply.capture(SHELF["err_unknown_path"])
    async with running({("POST", COMPLETIONS): HUNG, ("GET", "/metrics"): absent}) as (adapter, _):
        await (await begun(adapter, MINE)).aclose()
        with pytest.raises(AdapterError, match="404: Not Found"):
            await adapter.cancel(MINE.task_id)
