"""Waits that leave nothing running."""

import asyncio
import threading

import pytest
from llama_orch_adapter_llamacpp._wait import in_thread, ticking


async def test_a_cancelled_thread_is_waited_for() -> None:
    """A cancellation comes out when the thread has done its work, not before."""
    entered, release, done = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        entered.set()
        release.wait()
        done.set()

    task = asyncio.create_task(in_thread(work))
    await asyncio.to_thread(entered.wait)
    task.cancel()
    early, _ = await asyncio.wait({task}, timeout=0.05)
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert not early
    assert done.is_set()


async def test_a_thread_s_error_comes_out() -> None:
    """What the function raises is raised."""
    with pytest.raises(ZeroDivisionError):
        await in_thread(divmod, 1, 0)


async def test_ticks_until_the_result_is_there() -> None:
    """The tick comes at once and then each period, until the work is done."""
    ticks = 0
    enough = asyncio.Event()

    async def work() -> str:
        await enough.wait()
        return "done"

    async def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            enough.set()

    result = await ticking(work(), tick, 0.001)

    assert result == "done"
    assert ticks >= 3


async def test_a_tick_that_fails_ends_the_work() -> None:
    """When the one who is told raises, the work is cancelled and the error comes out."""
    ended: list[type[BaseException]] = []

    async def work() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError as error:
            ended.append(type(error))
            raise

    ticks = iter((None,))

    async def tick() -> None:
        if next(ticks, ticks) is ticks:
            raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="gone"):
        await ticking(work(), tick, 0.001)
    await asyncio.sleep(0)

    assert ended == [asyncio.CancelledError]
