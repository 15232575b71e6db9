"""A breaker's way back to life, through the host (battery 18)."""

import asyncio

from llama_orch_adapter_api import PoolUnavailable, Token, WorkerError, WorkerHealth
from llama_orch_adapter_host import AdapterHost, PoolPolicy
from llama_orch_adapter_host._breaker import Breaker, BreakerPolicy
from llama_orch_adapter_host._events import BreakerChanged, HostEvent
from llama_orch_adapter_host._retry import RetryPolicy

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    cancel_now,
    end,
    host_of,
    moment,
    now,
    run_many,
    task,
    virtual,
)
from .replicas import ANSWER, DOWN, READY, Replica, Step, outcome_of, refused  # type: ignore[import-not-found]  # as above

POLICY = PoolPolicy(
    retry=RetryPolicy(attempts=1),
    breaker=BreakerPolicy(spread=0, open_for=5, probe_lease=10),
)
CALLERS = 1000
SLOW: tuple[Step, ...] = (STARTED, 2.0, Token("yes", 0), 5.0, end(1))


def breaker_of(host: AdapterHost) -> Breaker:
    breaker: Breaker = host._registry.binding("pool", "0").gate.breaker
    return breaker


async def trip(host: AdapterHost, replica: Replica) -> None:
    """Open the breaker at this moment; what the replica plays afterwards is the test's."""
    replica.scripts = [(refused(),)]
    for _ in range(5):
        await outcome_of(host)
    assert breaker_of(host).state == "open"


async def rush(host: AdapterHost, count: int = CALLERS) -> list[object]:
    """So many callers in one moment."""
    return list(await asyncio.gather(*(outcome_of(host) for _ in range(count))))


def test_a_thousand_callers_at_expiry():
    """Battery 18: of 1000 callers in the moment of half-open one reaches the engine; the others are refused at once."""

    async def main() -> tuple[int, list[object], float]:
        replica = Replica()
        async with host_of(replica, policy=POLICY) as host:
            await trip(host, replica)
            replica.scripts, replica.begun = [SLOW], 0
            while breaker_of(host).state == "open":
                await asyncio.sleep(0.01)
            half_open_at = now()
            outcomes = await rush(host)
            return replica.begun, outcomes, half_open_at

    begun, outcomes, half_open_at = run_many(main())
    refusals = [outcome for outcome in outcomes if isinstance(outcome, WorkerError)]
    print(f"{begun} of {len(outcomes)} callers reached the engine, half open at {half_open_at:.2f} s")

    assert begun == 1
    assert 5.0 <= half_open_at <= 5.1
    assert len(refusals) == CALLERS - 1
    assert {(type(error), error.detail) for error in refusals} == {(PoolUnavailable, "all_open")}


@virtual
async def test_it_closes_at_the_first_token():
    """Battery 18: until the probe's first token all others are refused; from then on, not from its end, all pass."""
    replica = Replica()
    async with host_of(replica, policy=POLICY) as host:
        await trip(host, replica)
        replica.scripts = [SLOW]
        await asyncio.sleep(5.1)
        probing = asyncio.create_task(outcome_of(host))
        await asyncio.sleep(1.9)
        assert isinstance(await outcome_of(host), PoolUnavailable)
        await asyncio.sleep(0.2)
        assert breaker_of(host).state == "closed"
        replica.scripts = [ANSWER]
        assert isinstance(await outcome_of(host), list)

        assert not probing.done()
        assert isinstance(await probing, list)


@virtual
async def test_a_probe_that_hangs_is_replaced():
    """Battery 18: a probe without a token keeps its place for 10 s; then another one may try, and decides alone."""
    replica = Replica()
    async with host_of(replica, policy=POLICY) as host:
        await trip(host, replica)
        replica.scripts, replica.begun = [(STARTED, 30.0, refused()), ANSWER], 0
        await asyncio.sleep(5.1)
        hung = asyncio.create_task(outcome_of(host))
        await asyncio.sleep(9.9)
        error = await outcome_of(host)
        assert isinstance(error, PoolUnavailable)
        assert error.retry_after == moment(0.1)
        assert replica.begun == 1
        await asyncio.sleep(0.2)
        outcomes = await rush(host, 10)

        assert sum(isinstance(outcome, list) for outcome in outcomes) >= 1
        assert breaker_of(host).state == "closed"
        await hung
        assert breaker_of(host).state == "closed"  # what it came to decides nothing any more


@virtual
async def test_a_cancelled_probe_changes_nothing():
    """Battery 18: a probe that is cancelled gives its place back; the breaker stays half open, for the next caller."""
    events: list[HostEvent] = []
    replica = Replica()
    async with host_of(replica, policy=POLICY) as host:
        await trip(host, replica)
        host.observe(events.append)
        replica.scripts, replica.begun = [(99,)], 0
        await asyncio.sleep(5.1)
        for how in ("cancel", "caller", "deadline"):
            request = task(deadline_ms=500 if how == "deadline" else None)
            probing = asyncio.create_task(outcome_of(host, request))
            await asyncio.sleep(0.3)
            assert isinstance(await outcome_of(host), PoolUnavailable)
            if how == "cancel":
                cancel_now(host, request)
            elif how == "caller":
                probing.cancel()
            await asyncio.wait({probing})
            assert breaker_of(host).state == "half_open"
        assert replica.begun == 3
        replica.scripts = [ANSWER]
        assert isinstance(await outcome_of(host), list)

    assert [event.state for event in events if isinstance(event, BreakerChanged)] == ["half_open", "closed"]


@virtual
async def test_a_failed_probe_opens_for_twice_as_long():
    """Battery 18: a probe that fails opens the breaker again, for double its span, and the prober keeps to that."""
    replica = Replica()
    async with host_of(replica, policy=POLICY) as host:
        await trip(host, replica)
        await asyncio.sleep(5.1)
        await outcome_of(host)
        opened_at = now()
        assert breaker_of(host).state == "open"
        replica.scripts = [ANSWER]
        while not isinstance(await outcome_of(host), list):
            await asyncio.sleep(0.01)

        assert 10 <= now() - opened_at <= 10.1


@virtual
async def test_health_is_asked_first():
    """Battery 18: a breaker half opens when health answers, which no submit waits for; until then it stays open."""

    class Thinking(Replica):
        """Takes three seconds to say how it is."""

        async def health(self) -> WorkerHealth:
            await asyncio.sleep(3)
            return await super().health()

    replica = Thinking()
    async with host_of(replica, policy=POLICY) as host:
        await asyncio.sleep(4)
        await trip(host, replica)
        tripped_at = now()
        replica.scripts, replica.begun = [ANSWER], 0
        while breaker_of(host).state == "open":
            began = now()
            error = await outcome_of(host)
            assert isinstance(error, PoolUnavailable)
            assert now() == began
            await asyncio.sleep(0.05)

        assert replica.begun == 0
        assert 5.0 <= now() - tripped_at <= 8.2  # it was asked when the span was over, or just before
        assert isinstance(await outcome_of(host), list)


@virtual
async def test_without_health_it_stays_open():
    """Battery 18: while health speaks against it no task is sent to see; when it is well again one is, soon."""
    replica = Replica()
    async with host_of(replica, policy=POLICY) as host:
        await trip(host, replica)
        replica.answer, replica.begun = DOWN, 0
        for _ in range(100):
            await asyncio.sleep(1)
            assert isinstance(await outcome_of(host), WorkerError)
            assert breaker_of(host).state == "open"
        assert replica.begun == 0
        assert len(replica.health_asked) <= 40  # and the dead one is not asked more often than a living one

        replica.answer, replica.scripts = READY, [ANSWER]
        well_at = now()
        while not isinstance(await outcome_of(host), list):
            await asyncio.sleep(0.1)
        print(f"back {now() - well_at:.1f} s after it was well")

        assert now() - well_at <= 7.2  # two answers, the second one soon


@virtual
async def test_a_stream_from_before_the_trip_decides_nothing():
    """Battery 18: a stream that began before the breaker opened cannot close it, nor open it again."""
    for ending in (end(1), refused()):
        replica = Replica((STARTED, Token("a", 0), 5.5, ending))
        async with host_of(replica, policy=POLICY) as host:
            old = asyncio.create_task(outcome_of(host))
            await asyncio.sleep(0.1)
            await trip(host, replica)
            await asyncio.sleep(5.2)
            assert breaker_of(host).state == "half_open"
            await old

            assert breaker_of(host).state == "half_open"
