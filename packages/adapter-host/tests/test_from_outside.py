"""A caller whose own task is cancelled, or whose world ends, while it waits for a stream (ORCH-3601)."""

import asyncio
from typing import Any

import pytest
from llama_orch_adapter_api import (
    TaskRequest,
    Token,
)
from llama_orch_adapter_host import AdapterHost, CancelReceipt
from llama_orch_adapter_testkit import run_virtual

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Scripted,
    Words,
    drained,
    end,
    host_of,
    moment,
    now,
    task,
    tokens,
    virtual,
)
from .streams import CANCELLED, drained_up_to  # type: ignore[import-not-found]  # as above


class EndOfTheWorld(BaseException):
    """What no adapter may be blamed for, and nobody may hold up."""


async def cancel_after(seconds: float, host: AdapterHost, request: TaskRequest) -> CancelReceipt:
    await asyncio.sleep(seconds)
    return await host.cancel("pool", request.task_id)


# --- cancellation from outside


@pytest.mark.parametrize("script", [(9, STARTED, end(0)), (STARTED, Token("a", 0), 9, end(1))], ids=["before", "after"])
@virtual
async def test_cancelling_the_callers_task_stops_the_engine(script: tuple[Any, ...]):
    """A cancelled caller sees its CancelledError at once, before or after the commit, and the engine is freed."""
    adapter = Scripted(*script)
    async with host_of(adapter) as host:

        async def call() -> None:
            await drained(await host.submit("pool", request))

        request = task()
        caller = asyncio.create_task(call())
        await asyncio.sleep(1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await asyncio.sleep(0)

        assert adapter.freed == 1
        assert now() == moment(1)

        receipt = await host.cancel("pool", request.task_id)

    assert receipt.outcome == "already_done"


@virtual
async def test_both_cancelled_at_once():
    """Lesson (c): where the host's cancel and one from outside meet, the one from outside is not lost."""
    async with host_of(Words(words=9)) as host:
        for host_first in (True, False):
            stream = await host.submit("pool", request := task())
            reader = asyncio.create_task(drained(stream))
            await asyncio.sleep(0.5)
            if host_first:
                await host.cancel("pool", request.task_id)
                reader.cancel()
            else:
                reader.cancel()
                await host.cancel("pool", request.task_id)
            with pytest.raises(asyncio.CancelledError):
                await reader
            events = await drained(stream)

            assert reader.cancelling() == 1
            assert events == [CANCELLED]


@virtual
async def test_a_cancellation_of_long_ago_is_none_of_ours():
    """Lesson (c): a caller that once caught a cancellation and kept it is cancelled by the host as cleanly."""
    me = asyncio.current_task()
    assert me is not None
    me.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    async with host_of(Words(words=9)) as host:
        stream = await host.submit("pool", request := task())
        canceller = asyncio.create_task(cancel_after(0.5, host, request))
        events = await drained(stream)
        receipt = await canceller

    assert receipt.outcome == "cancelled"
    assert events[-1] == CANCELLED
    assert me.cancelling() == 1
    me.uncancel()


@virtual
async def test_a_timeout_around_the_loop():
    """`asyncio.timeout` around a stream works as around anything: TimeoutError, the engine freed, nothing left."""
    adapter = Words(words=9)
    async with host_of(adapter) as host:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await drained(await host.submit("pool", task()))
        at = now()
        await asyncio.sleep(0)

        assert adapter.freed == 1

    me = asyncio.current_task()
    assert at == moment(2.5)
    assert me is not None
    assert me.cancelling() == 0


@virtual
async def test_each_pull_in_a_task_of_its_own():
    """A caller may pull through `asyncio.wait_for`, which makes a task for each pull, and be told of a cancel there."""
    async with host_of(Words(words=3)) as host:
        stream = await host.submit("pool", task())
        whole = [await asyncio.wait_for(anext(stream), 9) for _ in range(5)]
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(stream), 9)

        stream = await host.submit("pool", request := task())
        kept = [await asyncio.wait_for(anext(stream), 9) for _ in range(2)]
        canceller = asyncio.create_task(cancel_after(0.5, host, request))
        ended = await asyncio.wait_for(anext(stream), 9)
        await canceller

    assert len(tokens(whole)) == 3
    assert len(tokens(kept)) == 1
    assert ended == CANCELLED


@virtual
async def test_a_pull_that_takes_too_long():
    """A pull given up by `asyncio.wait_for` ends the stream, as it would end any generator, and frees the engine."""
    adapter = Words(words=3)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", task())
        await drained_up_to(stream, 2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.5)
        events = await drained(stream)

        assert adapter.freed == 1

    assert events == [CANCELLED]


@virtual
async def test_an_adapter_that_was_cancelled_itself():
    """A CancelledError out of the adapter's own workings passes as what it is, and ends the task."""

    async def cancelled_inside(_: object) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with host_of(Scripted(STARTED, Token("a", 0), cancelled_inside)) as host:
        stream = await host.submit("pool", task())
        reader = asyncio.create_task(drained(stream))
        with pytest.raises(asyncio.CancelledError):
            await reader

    assert reader.cancelled()


# --- the end of the world


@virtual
async def test_what_is_no_exception_passes():
    """A KeyboardInterrupt or its like that comes out of an adapter is raised as it is, and the task is over."""
    async with host_of(Scripted(STARTED, Token("a", 0), 1, EndOfTheWorld())) as host:
        stream = await host.submit("pool", task())
        with pytest.raises(EndOfTheWorld):
            await drained(stream)
        events = await drained(stream)

    assert events == [CANCELLED]


@virtual
async def test_what_is_no_exception_passes_while_cancelled():
    """A KeyboardInterrupt or its like is not held up because the task was being cancelled, nor while it is closed."""

    async def last_word(_: object) -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise EndOfTheWorld from None

    class Ending(Words):
        async def clean_up(self) -> None:
            raise EndOfTheWorld

    async with host_of(Scripted(STARTED, Token("a", 0), last_word), Ending(words=1, pause=None)) as host:
        stream = await host.submit("pool", request := task(replica_id="0"))
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(1)
        await host.cancel("pool", request.task_id)
        with pytest.raises(EndOfTheWorld):
            await reader
        stream = await host.submit("pool", task(replica_id="1"))
        with pytest.raises(EndOfTheWorld):
            await drained(stream)
        leases = [len(binding.leases) for binding in host._registry.all()]

    assert reader.cancelling() == 0
    assert leases == [0, 0]


def test_ctrl_c_reaches_the_one_who_pressed_it():
    """A KeyboardInterrupt inside an adapter ends the program's loop."""

    async def main() -> None:
        async with host_of(Scripted(STARTED, KeyboardInterrupt())) as host:
            await host.submit("pool", task())

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main())
