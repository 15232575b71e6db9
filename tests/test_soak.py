"""Many requests, some cancelled and some reset, and what remains of them."""

import asyncio
import gc
import os
from collections import Counter

import pytest
from llama_orch_adapter_host import AdapterHost, PoolPolicy, _ledger
from llama_orch_adapter_testkit import Behaviour, cases, dice

from .fleet import ENDLESS, NEVER_OPENS, Census, Life, back_to, census, fleet, resident, task

MIB = 1 << 20
AT_ONCE = 16
NIGHT = bool(os.environ.get("NIGHTLY"))
WARM_UP = cases(1000, nightly=20_000)


@pytest.mark.nightly
@pytest.mark.timeout(14_400 if NIGHT else 120)
async def test_soak(monkeypatch: pytest.MonkeyPatch):
    """Battery 37, ORCH-3602: after 10 % cancels and 5 % resets, memory, descriptors and tasks are as they were."""
    monkeypatch.setattr(_ledger, "REMEMBERED", 512)  # full after the warm-up, which else would take 4,096
    chance = dice()
    names: Counter[str] = Counter()

    async def one(host: AdapterHost, number: int) -> None:
        kind = chance.random()
        reset = {"toxics": [{"kind": "reset", "after": chance.randint(0, 900)}]}
        request = task(str(number), max_tokens=4 if kind > 0.1 else ENDLESS, **(reset if 0.1 < kind < 0.15 else {}))
        life = Life(request)
        living = asyncio.create_task(life.live(host))
        if kind < 0.1:
            await asyncio.sleep(chance.uniform(0, 0.01))
            await host.cancel("chat", request.task_id)
        await living
        names[life.name] += 1
        assert life.endings == 1
        assert life.is_whole()

    async def many(host: AdapterHost, count: int) -> Census:
        numbers = iter(range(count))

        async def some() -> None:
            for number in numbers:
                await one(host, number)

        await asyncio.gather(*(some() for _ in range(AT_ONCE)))
        await asyncio.sleep(0.2)
        gc.collect()
        return census()

    policy = PoolPolicy(breaker=NEVER_OPENS)
    before = census()
    engines = [Behaviour.of({"dialect": dialect, "slots": ENDLESS}) for dialect in ("llamacpp", "vllm")]
    async with fleet(*engines, policy=policy) as (host, processes):
        warm = await many(host, WARM_UP)
        memory = resident()
        count = cases(3000, nightly=1_000_000)
        after = warm
        for _ in range(0, count, 1000):
            after = await many(host, 1000)
            for process in processes:
                await process.report()  # so that it need not remember
        grown = resident() - memory

    print(f"soak: {count} requests, RSS {grown / MIB:+.2f} MiB, {warm} → {after}; {dict(names)}")
    assert grown < 5 * MIB
    assert after.tasks == warm.tasks
    assert abs(after.descriptors - warm.descriptors) <= 2 * AT_ONCE  # kept connections come and go
    assert names["cancelled"] > count / 20
    assert names["WORKER_RESET reset"] > 0
    assert await back_to(before) == before
