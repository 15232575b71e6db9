"""One task from its admission to its one outcome (ORCH-3601)."""

import asyncio

import pytest
from llama_orch_adapter_api import AdapterError, DeadlineUnmet, InternalError, PoolUnavailable, Token
from llama_orch_adapter_host._binding import Binding
from llama_orch_adapter_host._bus import Bus
from llama_orch_adapter_host._call import Call
from llama_orch_adapter_host._events import HostEvent, TaskAdmitted, TaskEnded
from llama_orch_adapter_host._flight import Flight
from llama_orch_adapter_host._routes import Pick
from llama_orch_adapter_host._teller import Teller

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Mistaken,
    Words,
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
    bound,
    loading,
    outcome_of,
    overloaded,
    pool_of,
    record_of,
    refused,
)


class Desk:
    """A call and what it told."""

    def __init__(self, replica: Words | None = None, **facts: int) -> None:
        self.over: list[Call] = []
        self.pushed_back: list[Binding] = []
        self.told: list[HostEvent] = []
        bus = Bus()
        bus.add(self.told.append)
        likeness = bound()
        self.binding = Binding(likeness.info, replica or Replica(), likeness.timeouts, likeness.gate)
        self.pool = pool_of(self.binding)
        self.call = Call(task(**facts), self.pool, Teller(bus), self.over.append, self.pushed_back.append)

    def board(self) -> Flight:
        return self.call.board(Pick(self.binding, "it was asked for"), self.binding.gate.enter(now()), 0.0)


@virtual
async def test_one_outcome():
    """A call has one outcome, the first, told once; whatever comes later is nothing."""
    desk = Desk()
    call = desk.call
    assert desk.pool.live == {call}
    assert call.interrupt(CANCELLED)
    assert not call.interrupt(refused())
    call.finish(end(1))

    assert (call.outcome, desk.over, desk.pool.live) == (CANCELLED, [call], set())
    assert [type(event) for event in desk.told] == [TaskAdmitted, TaskEnded]
    assert (call.record.ending, call.record.phase, call.record.duration) == ("cancelled", "queue", 0.0)


@virtual
async def test_the_phases():
    """A call waits in the queue until it is on a replica, then for an answer, for its first token, then decodes."""
    desk = Desk(Replica((1, STARTED, 1, Token("a", 0), 1, end(1))))
    assert (desk.call.phase, desk.call.boarded) == ("queue", None)
    flight = desk.board()
    assert (desk.call.phase, desk.call.boarded) == ("connect", desk.binding)
    committing = asyncio.create_task(flight.commit())
    await asyncio.sleep(0.5)
    assert desk.call.phase == "connect"
    await asyncio.sleep(1)
    assert desk.call.phase == "first_token"
    await committing
    desk.call.committed()
    assert desk.call.phase == "decode"
    await drained(_events(flight))

    assert (desk.call.phase, desk.call.boarded) == ("queue", None)
    assert (desk.call.record.phase, desk.call.binding) == ("decode", desk.binding)


@virtual
async def test_a_failure_before_the_token_is_the_attempts():
    """What fails before the first token ends the attempt, its lease and its permit, and not yet the task."""
    desk = Desk(Replica((0.5, refused())))
    with pytest.raises(PoolUnavailable):
        await desk.board().commit()

    assert desk.call.outcome is None
    assert desk.over == []
    assert not desk.binding.leases
    assert [attempt.outcome for attempt in desk.call.record.attempts] == ["fault"]
    assert desk.call.record.attempts[0].duration == moment(0.5)


@virtual
async def test_an_adapter_that_gives_nothing_to_iterate():
    """What goes wrong in calling the adapter is an attempt with an outcome, and leaves no seat taken."""
    desk = Desk(Mistaken())
    with pytest.raises(AdapterError, match="not an async iterator"):
        desk.board()

    assert (desk.call.boarded, desk.call.flight, desk.call.phase) == (None, None, "queue")
    assert [attempt.outcome for attempt in desk.call.record.attempts] == ["fault"]
    assert not desk.binding.leases


@pytest.mark.parametrize(("failure", "told"), [(overloaded(), True), (loading(), True), (refused(), False)])
@virtual
async def test_who_hears_of_push_back(failure: PoolUnavailable, told: bool):
    """ORCH-3602: push-back and loading are told, with the replica they came from."""
    desk = Desk(Replica((failure,)))
    with pytest.raises(PoolUnavailable):
        await desk.board().commit()

    assert desk.pushed_back == ([desk.binding] if told else [])


@virtual
async def test_a_rest_is_ended_by_an_interruption():
    """Battery 11: a back-off ends at once when the task is cancelled, and takes no time after that."""
    desk = Desk()
    asyncio.get_running_loop().call_later(1, desk.call.interrupt, CANCELLED)
    await desk.call.rest(100)
    await desk.call.rest(100)

    assert now() == moment(1)
    assert desk.call.outcome == CANCELLED


@virtual
async def test_a_rest_that_ends_and_is_interrupted_at_once():
    """Battery 11: where a back-off ends in the moment of a cancel, the cancel counts, and nothing breaks."""
    desk = Desk()
    resting = asyncio.create_task(desk.call.rest(1))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_at(now() + 1, desk.call.interrupt, CANCELLED)
    await resting

    assert now() == moment(1)
    assert desk.call.outcome == CANCELLED


@virtual
async def test_a_rest_takes_its_time():
    """A back-off takes what it is given, and leaves no timer behind when its task is cancelled from outside."""
    desk = Desk()
    await desk.call.rest(2)
    assert now() == moment(2)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await desk.call.rest(100)

    assert now() == moment(3)
    assert desk.call._alarm is None


@virtual
async def test_as_a_block_it_ends_with_what_is_raised():
    """A WorkerError ends the task and is raised; the host's own failure is told as such; a cancellation passes."""
    desk = Desk()
    error = DeadlineUnmet("too late", detail="queue")
    with pytest.raises(DeadlineUnmet) as caught, desk.call:
        raise error
    assert (caught.value, desk.call.outcome, error.record, error.attempts) == (error, error, desk.call.record, 0)

    desk = Desk()
    with pytest.raises(InternalError, match="the host raised ZeroDivisionError · task .* · report it") as internal:
        with desk.call:
            raise ZeroDivisionError
    assert (internal.value.detail, internal.value.phase, internal.value.pool) == ("host", "queue", "pool")
    assert desk.call.outcome is internal.value
    assert isinstance(internal.value.__cause__, ZeroDivisionError)

    desk = Desk()
    with pytest.raises(asyncio.CancelledError), desk.call:
        raise asyncio.CancelledError
    assert desk.call.outcome == CANCELLED


@virtual
async def test_the_deadline_is_one_moment():
    """A deadline counts from the admission, on the loop's clock; without one there is no end."""
    with_one, without = Desk(deadline_ms=1500).call, Desk().call
    await asyncio.sleep(1)

    assert with_one.left(now()) == moment(0.5)
    assert without.left(now()) == float("inf")


@pytest.mark.parametrize("script", [(STARTED, Token("a", 0), end(1)), (STARTED, Token("a", 0), refused())])
@virtual
async def test_who_is_told_of_the_end_finds_the_record_complete(script: tuple[object, ...]):
    """ORCH-3602: when the end of a task is told, its last attempt has its outcome, and its replica is free again."""
    seen = []
    async with host_of(Replica(script)) as host:  # type: ignore[arg-type]
        request = task()

        def look(event: HostEvent) -> None:
            if isinstance(event, TaskEnded):
                seen.append(record_of(host, request).lines()[-2:])

        host.observe(look)
        await outcome_of(host, request)

    ((attempt, last),) = seen
    assert " · runs" not in attempt
    assert last.startswith(("  ok after", "  failed after"))


async def _events(flight: Flight):  # type: ignore[no-untyped-def]
    while True:
        try:
            yield await flight.pull()
        except StopAsyncIteration:
            return
