import asyncio
from typing import Any

import pytest
from llama_orch_adapter_api import BindingInfo, PoolEvent, PoolUnavailable, Timeouts
from llama_orch_adapter_host import AdapterHost, ReloadError, parse_config
from llama_orch_adapter_host._preload import HOLD

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    DOWN,
    LOADING,
    READY,
    Engine,
    Yard,
    drained,
    moment,
    now,
    task,
    virtual,
)


def event(url: str = "new", **facts: Any) -> PoolEvent:
    return PoolEvent(**{"pool_id": "chat", "engine": "words", "replica": {"url": f"http://{url}"}, **facts})


def chat(yard: Yard) -> AdapterHost:
    """A host with one replica in `chat`."""
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {}, timeouts=Timeouts(preload=5, drain=3))
    return host


async def generation(host: AdapterHost, pool: str = "chat") -> int:
    """The one that a task goes to."""
    async with host.submit(pool, task()) as stream:
        return stream.record.attempts[0].generation


@virtual
async def test_preload_then_reload():
    """ORCH-3600: a preloaded generation serves nothing until a reload with an equal event swaps it in."""
    yard = Yard()
    async with chat(yard) as host:
        info = await host.preload(event())
        before = await generation(host)
        report = await host.reload(event())
        after = await generation(host)
        await asyncio.sleep(0.1)

        assert info == BindingInfo("chat", "0", "words", generation=2)
        assert (before, after, report.rebound) == (1, 2, (info,))
        assert yard.closed == [1, 0]
        assert yard.contexts[1].timeouts == Timeouts(preload=5, drain=3)


@virtual
async def test_reload_without_preload():
    """ORCH-3600: a reload preloads itself where nobody did, or where the event is not the one that was preloaded."""
    yard = Yard()
    async with chat(yard) as host:
        first = await host.reload(event("one"))
        await host.preload(event("two"))
        second = await host.reload(event("three"))
        await asyncio.sleep(0.1)

        assert [info.generation for info in first.rebound + second.rebound] == [2, 4]
        assert yard.closed == [1, 1, 1, 0]
        assert yard.contexts[3].config.url == "http://three"


@virtual
async def test_an_event_binds_what_is_not_bound():
    """ORCH-3600: an event for a replica that is not there binds it, with the limits of its pool, or the usual ones."""
    yard = Yard()
    async with chat(yard) as host:
        await host.preload(event(replica_id="1"))
        with pytest.raises(PoolUnavailable):
            await host.submit("chat", task(replica_id="1"))
        report = await host.reload(event(replica_id="1"))
        other = await host.reload(event(pool_id="new", timeouts=Timeouts(idle=7), http={"a": 1}))

        assert [info.generation for info in report.added + other.added] == [1, 1]
        assert await generation(host, "new") == 1
        assert [context.timeouts for context in yard.contexts[1:]] == [Timeouts(preload=5, drain=3), Timeouts(idle=7)]
        assert yard.contexts[2].http == {"a": 1}


@virtual
async def test_one_is_kept_for_each_replica():
    """ORCH-3600: a newer preload replaces the one before, which is closed; an equal one keeps it and builds nothing."""
    yard = Yard()
    async with chat(yard) as host:
        infos = [await host.preload(event(url)) for url in ("one", "two", "two")]
        await host.preload(event("one", replica_id="1"))
        await asyncio.sleep(0.1)

        assert [info.generation for info in infos] == [2, 3, 3]
        assert yard.closed == [0, 1, 0, 0]
    assert yard.closed == [1, 1, 1, 1]


@virtual
async def test_what_is_kept_expires():
    """ORCH-3600: a preloaded generation that nobody swaps in is closed after its time; the reload builds another."""
    yard = Yard()
    async with chat(yard) as host:
        await host.preload(event())
        await asyncio.sleep(HOLD - 1)
        await host.preload(event())
        await asyncio.sleep(HOLD - 1)
        kept = list(yard.closed)
        await asyncio.sleep(2)
        gone = list(yard.closed)
        report = await host.reload(event())

        assert (kept, gone) == ([0, 0], [0, 1])
        assert report.rebound[0].generation == 3


@virtual
async def test_a_preload_that_fails():
    """ORCH-3600: a preload that is not ready in time is told and closed, and the one that serves goes on."""
    sick = Engine()
    sick.told = LOADING
    yard = Yard(lambda url: sick if url == "http://sick" else Engine())
    failed: list[Any] = []
    async with chat(yard) as host:
        host.observe(lambda each: failed.append(each) if each.__struct_config__.tag == "reload_failed" else None)
        with pytest.raises(ReloadError, match="it is loading: 12 of 32 layers"):
            await host.preload(event("sick"))

        assert now() == moment(5)
        assert [each.pool_id for each in failed] == ["chat"]
        assert (await generation(host), yard.closed) == (1, [0, 1])


@virtual
async def test_what_fell_ill_while_it_waited_does_not_take_over():
    """ORCH-3600: health is asked once more at the swap: a kept generation that died meanwhile changes nothing."""
    fresh = Engine()
    yard = Yard(lambda url: fresh if url == "http://new" else Engine())
    async with chat(yard) as host:
        await host.preload(event())
        fresh.told = DOWN
        with pytest.raises(ReloadError, match="it is down: connection refused"):
            await host.reload(event())
        fresh.told = READY

        assert (await generation(host), yard.closed) == (1, [0, 1])


@virtual
async def test_an_unbind_lets_go_of_what_was_kept():
    """ORCH-3600: what was preloaded for a replica is closed when that is unbound, or its pool leaves the config."""
    yard = Yard()
    async with chat(yard) as host:
        await host.preload(event())
        await host.unbind("chat", "0")
        await asyncio.sleep(0.1)
        assert yard.closed == [1, 1]
        host.bind("chat", "words", {})
        await host.preload(event())
        await host.reload(parse_config(b'[pools.other]\nengine = "words"\nreplicas = [{}]'))
        await asyncio.sleep(0.1)

        assert yard.closed == [1, 1, 1, 1, 0]


@virtual
async def test_a_generation_never_goes_back():
    """ORCH-3600: what was preloaded before a newer generation was bound is closed and built anew."""
    yard = Yard()
    async with chat(yard) as host:
        await host.preload(event(replica_id="1"))
        bound = host.bind("chat", "words", {}, replica_id="1")
        report = await host.reload(event(replica_id="1"))
        await asyncio.sleep(0.1)

        assert (bound.generation, report.rebound[0].generation) == (2, 3)
        assert yard.closed == [0, 1, 1, 0]


@virtual
async def test_a_change_meanwhile_is_not_undone():
    """ORCH-3600: a reload whose replica another call changed meanwhile fails, and leaves that as it is."""
    slow = Engine()
    slow.told = LOADING
    yard = Yard(lambda url: slow if url == "http://slow" else Engine())
    async with chat(yard) as host:
        whole = parse_config(b'[pools.chat]\nengine = "words"\nreplicas = [{ url = "http://slow" }]')
        reloading = asyncio.create_task(host.reload(whole))
        await asyncio.sleep(1)
        await host.reload(event())
        slow.told = READY
        with pytest.raises(ReloadError, match="replica chat/0: it was bound, rebound or unbound by another call"):
            await reloading
        await asyncio.sleep(0.1)

        assert await generation(host) == 3
        assert yard.closed == [1, 1, 0]


@virtual
async def test_whole_reloads_come_in_turn():
    """ORCH-3600: configs that are reloaded together are put in force one after the other, the last one last."""
    yard = Yard()
    async with chat(yard) as host:
        configs = [
            parse_config(f'[pools.chat]\nengine = "words"\nreplicas = [{{ slots = {i} }}]'.encode()) for i in range(5)
        ]
        reports = await asyncio.gather(*(host.reload(each) for each in configs))
        await asyncio.sleep(3.1)

        assert [report.rebound[0].generation for report in reports] == [2, 3, 4, 5, 6]
        assert yard.contexts[-1].config.slots == 4
        assert yard.closed == [1, 1, 1, 1, 1, 0]


@pytest.mark.parametrize("kept", [True, False])
@virtual
async def test_a_host_that_stops_during_a_reload(kept: bool):
    """Battery 30: what is being preloaded, and what was, is closed with the host, and who waits for it is told."""

    def make(url: str) -> Engine:
        engine = Engine()
        engine.told = READY if kept or url != "http://new" else LOADING
        return engine

    yard = Yard(make)
    host = chat(yard)
    if kept:
        await host.preload(event())
    else:
        calls = (host.reload(event()), host.preload(event(replica_id="1")), host.reload(event("queued")))
        waiting = [asyncio.create_task(call) for call in calls]
    await asyncio.sleep(1)
    at = now()
    await host.aclose()

    assert now() == at
    assert yard.closed == (2 if kept else 3) * [1]
    if not kept:
        for each in waiting:
            with pytest.raises(ReloadError, match="this host was stopped meanwhile"):
                await each
    with pytest.raises(PoolUnavailable, match="this host is stopping"):
        await host.preload(event())
    assert await drained_nothing(host)


async def drained_nothing(host: AdapterHost) -> bool:
    """Whether no task is taken any more."""
    try:
        await drained(await host.submit("chat", task()))
    except PoolUnavailable as error:
        return error.detail == "draining"
    return False
