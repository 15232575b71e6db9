"""A task that is cancelled through the host (ORCH-3601)."""

import asyncio
import sys
from typing import Any

import pytest
from llama_orch_adapter_api import (
    AdapterError,
    TaskRequest,
    Token,
)

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Scripted,
    SelfCancelling,
    Swallowing,
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
from .streams import CANCELLED, turns  # type: ignore[import-not-found]  # as above


@pytest.mark.parametrize(
    ("script", "phase"),
    [((9, STARTED, end(0)), "connect"), ((STARTED, 9, end(0)), "first_token")],
    ids=["silent", "started"],
)
@virtual
async def test_cancelled_before_the_first_token(script: tuple[Any, ...], phase: str):
    """Battery 11: cancelled before the first token, submit returns at once, with a stream of `End(cancelled)` alone."""
    adapter = Scripted(*script)
    async with host_of(adapter) as host:
        waiting = asyncio.create_task(host.submit("pool", request := task()).__aenter__())
        await asyncio.sleep(1)
        receipt = await host.cancel("pool", request.task_id)
        stream = await waiting
        at = now()
        events = await drained(stream)

        assert adapter.freed == 1

    assert (receipt.outcome, receipt.phase) == ("cancelled", phase)
    assert at == moment(1)
    assert events == [CANCELLED]
    assert waiting.cancelling() == 0


@virtual
async def test_cancelled_while_the_caller_waits_for_a_token():
    """Battery 11: a cancel in mid-stream wakes the caller at once with `End(cancelled)`, and frees the engine."""
    adapter = Words(words=99)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", request := task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(3.5)
        receipt = await host.cancel("pool", request.task_id)
        at = now()
        events = await reader

        assert now() == at
        assert adapter.freed == 1

    assert (receipt.outcome, receipt.phase) == ("cancelled", "decode")
    assert len(tokens(events)) == 4
    assert events[-1] == CANCELLED
    assert reader.cancelling() == 0


@virtual
async def test_a_cancel_is_at_the_adapter_at_the_next_turn():
    """Battery 9: no turn of the loop goes by between a cancel and the adapter's clean-up, which closes its socket."""
    adapter = Words(words=9)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", request := task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        await host.cancel("pool", request.task_id)
        await turns(1)

        assert adapter.freed == 1
        assert (await reader)[-1] == CANCELLED


@virtual
async def test_what_was_kept_is_not_delivered_after_a_cancel():
    """Battery 11: after a cancel is answered not one token comes, those that were there already included."""
    async with host_of(Words()) as host:
        stream = await host.submit("pool", request := task())
        receipt = await host.cancel("pool", request.task_id)
        events = await drained(stream)

    assert receipt.outcome == "cancelled"
    assert events == [CANCELLED]


@virtual
async def test_cancelling_again_or_too_late_or_something_unknown():
    """Battery 11: a second cancel and one after the end find `already_done`, others `unknown`; none ever raises."""
    async with host_of(Words(words=1, pause=None)) as host:
        stream = await host.submit("pool", request := task())
        first = await host.cancel("pool", request.task_id)
        second = await host.cancel("pool", request.task_id)
        await drained(stream)
        third = await host.cancel("pool", request.task_id)
        await drained(await host.submit("pool", done := task()))
        late = await host.cancel("pool", done.task_id)
        unknown = await host.cancel("pool", task().task_id)
        odd = await host.cancel("no such pool", "no uuid")

    assert [receipt.outcome for receipt in (first, second, third, late)] == ["cancelled"] + 3 * ["already_done"]
    assert second.phase is None
    assert (unknown.outcome, odd.outcome) == ("unknown", "unknown")


@virtual
async def test_a_cancel_reaches_its_own_pool_alone():
    """A running task is unknown to a pool that does not run it, and goes on."""
    async with host_of(Words()) as host:
        stream = await host.submit("pool", request := task())
        receipt = await host.cancel("other", request.task_id)
        events = await drained(stream)

    assert receipt.outcome == "unknown"
    assert events[-1] == end(3)


@virtual
async def test_an_id_that_is_running_is_refused():
    """Battery 11: a task under a running one's id is AdapterError (duplicate_task); the running one is untouched."""
    adapter = Words()
    async with host_of(adapter) as host:
        stream = await host.submit("pool", request := task())
        with pytest.raises(AdapterError, match="is running already") as caught:
            await host.submit("pool", request)
        events = await drained(stream)
        again = await drained(await host.submit("pool", request))

    assert (caught.value.detail, caught.value.phase, caught.value.retriable) == ("duplicate_task", "queue", False)
    assert len(tokens(events)) == len(tokens(again)) == 3
    assert adapter.begun == 2


@pytest.mark.parametrize("waits", [False, True])
@virtual
async def test_the_canceller_is_the_waiting_task_itself(waits: bool):
    """Battery 11, lesson (a): an adapter that cancels its own task ends it cleanly, whether it goes on or hangs."""
    adapter = SelfCancelling()
    adapter.waits = waits
    async with host_of(adapter) as host:
        adapter.host = host
        stream = await host.submit("pool", task())
        events = await drained(stream)
        for _ in range(3):  # a stray cancellation would come out here
            await asyncio.sleep(0)

        assert adapter.freed == 1

    me = asyncio.current_task()
    assert me is not None
    assert me.cancelling() == 0
    assert tokens(events) == ["before"]
    assert events[-1] == CANCELLED


@virtual
async def test_the_canceller_is_the_adapter_before_its_first_token():
    """Battery 11, lesson (a): an adapter that cancels its own task at once ends in `End(cancelled)` alone."""

    async def cancels_itself(running: TaskRequest) -> None:
        await host.cancel("pool", running.task_id)

    async with host_of(Scripted(STARTED, cancels_itself, Token("a", 0), end(1))) as host:
        events = await drained(await host.submit("pool", task()))

    assert events == [CANCELLED]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="tasks that start eagerly came with Python 3.12")
@virtual
async def test_the_canceller_was_started_eagerly_by_the_waiting_task():
    """Battery 11: a task that the waiting one starts in its own step cancels it, and leaves no stray cancellation."""

    async def canceller(_: object) -> None:
        eager = asyncio.eager_task_factory(asyncio.get_running_loop(), host.cancel("pool", request.task_id))
        assert eager.done()

    request = task()
    async with host_of(Scripted(STARTED, Token("a", 0), canceller, Token("b", 1), end(2))) as host:
        events = await drained(await host.submit("pool", request))
        await asyncio.sleep(1)  # a stray one would come here

    assert events[-1] == CANCELLED
    assert tokens(events) in ([], ["a"])


@virtual
async def test_an_adapter_that_swallows_cancellations():
    """Lesson (d): once a task is cancelled, the tokens and exceptions its adapter still comes with are dropped."""
    speaks_on = Swallowing(words=5)
    async with host_of(speaks_on) as host:
        stream = await host.submit("pool", request := task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        await host.cancel("pool", request.task_id)
        events = await reader

        assert speaks_on.freed == 1

    assert tokens(events) == ["0 "]
    assert events[-1] == CANCELLED
    assert reader.cancelling() == 0


async def turns_into_an_error(_: object) -> None:
    try:
        await asyncio.sleep(9)
    except asyncio.CancelledError:
        raise KeyError("cancelled?") from None


@virtual
async def test_an_adapter_that_turns_a_cancellation_into_an_error():
    """Lesson (d): a cancelled task ends in `End(cancelled)`, whatever its adapter makes of being interrupted."""
    async with host_of(Scripted(STARTED, Token("a", 0), turns_into_an_error)) as host:
        stream = await host.submit("pool", request := task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        await host.cancel("pool", request.task_id)
        events = await reader

    assert events[-1] == CANCELLED


@virtual
async def test_a_cancellation_that_an_adapter_turns_into_an_error_stays_one():
    """A cancellation from outside is raised to the caller even where the adapter made a KeyError of it."""
    async with host_of(Scripted(STARTED, Token("a", 0), turns_into_an_error)) as host:
        stream = await host.submit("pool", task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

    assert reader.cancelled()
