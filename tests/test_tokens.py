"""Whose tokens come, in which order, and how often, when engines break in the middle."""

import asyncio
import os
from collections import Counter, defaultdict

import pytest
from llama_orch_adapter_api import Timeouts, WorkerReset
from llama_orch_adapter_host import FlightRecord, PoolPolicy, RetryPolicy
from llama_orch_adapter_testkit import Behaviour, Seen, cases, dice

from .fleet import NEVER_OPENS, Life, fleet, task

AT_ONCE = 16
REFUSALS = {500: 0.15}
EAGER = RetryPolicy(budget=10_000, base=0.001)
ENGINES = [
    Behaviour(dialect=dialect, slots=64, refuse=REFUSALS, seed=seed)
    for seed, dialect in enumerate(("llamacpp", "vllm", "llamacpp", "vllm"))
]


def at_once(visits: list[Seen]) -> int:
    """How many of them overlapped at most."""
    ended = [each.ended for each in visits if each.ended is not None]
    return max(
        sum(other.began <= each.began < end for other, end in zip(visits, ended, strict=True)) for each in visits
    )


@pytest.mark.nightly
@pytest.mark.timeout(1800 if os.environ.get("NIGHTLY") else 60)
async def test_no_token_twice_and_no_task_twice():
    """Battery 15, 16, ORCH-3602: whatever breaks, no token is lost or comes twice, one copy lives."""
    chance = dice()
    lives: list[Life] = []
    for number in range(cases(800, nightly=20_000)):
        kind = chance.choice(["none", "reset", "limit_data"])
        toxics = [] if kind == "none" else [{"kind": kind, "after": chance.randint(0, 3000)}]
        lives.append(Life(task(str(number), max_tokens=chance.randint(1, 20), toxics=toxics)))
    waiting = iter(lives)
    visits: defaultdict[str, list[Seen]] = defaultdict(list)

    async def some() -> None:
        for life in waiting:
            await life.live(host)

    policy = PoolPolicy(retry=EAGER, breaker=NEVER_OPENS)
    async with fleet(*ENGINES, policy=policy, timeouts=Timeouts(first_token=5)) as (host, engines):
        records: list[FlightRecord] = []
        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        for life in lives:
            record = host.explain(life.task.task_id)
            assert record is not None or len(lives) > 1000
            records += [record] if record is not None else []
        await asyncio.sleep(0.1)
        for engine in engines:
            for each in (await engine.report()).ended:
                visits[each.subject].append(each)
    attempts = sum(len(record.attempts) for record in records)

    print(f"{len(lives)} tasks, {attempts} attempts; {dict(Counter(life.name for life in lives))}")
    assert [life.task.prompt for life in lives if not life.is_whole() or life.endings != 1] == []
    assert [life.name for life in lives if life.tokens and life.error and not isinstance(life.error, WorkerReset)] == []
    assert [r.lines() for r in records for each in r.attempts[:-1] if each.first_token is not None] == []
    assert max(at_once(each) for each in visits.values()) == 1
    assert attempts > len(records)
    assert {"length", "WORKER_RESET truncated"} <= {life.name for life in lives}
