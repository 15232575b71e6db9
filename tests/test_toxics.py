"""Answers that the network spoils in seven ways."""

import asyncio
import os
import random
import time
from collections import Counter
from typing import Any

import pytest
from llama_orch_adapter_api import Timeouts
from llama_orch_adapter_host import AdapterHost, PoolPolicy
from llama_orch_adapter_testkit import Behaviour

from .fleet import NEVER_OPENS, Life, back_to, census, fleet, task

SEEDS = range(200 if os.environ.get("NIGHTLY") else 10)
KINDS = ("latency", "bandwidth", "slow_close", "timeout", "reset", "slicer", "limit_data")
LIMITS = Timeouts(connect=1.0, first_token=0.5, idle=0.5)
HUNG = 1.0
TOKENS = 10
AT_ONCE = 4
MAPPED = {
    "length",
    "WORKER_RESET reset",
    "WORKER_RESET truncated",
    "DECODE_TIMEOUT first_token",
    "DECODE_TIMEOUT idle",
}


def toxics(chance: random.Random) -> dict[str, dict[str, Any]]:
    """One of each kind, from anywhere in the answer on."""
    return {
        kind: {
            "kind": kind,
            "after": chance.choice([0, chance.randint(0, 2000)]),
            "seconds": chance.choice([0, chance.uniform(0, 0.03)]),
            "rate": chance.randint(20_000, 200_000),
            "size": chance.randint(1, 50),
        }
        for kind in KINDS
    }


@pytest.mark.nightly
@pytest.mark.timeout(3600 if os.environ.get("NIGHTLY") else 120)
@pytest.mark.parametrize("dialect", ["llamacpp", "vllm", "openai"])
async def test_toxics(dialect: Any):
    """Battery 38, ORCH-3602: a spoilt answer is whole, or a failure of the table, and never hangs; each by its seed."""
    before = census()
    names: Counter[tuple[str, str]] = Counter()
    seeds = iter(SEEDS)

    async def some(host: AdapterHost) -> None:
        for seed in seeds:
            names.update(await spoilt_by(seed, host))

    policy = PoolPolicy(breaker=NEVER_OPENS)
    async with fleet(Behaviour(dialect=dialect, slots=64), policy=policy, timeouts=LIMITS) as (host, _):
        await asyncio.gather(*(some(host) for _ in range(AT_ONCE)))

    print(f"toxics {dialect}, {len(SEEDS)} seeds: {dict(sorted(names.items()))}")
    assert names["slow_close", "length"] == len(SEEDS)
    assert names["limit_data", "WORKER_RESET truncated"] > 0
    assert names["reset", "WORKER_RESET truncated"] + names["reset", "WORKER_RESET reset"] > 0
    assert names["timeout", "DECODE_TIMEOUT idle"] + names["timeout", "DECODE_TIMEOUT first_token"] > 0
    assert await back_to(before) == before


async def spoilt_by(seed: int, host: AdapterHost) -> list[tuple[str, str]]:
    """How a task ended under each kind of toxic."""
    spoilt = toxics(random.Random(seed))
    lives = {kind: Life(task(f"{seed}-{kind}", max_tokens=TOKENS, toxics=[each])) for kind, each in spoilt.items()}
    running = [asyncio.create_task(life.live(host)) for life in lives.values()]
    began = time.monotonic()
    _, hung = await asyncio.wait(running, timeout=20)
    took = time.monotonic() - began

    assert hung == set(), f"seed {seed}"
    for kind, life in lives.items():
        assert life.name in MAPPED, (seed, spoilt[kind], str(life.error))
        assert life.is_whole(), (seed, spoilt[kind])
        assert life.endings == 1, (seed, spoilt[kind])
        assert len(life.tokens) == TOKENS or life.error is not None, (seed, spoilt[kind])
    assert took < slowest(spoilt) + HUNG, f"seed {seed}"
    return [(kind, life.name) for kind, life in lives.items()]


def slowest(spoilt: dict[str, dict[str, Any]]) -> float:
    """Seconds that the slowest of them may take: a spoilt answer that goes on goes on, and silence has its limit."""
    size = 4000
    slow = (TOKENS + 3) * spoilt["latency"]["seconds"]
    narrow = size / spoilt["bandwidth"]["rate"]
    sliced = (size / spoilt["slicer"]["size"]) * (spoilt["slicer"]["seconds"] + 0.001)
    return max(slow, narrow, sliced, LIMITS.first_token, LIMITS.idle)
