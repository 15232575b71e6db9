"""A cancel is told of when the engine's slot is idle (ORCH-3601)."""

import asyncio

import pytest
from llama_orch_adapter_api import AdapterError, DecodeTimeout, TaskRequest, Token
from llama_orch_adapter_llamacpp import LlamaCppAdapter
from llama_orch_adapter_testkit import Behaviour, FakeEngine, LoopbackEngine, Reply, all_kinds_of_cuts, run_virtual

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    NATIVE,
    SHELF,
    TASKS,
    adapter_for,
    running,
)

ONE = SHELF["completion_stream"]
HUNG = Reply.capture(ONE, stop_after=all_kinds_of_cuts(ONE.response)["events"][2], hang=True)
SILENT = Reply.capture(ONE, stop_after=all_kinds_of_cuts(ONE.response)["head"][-1], hang=True)


def slots(*seeds: int | None) -> Reply:
    """The engine's slots, each working on a task of that seed; None is idle."""
    told = [{"n_ctx": 2048, "is_processing": seed is not None, "params": {"seed": seed}} for seed in seeds]
    return Reply.json(200, told)


async def given_up(adapter: LlamaCppAdapter, reply: Reply) -> None:
    """The task's stream, closed after its first token where it has one, else after its head."""
    stream = adapter.submit(TASKS[NATIVE])
    async for event in stream:
        if isinstance(event, Token) or reply is SILENT:
            break
    await stream.aclose()  # type: ignore[attr-defined]  # submit gives an async generator


async def test_a_slot_is_waited_for():
    """Until no slot works on the task's seed; others may, as in the captured busy engine."""
    script = {
        ("POST", NATIVE): HUNG,
        ("GET", "/slots"): [slots(7, 8), slots(7, None), Reply.capture(SHELF["get_slots_busy"])],
    }
    async with running(script) as (adapter, engine):
        await given_up(adapter, HUNG)
        await adapter.cancel(TASKS[NATIVE].task_id)

    assert [request.path for request in engine.requests].count("/slots") == 3


async def test_a_task_without_a_token_may_be_queued():
    """Then an idle slot is waited for as well: nothing is queued in an engine that has one."""
    script = {("POST", NATIVE): SILENT, ("GET", "/slots"): [slots(8, 9), slots(8, 9), slots(8, None)]}
    async with running(script) as (adapter, engine):
        await given_up(adapter, SILENT)
        await adapter.cancel(TASKS[NATIVE].task_id)

    assert [request.path for request in engine.requests].count("/slots") == 3


async def test_tasks_of_one_seed_are_told_apart_by_number():
    """Two tasks of a seed are in two slots: one of them is gone when one slot is left."""
    twin = TaskRequest(prompt="twin", seed=7)
    script = {("POST", NATIVE): HUNG, ("GET", "/slots"): [slots(7, 7), slots(7, None)]}
    async with running(script) as (adapter, engine):
        stays = adapter.submit(twin)
        while not isinstance(await anext(stays), Token):
            pass
        await given_up(adapter, HUNG)
        await adapter.cancel(TASKS[NATIVE].task_id)
        assert [request.path for request in engine.requests].count("/slots") == 2
        await stays.aclose()  # type: ignore[attr-defined]  # as above


def test_a_prefill_is_not_cancelled():
    """The engine reads a prompt to its end: what takes longer than the host waits is not claimed."""

    async def main() -> None:
        async with running({("POST", NATIVE): SILENT, ("GET", "/slots"): slots(7, None)}) as (adapter, _):
            await given_up(adapter, SILENT)
            with pytest.raises(DecodeTimeout, match="nobody saw the engine let go"):
                await adapter.cancel(TASKS[NATIVE].task_id)

    run_virtual(main())


async def test_an_engine_without_slots_cannot_tell():
    """It says so at once."""
    off = Reply.capture(SHELF["off_slots"])
    async with running({("POST", NATIVE): HUNG, ("GET", "/slots"): off}) as (adapter, _):
        await given_up(adapter, HUNG)
        with pytest.raises(AdapterError, match="does not support slots"):
            await adapter.cancel(TASKS[NATIVE].task_id)


async def test_every_task_is_let_go():
    """Fifty tasks on four slots, all cancelled at once, in decode and in the queue: each is told of when it is gone."""
    behaviour = Behaviour(slots=4, pace=0.001, tokens=1_000_000)
    fake = FakeEngine(behaviour)
    async with LoopbackEngine(fake) as engine:
        adapter = adapter_for(engine.url)
        streams = {task.task_id: adapter.submit(task) for task in (TaskRequest(prompt=f"{n}") for n in range(50))}
        for stream in streams.values():
            await anext(stream)
        await asyncio.gather(*(stream.aclose() for stream in streams.values()))
        await asyncio.gather(*(adapter.cancel(task_id) for task_id in streams))

        assert {generation.ending for generation in fake.generations} == {"left"}
        await adapter.aclose()
