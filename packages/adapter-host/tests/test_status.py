"""How every replica stands, without asking an engine."""

import asyncio

from llama_orch_adapter_api import AdapterSpec, PoolUnavailable, Timeouts
from llama_orch_adapter_host import AdapterHost, BreakerPolicy, Plugins, PoolPolicy, ReplicaStatus

from .adapters import Config, Words, task, virtual  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import DOWN, Replica, outcome_of, refused  # type: ignore[import-not-found]  # as above

ONE_FAULT = PoolPolicy(breaker=BreakerPolicy(consecutive=1, open_for=5.0, spread=0.0), max_in_flight=7)


def host_with(*adapters: Words, policy: PoolPolicy | None = None) -> AdapterHost:
    """A host whose pool `pool` has the first of these; the others are its next generations."""
    left = list(adapters)
    plugins = Plugins()
    plugins.register(AdapterSpec("words", 1, Config, lambda _: left.pop(0)))
    host = AdapterHost(plugins=plugins)
    host.bind("pool", "words", {}, policy=policy, timeouts=Timeouts(drain=30))
    return host


def only(host: AdapterHost) -> ReplicaStatus:
    (status,) = host.status()
    return status


@virtual
async def test_what_runs_and_what_is_believed():
    """A replica is unknown until it answered once; tasks count while their stream is open."""
    async with host_with(Words(), policy=ONE_FAULT) as host:
        fresh = only(host)
        stream = await host.submit("pool", task())
        busy = only(host)
        await stream.aclose()
        after = only(host)

    assert (fresh.pool_id, fresh.replica_id, fresh.engine, fresh.generation) == ("pool", "0", "words", 1)
    assert (fresh.health, fresh.breaker, fresh.reopens_in, fresh.in_flight) == ("unknown", "closed", 0.0, 0)
    assert (busy.stage, busy.health, busy.in_flight, busy.slots, busy.limit) == ("bound", "ready", 1, 4, 7)
    assert after.in_flight == 0


@virtual
async def test_a_breaker_that_is_open_tells_for_how_long():
    """Its span runs down; the engine's own words stand beside the belief."""
    async with host_with(Replica([refused()], health=DOWN), policy=ONE_FAULT) as host:
        failed = await outcome_of(host)
        tripped = only(host)
        await asyncio.sleep(2)
        later = only(host)
        await asyncio.sleep(10)
        down = only(host)

    assert isinstance(failed, PoolUnavailable)
    assert (tripped.breaker, later.breaker) == ("open", "open")
    assert 4.5 < tripped.reopens_in <= 5.0
    assert tripped.reopens_in - later.reopens_in == 2.0
    assert (down.health, down.detail) == ("down", "connection refused")


@virtual
async def test_a_generation_that_is_taken_over_from_is_leaving():
    """ORCH-3600: both generations are there until the old one's stream is over."""
    async with host_with(Words(words=3), Words()) as host:
        stream = await host.submit("pool", task())
        await host.rebind("pool", "words", {"url": "http://new"})
        both = [(each.generation, each.stage, each.in_flight) for each in host.status()]
        async for _ in stream:
            pass
        await asyncio.sleep(0.1)
        left = [(each.generation, each.stage, each.in_flight) for each in host.status()]

    assert both == [(1, "leaving", 1), (2, "bound", 0)]
    assert left == [(2, "bound", 0)]


@virtual
async def test_a_generation_that_is_built_is_no_replica_yet():
    """While it gets ready it takes no task, and is told as such; one that is drained takes no more."""

    class Slow(Words):
        async def props(self):
            await asyncio.sleep(1)
            return await super().props()

    async with host_with(Words(), Slow()) as host:
        rebinding = asyncio.create_task(host.rebind("pool", "words", {"url": "http://new"}))
        await asyncio.sleep(0.5)
        during = [(each.generation, each.stage) for each in host.status()]
        await rebinding
        await host.drain("pool")
        drained = [(each.generation, each.stage) for each in host.status()]

    assert during == [(1, "bound"), (2, "building")]
    assert drained == [(2, "leaving")]
