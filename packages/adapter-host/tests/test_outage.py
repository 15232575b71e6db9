"""What a total failure costs the engines and the callers (battery 13)."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest
from llama_orch_adapter_api import PoolUnavailable, TaskRequest, Timeouts, TokenEvent, WorkerError
from llama_orch_adapter_host import AdapterHost, PoolPolicy
from llama_orch_adapter_host._retry import RetryPolicy

from .adapters import host_of, now, run_many, task  # type: ignore[import-not-found]  # no packages
from .replicas import (  # type: ignore[import-not-found]  # as above
    ANSWER,
    DOWN,
    NEVER_OPEN,
    Replica,
    Step,
    left_behind,
    outcome_of,
    overloaded,
    praise,
    refused,
    reset,
    trip,
)

SUBMITS = 10_000
BOUND = 1.10 + 10 / SUBMITS
"""Attempts a submit."""


async def outage(host: AdapterHost, replicas: list[Replica], seed: int, *, opens: bool = False) -> float:
    """10^4 tasks at random moments, a thousand a second; attempts a submit. If it may not open the breaker does not."""
    rng = random.Random(seed)
    readers = []
    for number in range(SUBMITS):
        if not opens and number % 100 == 0:
            praise(host)
        await asyncio.sleep(rng.expovariate(1000))
        session = rng.choice((None, str(rng.randrange(50))))
        readers.append(asyncio.create_task(outcome_of(host, task(session_id=session))))
    outcomes = await asyncio.gather(*readers)
    assert all(isinstance(outcome, WorkerError) for outcome in outcomes)
    assert left_behind(host) == []
    return sum(replica.begun for replica in replicas) / SUBMITS


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    "script",
    [(refused(),), (0.01, reset()), (overloaded(0.001),), (99,)],
    ids=["refused", "reset", "overloaded", "silent"],
)
def test_an_outage_is_not_amplified(script: tuple[Step, ...]):
    """Battery 13: with all replicas dead 10^4 submits make at most 1.10 · 10^4 attempts and ten, breakers or none."""
    seed = random.randrange(2**32)

    async def main() -> float:
        dead = [Replica(script) for _ in range(8)]
        policy = PoolPolicy(breaker=NEVER_OPEN)
        async with host_of(*dead, policy=policy, timeouts=Timeouts(first_token=0.2)) as host:
            return await outage(host, dead, seed)

    figure = run_many(main())
    print(f"seed {seed}: {figure:.4f} attempts a submit, at most {BOUND:.4f}")

    assert figure <= BOUND


def test_breakers_end_an_outage_sooner():
    """Battery 13: with breakers dead replicas are asked a handful of times, and only to see whether they are back."""
    seed = random.randrange(2**32)

    async def main() -> float:
        dead = [Replica((refused(),), health=DOWN) for _ in range(8)]
        async with host_of(*dead) as host:
            return await outage(host, dead, seed, opens=True)

    figure = run_many(main())
    print(f"seed {seed}: {figure:.4f} attempts a submit")

    assert figure <= 8 * 5 / SUBMITS


def test_a_trickle_of_failures_is_repaired():
    """Battery 13: the budget bears a trickle: where one task in twenty fails once, none is lost."""
    seed = random.randrange(2**32)

    class Flaky(Replica):
        """Refuses one task in twenty, and none that was refused before."""

        rng = random.Random(seed)
        known: ClassVar[set[str]] = set()

        def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
            fails = task.task_id not in self.known and self.rng.random() < 0.05
            self.known.add(task.task_id)
            self.scripts = [(refused(),)] if fails else [ANSWER]
            return super().submit(task)

    async def main() -> int:
        async with host_of(*[Flaky() for _ in range(8)]) as host:
            outcomes = [await outcome_of(host) for _ in range(2000)]
        return sum(isinstance(outcome, WorkerError) for outcome in outcomes)

    lost = run_many(main())
    print(f"seed {seed}: {lost} of 2000 tasks failed")

    assert lost == 0


async def refusals(count: int) -> tuple[list[float], int]:
    """How long each of 2000 refusals of so many replicas took, all of them open, and how many tasks were sent."""
    dead = [Replica((refused(),), health=DOWN) for _ in range(count)]
    spans = []
    async with host_of(*dead, policy=PoolPolicy(retry=RetryPolicy(attempts=1))) as host:
        for binding in host._registry.all():
            trip(binding, now())
        begun = sum(replica.begun for replica in dead)
        for number in range(2000):
            request = task(session_id="s" if number % 2 else None)
            began = time.thread_time()
            try:
                await host.submit("pool", request)
            except PoolUnavailable as error:
                spans.append(time.thread_time() - began)
                assert error.detail == "all_open"
                assert error.retry_after is not None
                assert 0 < error.retry_after <= 6
        assert now() == 0.0
        return spans, sum(replica.begun for replica in dead) - begun


def test_an_open_pool_refuses_in_no_time():
    """Battery 13: with every breaker open a submit fails within 1 ms (p99; asserted at 10), be it one of 1,000."""
    medians = {}
    for count in (8, 1000):
        spans, attempts = run_many(refusals(count))
        medians[count] = statistics.median(spans)
        p99 = statistics.quantiles(spans, n=100)[98]
        print(f"a refusal of {count} open replicas takes {medians[count] * 1e6:.0f} us, p99 {p99 * 1e6:.0f} us")

        assert (len(spans), attempts) == (2000, 0)
        assert p99 < 0.010

    assert medians[1000] < 3 * medians[8]
