"""The edges of a cancel, over all attempts of a task (battery 11); one attempt's own stand in test_flight."""

import asyncio

import msgspec
import pytest
from llama_orch_adapter_api import AdapterError, DecodeTimeout, TaskRequest, Token, WorkerProps
from llama_orch_adapter_host import CancelReceipt
from llama_orch_adapter_host._events import AdapterBroke, EngineIdle, HostEvent

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Tidy,
    cancel_now,
    drained,
    end,
    host_of,
    moment,
    now,
    task,
    virtual,
)
from .replicas import (  # type: ignore[import-not-found]  # as above
    CANCELLED,
    Replica,
    Step,
    left_behind,
    outcome_of,
    overloaded,
    props,
    record_of,
)

LONG: tuple[Step, ...] = (STARTED, Token("a", 0), 99, end(1))


@pytest.mark.parametrize(
    ("script", "after", "phase", "given"),
    [
        ((99,), 0.0, "connect", []),
        ((STARTED, 99), 1.0, "first_token", []),
        ((overloaded(20.0),), 1.0, "queue", []),
        (LONG, 1.0, "decode", [STARTED, Token("a", 0)]),
    ],
    ids=["before_connect", "before_first_token", "in_backoff", "in_decode"],
)
@virtual
async def test_where_a_task_is_cancelled(script: tuple[Step, ...], after: float, phase: str, given: list[object]):
    """Battery 11: wherever it is, it ends at once in `End(cancelled)`; the receipt and the record tell the phase."""
    replica = Replica(script)
    async with host_of(replica) as host:
        request = task()
        reader = asyncio.create_task(outcome_of(host, request))
        await asyncio.sleep(after)
        receipt = cancel_now(host, request)
        cancelled_at = now()
        events = await reader

        assert (receipt.outcome, receipt.phase) == ("cancelled", phase)
        assert events == [*given, CANCELLED]
        assert now() == moment(cancelled_at)
        assert replica.begun == replica.freed == 1
        assert left_behind(host) == []
        record = record_of(host, request)
        assert (record.ending, record.phase, record.finish_reason) == ("cancelled", phase, "cancelled")
        assert await receipt.idle() is None


@virtual
async def test_before_anything_is_awaited():
    """Battery 11: a task whose submission nobody awaits yet is unknown, and runs when it is awaited."""
    async with host_of(Replica()) as host:
        request = task()
        submission = host.submit("pool", request)
        receipt = cancel_now(host, request)

        assert receipt == CancelReceipt("unknown")
        assert (await (await submission).collect()).text == "yes"
        assert record_of(host, request).ending == "ok"


@pytest.mark.parametrize("script", [(overloaded(20.0),), (99,), LONG], ids=["in_backoff", "first_token", "decode"])
@virtual
async def test_cancelling_twice(script: tuple[Step, ...]):
    """Battery 11: the second cancel, in the same moment, finds it done; a third one much later too."""
    async with host_of(Replica(script)) as host:
        request = task()
        reader = asyncio.create_task(outcome_of(host, request))
        await asyncio.sleep(1)
        receipts = [cancel_now(host, request) for _ in range(2)]
        await reader
        await asyncio.sleep(60)
        receipts.append(cancel_now(host, request))

        assert [receipt.outcome for receipt in receipts] == ["cancelled", "already_done", "already_done"]
        assert [receipt.phase for receipt in receipts[1:]] == [None, None]
        assert cancel_now(host, task()).outcome == "unknown"
        assert (await host.cancel("other", request.task_id)).outcome == "unknown"


@virtual
async def test_a_duplicate_in_a_back_off():
    """Battery 11: an id whose task sleeps between two replicas is running, and may be used when that is over."""
    replica = Replica((overloaded(2.0),), LONG)
    async with host_of(replica) as host:
        request = task()
        reader = asyncio.create_task(outcome_of(host, request))
        await asyncio.sleep(1)
        error = await outcome_of(host, request)
        assert isinstance(error, AdapterError)
        assert error.detail == "duplicate_task"
        cancel_now(host, request)
        again = asyncio.create_task(outcome_of(host, request))
        assert await reader == [CANCELLED]
        await asyncio.sleep(2)

        assert cancel_now(host, request).outcome == "already_done"  # its replica had asked for two seconds
        assert getattr(await again, "detail", None) == "overloaded"


@virtual
async def test_a_cancel_and_the_end_of_a_back_off():
    """Battery 11: a cancel in the very moment in which the back-off ends sends nothing any more."""
    for turns in range(6):
        replica = Replica((overloaded(2.0),), LONG)
        async with host_of(replica) as host:
            request = task(replica_id="0")
            reader = asyncio.create_task(outcome_of(host, request))
            while (call := host._ledger.live(request.task_id)) is None or call._alarm is None:
                await asyncio.sleep(0)
            while call._alarm is not None and not call._alarm.done():
                await asyncio.sleep(0.0001)
            for _ in range(turns):
                await asyncio.sleep(0)
            receipt = cancel_now(host, request)
            events = await reader

            assert receipt.outcome == "cancelled"
            assert events[-1] == CANCELLED
            assert events[:-1] in ([], [STARTED, Token("a", 0)])
            assert replica.begun == replica.freed
            assert left_behind(host) == []


class Confirming(Replica):
    """Its `cancel` is back when the slot is idle, after `seconds`; it says so in its features if it `promises`."""

    def __init__(self, seconds: float, *, promises: bool = True, error: Exception | None = None) -> None:
        super().__init__(LONG)
        self.seconds = seconds
        self.promises = promises
        self.error = error
        self.told: list[str] = []

    async def props(self) -> WorkerProps:
        return props(features=("confirms_cancel",) if self.promises else ())

    async def cancel(self, task_id: str) -> None:
        self.told.append(task_id)
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error


async def cancelled_on(replica: Replica, events: list[HostEvent]) -> tuple[TaskRequest, CancelReceipt]:
    """A task that was cancelled while it decoded, and whose receipt was waited for."""
    async with host_of(replica) as host:
        host.observe(events.append)
        await asyncio.sleep(1)  # it has told what it can do
        request = task()
        reader = asyncio.create_task(outcome_of(host, request))
        await asyncio.sleep(1)
        receipt = await host.cancel("pool", request.task_id)
        assert now() == moment(2)
        await receipt.idle()
        await reader
        return request, receipt


@virtual
async def test_when_the_engine_is_idle():
    """ORCH-3601: an adapter that confirms cancels is timed, in the background: the receipt tells when it was idle."""
    events: list[HostEvent] = []
    replica = Confirming(0.3)
    request, receipt = await cancelled_on(replica, events)

    assert await receipt.idle() == moment(300)
    assert replica.told == [request.task_id]
    assert [event.duration for event in events if isinstance(event, EngineIdle)] == [moment(0.3)]


@pytest.mark.parametrize(
    ("how", "replica"),
    [
        ("no_promise", Confirming(0.3, promises=False)),
        ("too_slow", Confirming(9)),
        ("still_works", Confirming(0.3, error=DecodeTimeout("the slot still works", detail="idle"))),
        ("breaks", Confirming(0.3, error=OSError())),
        ("no_cancel", Replica(LONG)),
    ],
    ids=["no_promise", "too_slow", "still_works", "breaks", "no_cancel"],
)
@virtual
async def test_when_nobody_can_tell(how: str, replica: Replica):
    """ORCH-3601: without the promise, where it is not kept or the engine works on, nobody can tell when it was idle."""
    events: list[HostEvent] = []
    _, receipt = await cancelled_on(replica, events)

    faults = {"too_slow": ["TimeoutError"], "breaks": ["OSError"]}.get(how, [])
    assert [(e.what, e.error) for e in events if isinstance(e, AdapterBroke)] == [("cancel()", e) for e in faults]
    assert receipt.outcome == "cancelled"
    assert await receipt.idle() is None
    assert not [event for event in events if isinstance(event, EngineIdle)]
    assert now() <= 4.1


@virtual
async def test_a_host_that_stops_before_the_engine_is_idle():
    """ORCH-3601: a stop of the host ends the wait for the engine with None; a wait that is given up ends nothing."""
    async with host_of(Confirming(1.5)) as host:
        request = task()
        reader = asyncio.create_task(outcome_of(host, request))
        await asyncio.sleep(1)
        receipt = await host.cancel("pool", request.task_id)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await receipt.idle()
        waiting = asyncio.create_task(receipt.idle())
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await reader

    assert await waiting is None
    assert await receipt.idle() is None


@virtual
async def test_a_back_off_has_no_engine_to_confirm():
    """ORCH-3601: a task cancelled between two replicas is on none, so that no adapter is told of it."""
    replica = Confirming(0.3)
    replica.scripts = [(overloaded(20.0),)]
    async with host_of(replica) as host:
        request = task()
        reader = asyncio.create_task(outcome_of(host, request))
        await asyncio.sleep(1)
        receipt = await host.cancel("pool", request.task_id)
        await reader

        assert await receipt.idle() is None
        assert replica.told == []


# --- the id of a task that ended


@pytest.mark.parametrize("how", ["cancelled", "overdue", "dropped"])
@virtual
async def test_an_id_is_taken_until_its_adapter_lets_go(how: str):
    """Battery 11, 16: while the adapter tidies up after a task, no other copy of it is sent; then its id is free."""
    adapter = Tidy(words=9)
    async with host_of(adapter) as host:
        request = task(deadline_ms=1500 if how == "overdue" else None)
        stream = await host.submit("pool", request)
        reader = None if how == "dropped" else asyncio.create_task(drained(stream))
        await asyncio.sleep(0)
        del stream
        if how == "cancelled":
            cancel_now(host, request)
        await asyncio.sleep(0.6 if how == "overdue" else 0.1)
        with pytest.raises(
            AdapterError, match="has ended, and its adapter has not let go of it yet · send it"
        ) as caught:
            await host.submit("pool", request)
        assert (adapter.begun, adapter.tidied) == (1, 0)
        await asyncio.sleep(0.5)
        again = await host.submit("pool", msgspec.structs.replace(request, deadline_ms=None))
        await again.aclose()
        if reader is not None:
            await asyncio.wait([reader])
            reader.exception()

        assert caught.value.detail == "duplicate_task"
        assert (adapter.begun, adapter.tidied) == (2, 2)
        assert left_behind(host) == []
        assert host._ledger._leaving == {}


@virtual
async def test_an_id_is_free_with_the_end_of_its_task():
    """Battery 11: whoever has a task's own end in hand may send the same id at once, closed or not."""
    async with host_of(Tidy(words=1)) as host:
        stream = await host.submit("pool", request := task())
        last = [await anext(stream) for _ in range(3)][-1]
        again = await host.submit("pool", request)
        await again.aclose()
        await stream.aclose()

    assert last == end(1)
