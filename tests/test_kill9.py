"""An engine that is killed at any byte of its output, under eight streams."""

import asyncio
import os
import time
from collections import Counter

import pytest
from llama_orch_adapter_api import WorkerReset
from llama_orch_adapter_testkit import Behaviour, cases, dice

from .fleet import Life, back_to, census, fleet, task, told

STREAMS = 8
HUNG = 1.0
BEFORE_A_TOKEN = {"WORKER_RESET reset", "WORKER_RESET truncated", "POOL_UNAVAILABLE unreachable"}


@pytest.mark.nightly
@pytest.mark.timeout(3600 if os.environ.get("NIGHTLY") else 120)
async def test_kill9_random_byte():
    """Battery 1, ORCH-3602: an engine killed at a random byte ends all its streams within 1 s and leaves no trace."""
    chance = dice()
    before = census()
    names: Counter[str] = Counter()
    late: list[float] = []
    numbers = iter(range(cases(40, nightly=500)))

    async def rounds() -> None:
        for number in numbers:
            at = chance.randint(1, chance.choice([3000, 60_000]))
            lives, spans = await killed(
                Behaviour(dialect=("llamacpp", "vllm")[number % 2], slots=STREAMS, die_after=at)
            )
            late.extend(spans)
            names.update(life.name for life in lives)
            for life in lives:
                assert life.is_whole(), at
                assert life.endings == 1, at
                assert isinstance(life.error, WorkerReset) if life.tokens else life.name in BEFORE_A_TOKEN, (
                    at,
                    life.name,
                )

    await asyncio.gather(rounds(), rounds())

    print(f"kill9_random_byte: 0 hung; {told('ended after their engine', late)}; {dict(names)}")
    assert await back_to(before) == before


async def killed(behaviour: Behaviour) -> tuple[list[Life], list[float]]:
    """Eight endless streams of an engine that kills itself, and how long after it each ended."""
    async with fleet(behaviour) as (host, [engine]):
        lives = [Life(task(f"{behaviour.die_after}-{number}")) for number in range(STREAMS)]
        running = [asyncio.create_task(life.live(host)) for life in lives]
        code = await engine.ended()
        died = time.monotonic()
        _, hung = await asyncio.wait(running, timeout=HUNG)
        for each in hung:
            each.cancel()
        assert (code, len(hung)) == (-9, 0), behaviour
    return lives, [life.moment - died for life in lives]
