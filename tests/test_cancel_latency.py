"""How soon an engine in a process of its own sees that nobody listens any more."""

import asyncio
import gc
import os
import time
from typing import Any

import pytest
from llama_orch_adapter_api import TaskRequest, Token
from llama_orch_adapter_host import AdapterHost
from llama_orch_adapter_testkit import Behaviour, cases, dice

from .fleet import ENDLESS, back_to, census, fleet, left, task, told

AT_ONCE = 4
NIGHT = bool(os.environ.get("NIGHTLY"))


class Reader:
    """Reads one task's stream until it ends, in a task of its own."""

    def __init__(self, host: AdapterHost, request: TaskRequest) -> None:
        self.request = request
        self.tokens = 0
        self.reading = asyncio.create_task(self._read(host))

    async def _read(self, host: AdapterHost) -> None:
        async with host.submit("chat", self.request) as stream:
            async for event in stream:
                self.tokens += isinstance(event, Token)


async def by_call(host: AdapterHost, request: TaskRequest, pause: float) -> tuple[float, int]:
    """Cancel by `host.cancel`: the moment, and how many tokens came after the answer."""
    reader = Reader(host, request)
    await asyncio.sleep(pause)
    moment = time.monotonic()
    receipt = await host.cancel("chat", request.task_id)
    had = reader.tokens
    await reader.reading
    assert receipt.outcome == "cancelled"
    return moment, reader.tokens - had


async def by_the_callers_end(host: AdapterHost, request: TaskRequest, pause: float) -> tuple[float, int]:
    """Cancel the task that reads."""
    reader = Reader(host, request)
    await asyncio.sleep(pause)
    moment = time.monotonic()
    reader.reading.cancel()
    had = reader.tokens
    with pytest.raises(asyncio.CancelledError):
        await reader.reading
    return moment, reader.tokens - had


async def by_leaving(host: AdapterHost, request: TaskRequest, pause: float) -> tuple[float, int]:
    """Leave the block."""
    async with host.submit("chat", request) as stream:
        until = time.monotonic() + pause
        while time.monotonic() < until:
            await anext(stream)
        moment = time.monotonic()
    late = [event async for event in stream if isinstance(event, Token)]
    return moment, len(late)


ROADS = (by_call, by_the_callers_end, by_leaving)


@pytest.mark.nightly
@pytest.mark.timeout(1800 if NIGHT else 120)
@pytest.mark.parametrize("dialect", ["llamacpp", "vllm"])
async def test_cancel_latency(dialect: Any):
    """Battery 9, ORCH-3601: cancelled at any point by any road, the engine sees it at once, the caller no token."""
    chance = dice()
    moments: dict[str, float] = {}
    late = 0

    async def cancel_some(host: AdapterHost, numbers: range) -> None:
        nonlocal late
        for number in numbers:
            request = task(str(number), prefill=chance.choice([0, 0.005]), pace=0.001)
            moments[str(number)], after = await chance.choice(ROADS)(host, request, chance.uniform(0, 0.02))
            late += after

    count = cases(1000, nightly=10_000) // 2
    async with fleet(Behaviour(dialect=dialect, slots=ENDLESS)) as (host, [engine]):
        await asyncio.gather(*(cancel_some(host, range(first, count, AT_ONCE)) for first in range(AT_ONCE)))
        report = await engine.report()
        seen = {each.subject: each for each in report.ended} | await left(engine, {e.subject for e in report.live}, 5)
    spans = [each.ended - moments[subject] for subject, each in seen.items() if each.ended is not None]

    print(told(f"cancel_latency {dialect}, {count} cancels, {len(spans)} seen by the engine", spans))
    assert late == 0
    assert len(spans) > count / 5
    assert [each for each in seen.values() if each.ending != "left"] == []
    assert sorted(spans)[int(0.99 * len(spans))] < 10 * 0.005
    assert max(spans) < 10 * 0.250


async def drop(host: AdapterHost, subject: str, events: int) -> float:
    """Read some events and forget the stream; the moment."""
    stream = await host.submit("chat", task(subject, pace=0.002))
    for _ in range(events):
        await anext(stream)
    return time.monotonic()


@pytest.mark.timeout(120)
@pytest.mark.parametrize("dialect", ["llamacpp", "vllm"])
async def test_a_dropped_stream_frees_its_engine(dialect: Any):
    """Battery 12, ORCH-3601: a stream abandoned without `aclose` frees its engine soon, and nothing complains of it."""
    chance = dice()
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    before = census()
    moments: dict[str, float] = {}

    async def drop_some(host: AdapterHost, numbers: range) -> None:
        for number in numbers:
            moments[str(number)] = await drop(host, str(number), chance.randint(0, 4))

    async with fleet(Behaviour(dialect=dialect, slots=ENDLESS)) as (host, [engine]):
        await asyncio.gather(*(drop_some(host, range(first, 500, AT_ONCE)) for first in range(AT_ONCE)))
        seen = await left(engine, set(moments), 5)
        live = (await engine.report()).live
    gc.collect()
    spans = [each.ended - moments[subject] for subject, each in seen.items() if each.ended is not None]

    print(told(f"dropped_iterator {dialect}, {len(spans)} abandoned", spans))
    assert (len(spans), live) == (500, ())
    assert max(spans) < 10 * 0.100
    assert complaints == []
    assert await back_to(before) == before
