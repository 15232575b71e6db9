"""Servers that drop kept connections whenever it hurts."""

import asyncio
import os
from collections import Counter
from dataclasses import replace

import pytest
from llama_orch_adapter_host import PoolPolicy
from llama_orch_adapter_testkit import Behaviour, cases, dice

from .fleet import NO_BUDGET, Life, fleet, task

AT_ONCE = 8
RUDE = Behaviour(dialect="vllm", slots=AT_ONCE, idle=5.0, per_connection=100, reset_reused=5)


@pytest.mark.nightly
@pytest.mark.timeout(1800 if os.environ.get("NIGHTLY") else 60)
@pytest.mark.parametrize("rude", [RUDE, replace(RUDE, idle=0.01, reset_reused=0)], ids=["resets", "closes at 10 ms"])
async def test_keepalive_race(rude: Behaviour):
    """Battery 26, ORCH-3602: kept connections that break cost no caller anything, no budget, and no second answer."""
    chance = dice()
    lives = [Life(task(str(number), max_tokens=2)) for number in range(cases(300, nightly=10_000))]
    waiting = iter(lives)

    async def some() -> None:
        for life in waiting:
            await life.live(host)
            await asyncio.sleep(chance.uniform(0, 0.1))

    async with fleet(rude, policy=PoolPolicy(retry=NO_BUDGET)) as (host, [engine]):
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        report = await engine.report()
        records = [host.explain(life.task.task_id) for life in lives]
    stale = sum(attempt.outcome == "stale" for record in records if record is not None for attempt in record.attempts)
    generations = Counter(each.subject for each in (*report.ended, *report.live))

    print(f"keepalive_race: {len(lives)} POSTs on {report.connections_made} connections, {stale} stale retries")
    assert Counter(life.name for life in lives) == {"length": len(lives)}
    assert [life.task.prompt for life in lives if not life.is_whole() or len(life.tokens) != 2] == []
    assert generations == dict.fromkeys((life.task.prompt for life in lives), 1)
    assert (report.resets_of_reused > 0) == (rude.reset_reused > 0)  # aiohttp repeats the GETs among them
