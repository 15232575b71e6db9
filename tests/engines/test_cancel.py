"""A cancel reaches a real engine, wherever in its work the task is."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from llama_orch_adapter_api import End, Token
from llama_orch_adapter_host import AdapterHost, TokenStream

from ..fleet import Life, told
from .real import CONTEXT, KIND, SLOTS, RealEngine, capabilities, endless, host, task

TRIES = 5
BAR = 0.5
"""Seconds from a cancel in decode until the slot is idle; asserted here at ten times that."""
SENT = 0.1
"""Seconds after which a prompt is with its engine, and far from its end. vLLM's metrics tell of it only later."""
LONG = "and then the next " * (CONTEXT // 5)
PREFILL = 60.0
"""Seconds that an engine may take for a whole prompt that it does not let go of."""


async def tokens(stream: TokenStream, count: int) -> None:
    """Read so many tokens."""
    async for event in stream:
        count -= isinstance(event, Token)
        if count == 0:
            return


async def by_cancel(front: AdapterHost) -> None:
    async with front.submit("chat", endless()) as stream:
        await tokens(stream, 3)
        receipt = await front.cancel("chat", stream.task_id)
        rest = [event async for event in stream]

    assert receipt.outcome == "cancelled"
    assert receipt.phase == "decode"
    assert [event.finish_reason for event in rest if isinstance(event, End)] == ["cancelled"]
    assert len(rest) == 1


async def by_leaving(front: AdapterHost) -> None:
    async with front.submit("chat", endless()) as stream:
        await tokens(stream, 3)


async def by_the_callers_task(front: AdapterHost) -> None:
    reading = asyncio.Event()

    async def call() -> None:
        async with front.submit("chat", endless()) as stream:
            await tokens(stream, 3)
            reading.set()
            await tokens(stream, CONTEXT)

    caller = asyncio.create_task(call())
    await reading.wait()
    caller.cancel()
    await asyncio.wait([caller])

    assert caller.cancelled()


@pytest.mark.parametrize("road", [by_cancel, by_leaving, by_the_callers_task])
async def test_in_decode(engine: RealEngine, road: Callable[[AdapterHost], Awaitable[None]]):
    """Battery 39, ORCH-3601: by every road, a cancel in decode makes the slot idle in half a second."""
    spans = []
    async with host(engine) as front:
        for _ in range(TRIES):
            await road(front)
            spans.append(await engine.idle(30))

    assert None not in spans
    print(told(f"{KIND} is idle after a cancel in decode, {road.__name__}", spans))
    assert max(spans) < 10 * BAR


async def test_the_receipt_tells_when_the_engine_is_idle(engine: RealEngine):
    """Battery 39, ORCH-3601: `receipt.idle()` returns once the engine itself says that nothing works, and how long."""
    spans = []
    async with host(engine) as front:
        assert "confirms_cancel" in (await capabilities(front)).features
        for _ in range(TRIES):
            async with front.submit("chat", endless()) as stream:
                await tokens(stream, 3)
                assert await engine.holds() == 1
                receipt = await front.cancel("chat", stream.task_id)
                spans.append(await receipt.idle())
                assert await engine.holds() == 0

    assert None not in spans
    print(told(f"{KIND} is told to be idle after a cancel in decode", [span / 1000 for span in spans]))
    assert max(spans) < 10_000 * BAR


async def test_in_prefill(engine: RealEngine):
    """Battery 39: a caller who cancels in prefill is let go at once, and the engine takes the next task after it."""
    async with host(engine) as front:
        call = task(LONG, 64)
        waiting = asyncio.ensure_future(front.submit("chat", call))
        await asyncio.sleep(SENT)
        began = time.monotonic()
        receipt = await front.cancel("chat", call.task_id)
        events = [event async for event in await waiting]
        let_go = time.monotonic() - began
        idle = await engine.idle(PREFILL)
        after = await Life(task("Once upon a time", 4)).live(front)

    print(f"{KIND}, cancelled in prefill: the caller goes on after {1000 * let_go:.0f} ms, idle after {idle} s")
    assert receipt.outcome == "cancelled"
    assert receipt.phase in ("connect", "first_token")
    assert [type(event) for event in events][-1] is End
    assert events[-1].finish_reason == "cancelled"
    assert not any(isinstance(event, Token) for event in events)
    assert let_go < 10 * BAR
    assert idle is not None
    assert after.name == "length"


async def test_in_the_queue(engine: RealEngine):
    """Battery 39: a task that waits in the engine can be cancelled there, and those that run do not feel it."""
    async with host(engine) as front:
        running = [asyncio.ensure_future(front.submit("chat", endless())) for _ in range(SLOTS)]
        streams = await asyncio.gather(*running)
        call = endless("It was a dark night")
        waiting = asyncio.ensure_future(front.submit("chat", call))
        await working(engine, SLOTS + 1)
        began = time.monotonic()
        receipt = await front.cancel("chat", call.task_id)
        events = [event async for event in await waiting]
        let_go = time.monotonic() - began
        for stream in streams:
            await tokens(stream, 3)
        for stream in streams:
            await stream.aclose()
        idle = await engine.idle(PREFILL)

    print(f"{KIND}, cancelled in the queue: the caller goes on after {1000 * let_go:.0f} ms, idle after {idle} s")
    assert receipt.outcome == "cancelled"
    assert [event.finish_reason for event in events if isinstance(event, End)] == ["cancelled"]
    assert not any(isinstance(event, Token) for event in events)
    assert let_go < 10 * BAR
    assert idle is not None


async def working(engine: RealEngine, count: int) -> None:
    """Wait until the engine holds so many tasks."""
    async with asyncio.timeout(PREFILL):
        while await engine.holds() < count:
            await asyncio.sleep(0.01)
