"""Battery 29: what a caller sees of a hundred rebinds."""

import asyncio
import random
from collections.abc import AsyncIterator
from typing import Any

import pytest
from llama_orch_adapter_api import End, TaskRequest, Timeouts, Token, TokenEvent, WorkerReset
from llama_orch_adapter_host import AdapterHost, PoolPolicy, ReloadError
from llama_orch_adapter_host._retry import RetryPolicy

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    DOWN,
    STARTED,
    Engine,
    Yard,
    end,
    run_many,
    task,
)

REBINDS = 100
STREAMS = 200
REPLICAS = 2
POLICY = PoolPolicy(retry=RetryPolicy(attempts=8))
SICK = "http://sick"


class Named(Engine):
    """Signs each token with its name, and takes `chance` for its pauses."""

    def __init__(self, name: str, chance: random.Random) -> None:
        super().__init__()
        self.name = name
        self.chance = chance
        if name.startswith(SICK):
            self.told = DOWN

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.begun += 1
        try:
            yield STARTED
            words = self.chance.randrange(1, 20)
            await asyncio.sleep(self.chance.random() * 0.5)
            for i in range(words):
                await asyncio.sleep(self.chance.random() * 0.2)
                yield Token(self.name, i)
            yield end(words)
        finally:
            self.freed += 1


class Load:
    """Streams that begin anew as soon as they end, until `over`."""

    def __init__(self, host: AdapterHost) -> None:
        self.host = host
        self.over = False
        self.whole = 0
        self.retried = 0
        self.cut = 0
        self.lost: list[object] = []
        self.wrong: list[object] = []

    async def run(self) -> None:
        while not self.over:
            await self.one()

    async def one(self) -> None:
        seen: list[Any] = []
        stream = None
        try:
            stream = await self.host.submit("chat", task())
            async for event in stream:
                seen.append(event)  # noqa: PERF401  # what came before a failure is looked at too
        except WorkerReset as error:
            if stream is None or error.detail != "drained" or not any(isinstance(each, Token) for each in seen):
                self.lost.append(error)
            self.cut += 1
        except Exception as error:  # noqa: BLE001  # whatever it is, it is a task lost
            self.lost.append(error)
        else:
            tokens = [event for event in seen if isinstance(event, Token)]
            if not isinstance(seen[-1], End) or [event.i for event in tokens] != list(range(seen[-1].tokens_out or 0)):
                self.lost.append(seen)
            self.whole += 1
        if stream is not None:
            attempt = stream.record.attempts[-1]
            signed = {event.t for event in seen if isinstance(event, Token)}
            if signed != {f"http://{attempt.replica}#{attempt.generation}"}:
                self.wrong.append((attempt, signed))
            self.retried += len(stream.record.attempts) > 1


async def under_load(seed: int, drain: float) -> tuple[Load, Yard, int, int]:
    chance = random.Random(seed)
    yard = Yard(lambda url: Named(url, chance))
    host = AdapterHost(plugins=yard.plugins)
    before_swap: list[tuple[Any, int]] = []
    limits = Timeouts(drain=drain, preload=0.5)
    generations = [1] * REPLICAS
    for i in range(REPLICAS):
        host.bind("chat", "words", {"url": f"http://chat/{i}#1"}, replica_id=str(i), timeouts=limits, policy=POLICY)
    failed = 0
    async with host:
        load = Load(host)
        readers = [asyncio.create_task(load.run()) for _ in range(STREAMS)]
        for _ in range(REBINDS):
            await asyncio.sleep(chance.random() * 0.2)
            which = chance.randrange(REPLICAS)
            generations[which] += 1
            if chance.random() < 0.1:
                before = {binding: binding.gate.draining for binding in host._registry.all()}
                with pytest.raises(ReloadError):
                    await host.rebind(
                        "chat", "words", {"url": SICK}, replica_id=str(which), policy=PoolPolicy(affinity=False)
                    )
                assert {binding: binding.gate.draining for binding in host._registry.all()} == before
                assert host._registry.pool("chat").policy == POLICY
                failed += 1
                generations[which] += 1
            url = f"http://chat/{which}#{generations[which]}"
            old = host._registry.binding("chat", str(which)).adapter
            await host.rebind("chat", "words", {"url": url}, replica_id=str(which))
            before_swap.append((old, old.begun))  # type: ignore[attr-defined]  # it is one of ours
        load.over = True
        await asyncio.gather(*readers)
        await asyncio.sleep(drain + 2)
        serving = [binding.adapter for binding in host._registry.all()]
        assert [adapter.closed for adapter in yard.built] == [adapter not in serving for adapter in yard.built]
        assert not any(binding.leases for binding in host._fleet.bindings())
        assert len(host._fleet.bindings()) == REPLICAS
    return load, yard, sum(old.begun - begun for old, begun in before_swap), failed


@pytest.mark.timeout(120)
@pytest.mark.parametrize("drain", [60.0, 0.3])
def test_rebind_under_load(drain: float):
    """Battery 29: 100 rebinds with 200 streams: 0 lost, 0 on the wrong adapter, old adapters closed exactly once.

    With a limit that is too short for many streams, those are cut that had a token, and no other: they are sent again.
    """
    seed = random.randrange(2**32)
    print(f"seed {seed}, drain {drain:g} s")
    load, yard, late, failed = run_many(under_load(seed, drain))
    print(
        f"battery 29: {REBINDS} rebinds with {STREAMS} streams, {failed} more failed: {load.whole} answers whole, "
        f"{load.cut} cut at the limit after a token, {load.retried} sent again, {len(load.lost)} lost, "
        f"{len(load.wrong) + late} on the wrong adapter, {len(yard.built)} adapters built, "
        f"{yard.closed.count(1)} closed once, {sum(n != 1 for n in yard.closed)} otherwise"
    )

    assert load.lost == []
    assert (load.wrong, late) == ([], 0)
    assert load.whole > STREAMS
    assert (load.cut > 0) == (load.retried > 0) == (drain < 1)
    assert len(yard.built) == REPLICAS + REBINDS + failed
    assert yard.closed == [1] * len(yard.built)
    assert all(adapter.open_at_close == [0] for adapter in yard.built)
