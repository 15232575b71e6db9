"""Tasks that are refused before they are taken in (ORCH-3601, ORCH-3604)."""

import asyncio

import pytest
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerError, WorkerReset
from llama_orch_adapter_host import AdapterHost, FlightRecord, PoolPolicy
from llama_orch_adapter_host._events import HostEvent, TaskAdmitted, TaskEnded

from .adapters import STARTED, Tidy, Words, drained, end, host_of, task, virtual  # type: ignore[import-not-found]  # no packages
from .replicas import Replica, outcome_of, record_of, reset  # type: ignore[import-not-found]  # as above


def ends_of(host: AdapterHost) -> list[TaskEnded]:
    """The ends that the host tells, as they come."""
    ends: list[TaskEnded] = []

    def observe(event: HostEvent) -> None:
        if isinstance(event, TaskEnded):
            ends.append(event)

    host.observe(observe)
    return ends


@virtual
async def test_an_unknown_pool_is_on_record():
    """ORCH-3601: a task for a pool that is not bound has a record without attempts, in its error and by its id."""
    request = task(session_id="s", correlation_id="c")
    async with host_of(Words()) as host:
        ends = ends_of(host)
        with pytest.raises(PoolUnavailable) as caught:
            await host.submit("nope", request)
        record = record_of(host, request)

    assert caught.value.record is record
    assert (record.ending, record.detail, record.phase, record.duration) == ("failed", "unknown_pool", "queue", 0.0)
    assert (record.pool_id, record.session_id, record.correlation_id, record.attempts) == ("nope", "s", "c", [])
    (told,) = ends
    assert (told.task_id, told.pool_id, told.ending, told.detail) == (request.task_id, "nope", "failed", "unknown_pool")
    assert (told.attempts, told.replica_id, told.message) == (0, None, caught.value.message)


@virtual
async def test_a_stopping_host_tells_of_whom_it_refuses():
    """ORCH-3601: a task that comes while the host stops is on record as draining, and told."""
    async with host_of(Words()) as host:
        stream = await host.submit("pool", task())
        ends = ends_of(host)
        stopping = asyncio.create_task(host.aclose(drain=5))
        await asyncio.sleep(0)
        error = await outcome_of(host, late := task())
        await drained(stream)
        await stopping

    assert isinstance(error, PoolUnavailable)
    assert error.record is record_of(host, late)
    assert [(told.ending, told.detail) for told in ends] == [("failed", "draining"), ("ok", None)]


@virtual
async def test_a_duplicate_leaves_the_running_one_alone():
    """Battery 11: a task under a running one's id has a record and an event of its own, which end nothing of it."""
    async with host_of(Words()) as host:
        request = task()
        stream = await host.submit("pool", request)
        ends = ends_of(host)
        error = await outcome_of(host, request)
        running = record_of(host, request)

        assert isinstance(error, AdapterError)
        assert (error.detail, running is stream.record, running.ending) == ("duplicate_task", True, None)
        assert [(told.task_id, told.ending, told.detail, told.refused) for told in ends] == [
            (request.task_id, "failed", "duplicate_task", True)
        ]
        assert isinstance(error.record, FlightRecord)
        assert (error.record.detail, error.record.attempts) == ("duplicate_task", [])
        assert (await drained(stream))[-1] == end(3)
        assert [(told.ending, told.refused) for told in ends[1:]] == [("ok", False)]
        assert record_of(host, request).ending == "ok"


@virtual
async def test_a_poisonous_task_stays_one():
    """Battery 17: each refusal of a task that ends its engines is told; what it did to them stays on record."""
    async with host_of(*(Replica((STARTED, reset())) for _ in range(3))) as host:
        poison = task()
        await outcome_of(host, poison)
        first = record_of(host, poison)
        ends = ends_of(host)
        errors: list[WorkerError] = [await outcome_of(host, poison) for _ in range(3)]

        assert all(isinstance(error, WorkerReset) for error in errors)
        assert record_of(host, poison) is first
        assert (first.resets, len(first.attempts)) == (2, 2)
        assert isinstance(record := errors[-1].record, FlightRecord)
        assert (record.resets, record.attempts) == (2, [])
        assert [(told.detail, told.attempts) for told in ends] == 3 * [("reset", 0)]


@virtual
async def test_who_is_refused_was_not_taken_in():
    """ORCH-3604: a refused task is told to have ended and never to have been taken in."""
    async with host_of(Words()) as host:
        told: list[type] = []
        host.observe(lambda event: told.append(type(event)))
        with pytest.raises(PoolUnavailable):
            await host.submit("nope", task())

    assert told[0] is TaskEnded
    assert TaskAdmitted not in told


@virtual
async def test_a_refused_resend_hides_nothing():
    """ORCH-3601: what became of a task is explained also after it was sent again and refused, in whatever way."""
    request = task()
    async with host_of(Tidy()) as host:
        stream = await host.submit("pool", request)
        await host.cancel("pool", request.task_id)
        resent = await outcome_of(host, request)  # while its adapter tidies up
        await asyncio.sleep(1)
        with pytest.raises(PoolUnavailable) as unknown:
            await host.submit("nope", request)
        record = record_of(host, request)
        receipt = await host.cancel("pool", request.task_id)

    assert isinstance(resent, AdapterError)
    assert (resent.detail, unknown.value.detail) == ("duplicate_task", "unknown_pool")
    assert record is stream.record
    assert (record.ending, len(record.attempts), receipt.outcome) == ("cancelled", 1, "already_done")


@virtual
async def test_a_resend_that_no_replica_takes_hides_nothing():
    """ORCH-3601: a task that was taken in again, and that no replica took, is explained by what it did before."""
    request = task()
    async with host_of(Words(), policy=PoolPolicy(max_in_flight=1)) as host:
        first = await host.submit("pool", request)
        await drained(first)
        other = await host.submit("pool", task())
        error = await outcome_of(host, request)
        record = record_of(host, request)
        await other.aclose()
        again = await host.submit("pool", request)
        await drained(again)
        latest = record_of(host, request)

    assert isinstance(error, PoolUnavailable)
    assert isinstance(error.record, FlightRecord)
    assert (error.record.detail, error.record.attempts) == ("at_capacity", [])
    assert record is first.record
    assert latest is again.record is not record
