"""Who asks a replica how it is, and when (ORCH-3602)."""

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerHealth, WorkerProps
from llama_orch_adapter_host import PoolPolicy
from llama_orch_adapter_host._binding import Binding
from llama_orch_adapter_host._breaker import BreakerPolicy
from llama_orch_adapter_host._gate import ASKING
from llama_orch_adapter_host._health import HealthPolicy
from llama_orch_adapter_host._prober import Prober

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    eager,
    host_of,
    moment,
    now,
    run_many,
    task,
    virtual,
)
from .replicas import (  # type: ignore[import-not-found]  # as above
    ANSWER,
    DOWN,
    LOADING,
    READY,
    Replica,
    bound,
    loading,
    outcome_of,
    overloaded,
    refused,
    trip,
)

STEADY = BreakerPolicy(spread=0)


class Patient(Replica):
    """Takes its time to say how it is, and counts how many ask at once."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds
        self.asking = self.most = 0

    async def health(self) -> WorkerHealth:
        self.asking += 1
        self.most = max(self.most, self.asking)
        try:
            await asyncio.sleep(self.seconds)
            return await super().health()
        finally:
            self.asking -= 1


def prober_of(
    replica: Replica,
    policy: HealthPolicy | None = None,
    breaker: BreakerPolicy = STEADY,
    spawn: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]] = asyncio.create_task,
) -> Prober:
    """A prober whose answers are believed."""
    likeness = bound(breaker=breaker)
    binding = Binding(likeness.info, replica, likeness.timeouts, likeness.gate)

    def saw(binding: Binding, health: WorkerHealth) -> None:
        binding.gate.health.saw(health)

    return Prober(binding, policy or HealthPolicy(), saw, spawn)


def gaps(moments: list[float]) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(moments)]


def test_the_interval_and_its_spread():
    """ORCH-3602: a replica is asked every 5 s, give or take a fifth, drawn anew each time."""

    async def main() -> list[float]:
        replica = Replica()
        prober = prober_of(replica)
        prober.ask_soon()
        await asyncio.sleep(5000)
        prober.stop()
        return gaps(replica.health_asked)

    waits = run_many(main())
    print(f"{len(waits)} questions, {min(waits):.2f} to {max(waits):.2f} s apart")

    assert 4.0 <= min(waits) < 4.1
    assert 5.9 < max(waits) <= 6.0
    assert sum(waits) / len(waits) == pytest.approx(5, abs=0.15)


@virtual
async def test_one_question_at_a_time():
    """ORCH-3602: while a replica takes its time to answer it is not asked again, whoever is in a hurry."""
    replica = Patient(3.0)
    prober = prober_of(replica)
    for _ in range(100):
        prober.ask_soon()
        await asyncio.sleep(0.5)
    prober.stop()

    assert replica.most == 1
    assert len(replica.health_asked) > 5


@virtual
async def test_many_reasons_make_one_question():
    """ORCH-3602: whatever makes a question urgent, a replica is asked at most once a second for it."""
    replica = Replica()
    prober = prober_of(replica)
    for _ in range(1000):
        prober.ask_soon()
        await asyncio.sleep(0.01)
    prober.stop()

    assert replica.health_asked[0] == moment(0.05)
    assert min(gaps(replica.health_asked)) == moment(1.0)
    assert len(replica.health_asked) == 10


@virtual
async def test_an_earlier_question_takes_the_place_of_a_later_one():
    """ORCH-3602: of two wishes the earlier one counts, in whichever order they come."""
    for wishes in ((5.0, 1.0), (1.0, 5.0)):
        replica = Replica()
        prober = prober_of(replica)
        began = now()
        for wish in wishes:
            prober.ask_in(wish)
        await asyncio.sleep(1.5)
        prober.stop()

        assert [at - began for at in replica.health_asked] == [moment(1.0)]


@virtual
async def test_loading_is_asked_every_second():
    """ORCH-3602: an engine that loads its model is asked every second, and when it is done, at the usual pace."""
    replica = Replica(health=LOADING)
    prober = prober_of(replica, HealthPolicy(spread=0))
    prober.ask_soon()
    await asyncio.sleep(4.5)
    replica.answer = READY
    await asyncio.sleep(9)
    prober.stop()

    assert gaps(replica.health_asked) == [moment(wait) for wait in (1, 1, 1, 1, 1, 5)]


@virtual
async def test_a_replica_that_comes_back_is_asked_again_soon():
    """ORCH-3602: a dead replica is asked at the usual pace; its first good answer is followed up within a second."""
    replica = Replica(health=DOWN)
    prober = prober_of(replica, HealthPolicy(spread=0))
    prober.ask_soon()
    await asyncio.sleep(11)
    assert gaps(replica.health_asked) == [moment(5), moment(5)]
    replica.answer = READY
    await asyncio.sleep(10)
    prober.stop()

    assert gaps(replica.health_asked)[2:4] == [moment(5), moment(1)]
    assert prober._binding.gate.health.belief == "ready"


@virtual
async def test_an_open_breaker_is_asked_for_in_time():
    """ORCH-3602: the question that lets a breaker half open comes when its span is over, however long the interval."""
    replica = Replica()
    prober = prober_of(replica, HealthPolicy(interval=600, spread=0))
    trip(prober._binding, now())
    assert prober.next_in(now()) == moment(5)
    await asyncio.sleep(4.99)

    assert prober.next_in(now()) == moment(0.05)  # never at once: many breakers may wait for it


@virtual
async def test_stopped_it_asks_no_more():
    """ORCH-3602: once stopped there is no question more, and one under way is dropped unheard."""
    heard: list[WorkerHealth] = []
    for pause in (0.01, 1.0):
        replica = Patient(2.0)
        likeness = bound()
        binding = Binding(likeness.info, replica, likeness.timeouts, likeness.gate)
        prober = Prober(binding, HealthPolicy(), lambda _, health: heard.append(health), asyncio.create_task)
        prober.ask_soon()
        await asyncio.sleep(pause)
        prober.stop()
        prober.ask_soon()
        await asyncio.sleep(60)

        assert replica.asking == 0
        assert replica.health_asked == heard == []


class Confused(Replica):
    """Its first answer is no health at all: what it is given, raised or returned."""

    def __init__(self, first: object) -> None:
        super().__init__()
        self.first = first
        self.props_asked: list[float] = []

    async def health(self) -> WorkerHealth:
        health = await super().health()
        return health if len(self.health_asked) > 1 else self._confused()

    async def props(self) -> WorkerProps:
        self.props_asked.append(now())
        return await super().props() if len(self.props_asked) > 1 else self._confused()

    def _confused(self) -> Any:  # that is its fault
        if isinstance(self.first, BaseException):
            raise self.first
        return self.first


@pytest.mark.parametrize("first", [None, "ready", asyncio.CancelledError()], ids=["None", "a word", "cancelled"])
@virtual
async def test_a_bad_answer_is_not_the_last(first: object):
    """ORCH-3602: an adapter whose answer is no health is asked again in time, and then believed."""
    replica = Confused(first)
    prober = prober_of(replica, HealthPolicy(spread=0))
    prober.ask_soon()
    await asyncio.sleep(12)
    prober.stop()

    assert gaps(replica.health_asked) == [moment(5), moment(5)]
    assert prober._binding.gate.health.belief == "ready"


@virtual
async def test_a_question_that_ends_as_it_begins():
    """ORCH-3602: where tasks start eagerly, a question that is over at once keeps off no urgent one."""
    replica = Replica()
    loop = asyncio.get_running_loop()
    prober = prober_of(replica, HealthPolicy(spread=0), spawn=lambda work: eager(loop, work))
    owed: asyncio.Future[object] = loop.create_future()
    prober._binding.unanswered.add(owed)  # so that it is not asked, and the question is over
    prober.ask_in(1)
    await asyncio.sleep(1.5)
    prober._binding.unanswered.discard(owed)
    prober.ask_soon()
    await asyncio.sleep(1)
    prober.stop()

    assert replica.health_asked == [moment(2)]


# --- through the host


@virtual
async def test_what_is_no_health_and_no_props():
    """ORCH-3602: a wrong answer is the adapter's fault, told by name, and the replica is watched on."""
    replica = Confused(None)
    async with host_of(replica) as host:
        health = (await host.health("pool"))["0"]
        props = (await host.props("pool"))["0"]
        await asyncio.sleep(70)
        snapshot = host.capabilities().pools["pool"].replicas["0"]

    assert (health.state, health.detail) == (
        "down",
        "the adapter for words answered a NoneType, not a WorkerHealth · pool/0 · report it to the adapter's author",
    )
    assert isinstance(props, AdapterError)
    assert (props.detail, "answered a NoneType, not a WorkerProps" in props.message) == ("plugin", True)
    assert len(replica.health_asked) > 10
    assert snapshot.capabilities is not None


@virtual
async def test_back_a_second_after_the_engine_is_ready():
    """ORCH-3602: a task that meets a loading engine wakes the prober, and the pool is back soon after it has loaded."""
    replica = Replica()
    async with host_of(replica) as host:
        await asyncio.sleep(7)  # it was ready, and is asked no more for some seconds
        replica.answer, replica.scripts = LOADING, [(loading(),)]
        error = await outcome_of(host)
        failed_at = now()
        asked = len(replica.health_asked)
        await asyncio.sleep(1)
        assert len(replica.health_asked) == asked + 1
        assert replica.health_asked[-1] - failed_at <= 1

        await asyncio.sleep(20)
        replica.answer, replica.scripts = READY, [ANSWER]
        ready_at = now()
        while not isinstance(await outcome_of(host), list):
            await asyncio.sleep(0.01)

    assert getattr(error, "detail", None) == "loading"
    assert now() - ready_at <= 1.02


@virtual
async def test_an_engine_that_was_ready_all_the_time():
    """ORCH-3602: a single 503 of an engine that says it is ready keeps it out for a second at most."""
    replica = Replica((loading(),), ANSWER)
    async with host_of(replica) as host:
        await asyncio.sleep(0.06)
        await outcome_of(host)
        began = now()
        while not isinstance(await outcome_of(host), list):
            await asyncio.sleep(0.01)

    assert 0.9 <= now() - began <= 1.02


@pytest.mark.parametrize(("failure", "hurries"), [(overloaded(), True), (loading(), True), (refused(), False)])
@virtual
async def test_what_hurries_the_prober(failure: Exception, hurries: bool):
    """ORCH-3602: push-back and loading are asked about soon; a fault is the breaker's to judge."""
    replica = Replica((failure,))  # type: ignore[arg-type]
    async with host_of(replica) as host:
        await asyncio.sleep(0.06)
        began = now()
        for _ in range(10):
            await outcome_of(host, task(max_attempts=1))
            await asyncio.sleep(0.1)
        asked = [at - began for at in replica.health_asked if at > began]

    assert len(asked) == hurries
    assert all(at <= 1 for at in asked)


@virtual
async def test_a_dead_replica_is_found_without_a_task():
    """ORCH-3602: two answers against it make a replica down, and no task is sent there any more."""
    replica = Replica()
    async with host_of(replica, Replica()) as host:
        await asyncio.sleep(1)
        replica.answer = DOWN
        await asyncio.sleep(12.1)
        for _ in range(4):
            assert isinstance(await outcome_of(host), list)

    assert replica.begun == 0


@virtual
async def test_a_breaker_that_waits_for_a_health_that_hangs():
    """ORCH-3602: while the health of a replica with an open breaker hangs, no task is told to come back at once."""
    replica = Patient(99)
    replica.scripts = [(refused(),)]
    policy = PoolPolicy(breaker=BreakerPolicy(consecutive=1, spread=0), health=HealthPolicy(fall=99))
    async with host_of(replica, policy=policy) as host:
        await outcome_of(host, task(max_attempts=1))
        told = []
        for _ in range(30):
            await asyncio.sleep(0.5)
            error = await outcome_of(host, task(max_attempts=1))
            assert isinstance(error, PoolUnavailable)
            assert error.detail == "all_open"
            told.append(error.retry_after)

    assert ASKING in told
    assert min(told) > 0.01
