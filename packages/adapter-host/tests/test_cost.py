"""What the host adds to an adapter, in CPU time. The exact figures are of `nox -s bench -- host`."""

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest
from llama_orch_adapter_api import TaskRequest

from .adapters import Words, drained, host_of, task  # type: ignore[import-not-found]  # test folders are no packages

ROUNDS = 7
"""Of which the best counts: whatever else the machine does only adds."""

SHORT, LONG = 1, 257
"""Tokens of the two answers; what a token costs is the slope between them."""

One = Callable[[TaskRequest], Awaitable[object]]


@pytest.mark.skipif("coverage" in sys.modules, reason="what coverage traces costs many times as much")
def test_what_the_host_adds_is_bounded():
    """Battery 41: the host adds at most ten times its budget, 25 microseconds of CPU a call and 0.5 a token."""
    with asyncio.Runner(debug=False) as runner:
        call = runner.run(added(tokens=SHORT, calls=200))
        long = runner.run(added(tokens=LONG, calls=20))
    token = (long - call) / (LONG - SHORT)
    print(f"the host adds {call:.1f} µs/call and {token:.2f} µs/token")  # noqa: RUF001 - the unit's sign

    assert 0 < call <= 250
    assert token <= 5


async def added(*, tokens: int, calls: int) -> float:
    """Microseconds by which the best round through the host is dearer than the best without, a call."""
    direct = Words(words=tokens, pause=None)
    async with host_of(Words(words=tokens, pause=None)) as host:

        async def hosted(request: TaskRequest) -> None:
            async with host.submit("pool", request) as stream:
                await drained(stream)

        await asyncio.sleep(0.1)  # the replica was asked how it is
        rounds = [
            (await spent(lambda request: drained(direct.submit(request)), calls), await spent(hosted, calls))
            for _ in range(ROUNDS)
        ]
    plain, whole = (min(times) for times in zip(*rounds, strict=True))
    return (whole - plain) / calls * 1e6


async def spent(one: One, calls: int) -> float:
    """CPU seconds for so many calls, one after the other."""
    requests = [task() for _ in range(calls)]
    with no_collection():
        began = time.process_time()
        for request in requests:
            await one(request)
        return time.process_time() - began


@contextmanager
def no_collection() -> Iterator[None]:
    """The heap of a whole test run is no cost of a call."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
