"""A thousand streams on one host, and consumers that stop."""

import asyncio
import os
import resource
import time
from collections.abc import Iterator

import pytest
from llama_orch_adapter_api import Token
from llama_orch_adapter_host import AdapterHost, TokenStream
from llama_orch_adapter_testkit import Behaviour, cases

from .fleet import ENDLESS, back_to, census, fleet, left, quantile, resident, task, told

MIB = 1 << 20
OPEN = 1000
AT_ONCE = 100
PADDING = 1000
NIGHT = bool(os.environ.get("NIGHTLY"))


@pytest.fixture(autouse=True)
def _many_descriptors() -> Iterator[None]:
    """As many descriptors as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def opened(host: AdapterHost, count: int, **fake: object) -> list[TokenStream]:
    """So many streams, each past its first token."""
    streams: list[TokenStream] = []
    for first in range(0, count, AT_ONCE):
        some = range(first, min(first + AT_ONCE, count))
        streams += await asyncio.gather(*(host.submit("chat", task(str(number), **fake)) for number in some))
    return streams


@pytest.mark.timeout(120)
@pytest.mark.parametrize("dialect", ["llamacpp", "vllm"])
async def test_pool_starvation(dialect: str):
    """Battery 27, ORCH-3601: with 1,000 streams open, health and cancel are answered as ever."""
    before = census()
    async with fleet(Behaviour.of({"dialect": dialect, "slots": 2 * OPEN, "pace": 5.0})) as (host, [engine]):
        streams = await opened(host, OPEN)
        connections = (await engine.report()).connections
        asked: list[float] = []
        cancelled: list[float] = []
        for stream in streams[:50]:
            began = time.monotonic()
            health = await host.health("chat")
            asked.append(time.monotonic() - began)
            assert health["0"].ready
            began = time.monotonic()
            receipt = await host.cancel("chat", stream.task_id)
            cancelled.append(time.monotonic() - began)
            assert receipt.outcome == "cancelled"
        seen = await left(engine, {str(number) for number in range(50)}, 5)
        await asyncio.gather(*(stream.aclose() for stream in streams))
        del streams, stream

    print(f"pool_starvation {dialect}, {connections} connections; {told('health', asked)}; {told('cancel', cancelled)}")
    assert connections >= OPEN
    assert max(asked) < 10 * 0.020
    assert max(cancelled) < 10 * 0.020
    assert len(seen) == 50
    assert await back_to(before) == before


async def delays(host: AdapterHost, name: str, tokens: int) -> list[float]:
    """How late each token of a paced stream was delivered."""
    spans = []
    async with host.submit("chat", task(name, max_tokens=tokens, pace=0.01, stamped=True)) as stream:
        async for event in stream:
            if isinstance(event, Token):
                made = float(event.t.split("@")[1])
                spans.append(time.monotonic() - made)
    return spans


@pytest.mark.nightly
@pytest.mark.timeout(600 if NIGHT else 60)
@pytest.mark.parametrize("dialect", ["llamacpp", "vllm"])
async def test_slow_consumer(dialect: str):
    """Battery 28, ORCH-3601: consumers that stop hold little back and hold nobody up; what they did not read waits."""
    stopped, others, tokens = cases(20, nightly=100), 10, cases(100, nightly=1000)
    frugal = Behaviour.of({"dialect": dialect, "slots": ENDLESS, "send_buffer": 64 * 1024})
    async with fleet(frugal) as (host, [engine]):
        alone = await asyncio.gather(*(delays(host, f"alone-{number}", tokens) for number in range(others)))
        memory = resident()
        streams = await opened(host, stopped, padding=PADDING)
        beside = await asyncio.gather(*(delays(host, f"beside-{number}", tokens) for number in range(others)))
        grown = resident() - memory
        live = {each.subject: each for each in (await engine.report()).live}
        in_flight = [seen.sent for seen in live.values()]
        read = [[(await anext(stream)) for _ in range(300)] for stream in streams[:3]]
        await asyncio.gather(*(stream.aclose() for stream in streams))
    usual, now = (quantile([span for spans in both for span in spans], 0.99) for both in (alone, beside))

    print(
        f"slow_consumer {dialect}, {stopped} stopped: at most {max(in_flight) / MIB:.2f} MiB in flight each, "
        f"RSS {grown / MIB:+.1f} MiB, the others' p99 {1000 * usual:.1f} → {1000 * now:.1f} ms"
    )
    assert len(in_flight) == stopped
    assert min(in_flight) > 300 * PADDING
    assert max(in_flight) <= 1_000_000
    assert grown < 64 * MIB
    assert now - usual < 10 * 0.005
    for number, events in enumerate(read):
        texts = [event.t.strip() for event in events if isinstance(event, Token)]
        assert texts == [f"{number}.{place}" for place in range(len(texts))]
