"""Two ways to wait, both of which leave nothing running when they are cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """The function's result, computed in a thread; a cancellation waits until the thread has done its work."""
    work = asyncio.get_running_loop().run_in_executor(None, partial(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise


async def ticking(work: Coroutine[Any, Any, T], tick: Callable[[], Awaitable[None]], period: float) -> T:
    """The work's result; until it is there, `tick` is called every `period` seconds, the first time at once."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await tick()
            await asyncio.wait({task}, timeout=period)
        return task.result()
    finally:
        task.cancel()
