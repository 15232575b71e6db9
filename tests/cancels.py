"""The roads by which a task is cancelled: each gives the moment, and how many tokens came after the answer."""

import asyncio
import contextlib
import time

from llama_orch_adapter_api import TaskRequest, Token
from llama_orch_adapter_host import AdapterHost

from .fleet import task


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
    """Cancel by `host.cancel`."""
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
    with contextlib.suppress(asyncio.CancelledError):
        await reader.reading
    assert reader.reading.cancelled()
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


async def drop(host: AdapterHost, subject: str, events: int) -> float:
    """Read some events and forget the stream; the moment."""
    stream = await host.submit("chat", task(subject, pace=0.002))
    for _ in range(events):
        await anext(stream)
    return time.monotonic()
