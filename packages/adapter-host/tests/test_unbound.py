"""A task in a back-off whose replica, or whole pool, is unbound meanwhile (ORCH-3600, ORCH-3602)."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from llama_orch_adapter_api import PoolUnavailable, TokenEvent, WorkerError
from llama_orch_adapter_host import AdapterHost, HostConfig, PoolConfig, PoolPolicy

from .adapters import plugins_with, task, virtual  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import (  # type: ignore[import-not-found]  # as above
    ANSWER,
    Replica,
    left_behind,
    outcome_of,
    overloaded,
)

FULL = (overloaded(5.0),)
OTHER = HostConfig({"other": PoolConfig(engine="words", replicas=({},))})


def bound_to(*replicas: Replica, count: int, policy: PoolPolicy | None = None) -> AdapterHost:
    """A host whose `pool` has the first `count` of them; the others are bound later, in turn."""
    host = AdapterHost(plugins=plugins_with(*replicas))
    for i in range(count):
        host.bind("pool", "words", {}, replica_id=str(i), policy=policy)
    return host


async def in_back_off(host: AdapterHost, **facts: Any) -> tuple[asyncio.Task[Any], str]:
    """A task that every replica of the pool has pushed back, and waits."""
    request = task(**facts)
    asking = asyncio.create_task(outcome_of(host, request))
    await asyncio.sleep(1)
    assert not asking.done()
    return asking, request.task_id


@pytest.mark.parametrize("how", ["unbind", "reload", "pinned"])
@pytest.mark.parametrize("count", [1, 2])
@virtual
async def test_nobody_is_left(how: str, count: int):
    """A task whose last replica is unbound in its back-off fails with what became of it, never for a fault of ours."""
    replicas = [Replica(FULL) for _ in range(count)]
    async with bound_to(*replicas, Replica(), count=count) as host:
        asking, task_id = await in_back_off(host, replica_id="0" if how == "pinned" else None)
        if how == "reload":
            await host.reload(OTHER)
        else:
            for i in range(count):
                await host.unbind("pool", str(i))
        outcome = await asking
        record = host.explain(task_id)

    assert isinstance(outcome, PoolUnavailable)
    assert (outcome.detail, outcome.message) == ("overloaded", "the queue is full")
    assert record is not None
    assert record.ending == "failed"
    assert left_behind(host) == []


@pytest.mark.parametrize("pin", [None, "0"])
@virtual
async def test_bound_again_it_takes_the_task(pin: str | None):
    """A pool that is unbound and bound again while a task waits takes that task, pinned or not."""
    async with bound_to(Replica(FULL), Replica(), count=1) as host:
        asking, task_id = await in_back_off(host, replica_id=pin)
        pool = host._registry.pool("pool")
        await host.unbind("pool", "0")
        host.bind("pool", "words", {})
        outcome: Sequence[TokenEvent] | WorkerError = await asking
        record = host.explain(task_id)

        assert outcome == list(ANSWER)
        assert record is not None
        assert [attempt.generation for attempt in record.attempts] == [1, 2]
        assert host._registry.pool("pool") is pool
        assert left_behind(host) == []


@virtual
async def test_a_pool_in_its_place_stands_in():
    """A task whose pool is gone when its back-off ends goes to the pool that stands in for it."""
    async with bound_to(Replica(FULL), Replica(), count=1, policy=PoolPolicy(fallback=("spare",))) as host:
        asking, task_id = await in_back_off(host)
        await host.unbind("pool", "0")
        host.bind("spare", "words", {})
        outcome = await asking
        record = host.explain(task_id)

    assert outcome == list(ANSWER)
    assert record is not None
    assert [attempt.replica for attempt in record.attempts] == ["pool/0", "spare/0"]


@virtual
async def test_a_policy_of_its_own():
    """A pool that is bound again is treated as it was bound: what its name once had is not kept."""
    async with bound_to(Replica(FULL), Replica(), count=1, policy=PoolPolicy(max_in_flight=7)) as host:
        asking, _ = await in_back_off(host)
        await host.unbind("pool", "0")
        host.bind("pool", "words", {})
        policy = host._registry.pool("pool").policy
        await asking

    assert policy == PoolPolicy()
