import asyncio
from typing import Any

import pytest
from llama_orch_adapter_api import PoolUnavailable, Timeouts, WorkerReset
from llama_orch_adapter_host import AdapterHost
from llama_orch_adapter_host._events import ReplicaDrained

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    Engine,
    Words,
    Yard,
    drained,
    end,
    moment,
    now,
    task,
    virtual,
)

SHORT = Timeouts(drain=2.5, preload=5)


def two(yard: Yard) -> AdapterHost:
    """A host with two replicas in `chat`."""
    host = AdapterHost(plugins=yard.plugins)
    for name in "ab":
        host.bind("chat", "words", {"url": f"http://{name}"}, replica_id=name, timeouts=SHORT)
    return host


async def reading(host: AdapterHost, replica: str) -> "asyncio.Task[list[Any]]":
    return asyncio.create_task(drained(await host.submit("chat", task(replica_id=replica))))


@virtual
async def test_draining_a_replica():
    """ORCH-3600: a drained replica takes no task, its streams end, and it stays bound; the others go on."""
    yard = Yard()
    async with two(yard) as host:
        streams = [await reading(host, name) for name in "ab"]
        draining = asyncio.create_task(host.drain("chat", "a"))
        await asyncio.sleep(0.1)
        with pytest.raises(PoolUnavailable) as caught:
            await host.submit("chat", task(replica_id="a"))
        free = await host.submit("chat", task())
        cut = await draining
        ends = [(await stream)[-1] for stream in streams]
        health = await host.health("chat")

        assert (caught.value.detail, caught.value.retriable) == ("draining", True)
        assert free.replica == "chat/b"
        assert (cut, ends) == (0, [end(3), end(3)])
        assert list(health) == ["a", "b"]
        assert yard.closed == [0, 0]


@virtual
async def test_draining_cuts_at_the_limit():
    """ORCH-3600: `drain` of a pool drains each replica, and tells how many streams had to be cut."""
    yard = Yard(lambda url: Engine(words=99 if url == "http://a" else 2))
    async with two(yard) as host:
        streams = [await reading(host, name) for name in "aaab"]
        at = now()
        cut = await host.drain("chat")

        assert (cut, now() - at) == (3, moment(2.5))
        for stream in streams[:3]:
            with pytest.raises(WorkerReset) as caught:
                await stream
            assert caught.value.detail == "drained"
        assert (await streams[3])[-1] == end(2)
        assert await host.drain("chat") == 0


@virtual
async def test_a_stream_that_ended_and_is_held_is_not_cut():
    """ORCH-3600: a stream that ended but is held is closed at the limit, and counts as whole."""
    yard = Yard(lambda _: Engine(words=1))
    async with two(yard) as host:
        held = await host.submit("chat", task(replica_id="a"))
        last = [await anext(held) for _ in range(3)][-1]
        cut = await host.drain("chat", "a")

        assert (last, cut) == (end(1), 0)
        assert yard.built[0].freed == 1


@virtual
async def test_two_drains_of_one_replica():
    """ORCH-3600: whoever drains what is drained already waits too; it is told once, and each stream is counted once."""
    yard = Yard(lambda _: Engine(words=99))
    host = two(yard)
    told: list[Any] = []
    host.observe(lambda event: told.append(event.__struct_config__.tag))
    async with host:
        streams = [await reading(host, "a") for _ in range(3)]
        cuts = await asyncio.gather(host.drain("chat", "a"), host.drain("chat"), host.unbind("chat", "a"))

        assert sum(cuts) == 3
        assert (told.count("drain"), told.count("drained"), told.count("unbind")) == (2, 2, 1)
        assert all(isinstance(each, WorkerReset) for each in await asyncio.gather(*streams, return_exceptions=True))


@virtual
async def test_a_drained_replica_comes_back_by_a_rebind():
    """ORCH-3600: a drained replica takes tasks again as its next generation."""
    yard = Yard()
    async with two(yard) as host:
        await host.drain("chat", "a")
        await host.rebind("chat", "words", {}, replica_id="a")
        stream = await host.submit("chat", task(replica_id="a"))

        assert stream.record.attempts[0].generation == 2
        await asyncio.sleep(0.1)
        assert yard.closed == [1, 0, 0]


@virtual
async def test_unbinding_a_replica():
    """ORCH-3600: an unbound replica is out at once, it is closed once, and its health is asked no more.

    That an old replica's health went on being checked is production-stack's issue 680.
    """
    yard = Yard()
    async with two(yard) as host:
        await asyncio.sleep(1)
        stream = await reading(host, "a")
        unbinding = asyncio.create_task(host.unbind("chat", "a"))
        await asyncio.sleep(0.1)
        with pytest.raises(PoolUnavailable, match="which the task is pinned to, is not bound"):
            await host.submit("chat", task(replica_id="a"))
        assert list(host.capabilities().pools["chat"].replicas) == ["b"]
        assert await unbinding == 0
        asked = yard.built[0].asked
        await asyncio.sleep(60)

        assert (await stream)[-1] == end(3)
        assert yard.closed == [1, 0]
        assert asked > 0
        assert yard.built[0].asked == asked
        assert yard.built[1].asked > 5
        with pytest.raises(PoolUnavailable, match="no replica 'a'"):
            await host.unbind("chat", "a")


@virtual
async def test_a_name_that_was_unbound_is_free():
    """ORCH-3600: while its streams still end, an unbound name can be bound again, with the next generation."""
    yard = Yard()
    async with two(yard) as host:
        stream = await reading(host, "a")
        unbinding = asyncio.create_task(host.unbind("chat", "a"))
        await asyncio.sleep(0)
        info = host.bind("chat", "words", {}, replica_id="a", timeouts=SHORT)
        new = await host.submit("chat", task(replica_id="a"))
        await unbinding

        assert info.generation == 2
        assert (await stream)[-1] == end(3)
        assert new.record.attempts[0].generation == 2
        assert yard.closed == [1, 0, 0]
        assert host._registry.binding("chat", "a").info == info


@virtual
async def test_unbinding_the_last_replica():
    """ORCH-3600: a pool ends with its last replica."""
    yard = Yard()
    async with two(yard) as host:
        await asyncio.gather(host.unbind("chat", "a"), host.unbind("chat", "b"))

        assert host.pools() == ()
        assert yard.closed == [1, 1]
        with pytest.raises(PoolUnavailable) as caught:
            await host.submit("chat", task())
        assert caught.value.detail == "unknown_pool"


@virtual
async def test_whoever_stops_waiting_stops_no_unbind():
    """ORCH-3600: an unbind goes on when its caller is cancelled, and an adapter's close that was begun is finished."""

    class Slow(Engine):
        done = 0

        async def aclose(self) -> None:
            await super().aclose()
            await asyncio.sleep(1)
            self.done += 1

    yard = Yard(lambda _: Slow())
    async with two(yard) as host:
        unbinding = asyncio.create_task(host.unbind("chat", "a"))
        await asyncio.sleep(0.5)
        unbinding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unbinding

    assert now() == moment(1.5)
    assert [adapter.done for adapter in yard.built] == [1, 1]
    assert yard.closed == [1, 1]


@virtual
async def test_whoever_stops_waiting_stops_no_drain():
    """ORCH-3600: a drain goes on when its caller is cancelled: its streams are cut at the limit, and that is told."""
    yard = Yard(lambda _: Engine(words=99))
    host = two(yard)
    told: list[ReplicaDrained] = []
    host.observe(lambda event: told.append(event) if isinstance(event, ReplicaDrained) else None)
    async with host:
        stream = await reading(host, "a")
        at = now()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await host.drain("chat", "a")
        with pytest.raises(WorkerReset):
            await stream

        assert now() - at == moment(2.5)
        await asyncio.sleep(0.1)
        assert [(event.cut, event.duration) for event in told] == [(1, moment(2.5))]
        with pytest.raises(PoolUnavailable) as caught:
            await host.submit("chat", task(replica_id="a"))
        assert caught.value.detail == "draining"


@virtual
async def test_a_host_that_stops_while_it_drains():
    """Battery 30: a stop ends the streams of generations that were taken over from, and closes each adapter once."""
    yard = Yard(lambda _: Engine(words=99))
    host = two(yard)
    streams = [await reading(host, name) for name in "ab"]
    await host.rebind("chat", "words", {}, replica_id="a")
    unbinding = asyncio.create_task(host.unbind("chat", "b"))
    draining = asyncio.create_task(host.drain("chat", "a"))
    await asyncio.sleep(0.5)
    at = now()
    await host.aclose(drain=0)

    assert now() == at
    endings = await asyncio.gather(*streams, return_exceptions=True)
    assert [isinstance(error, WorkerReset) and error.detail for error in endings] == ["drained", "drained"]
    assert (await unbinding, await draining) == (0, 0)
    assert yard.closed == [1, 1, 1]
    assert [adapter.open_at_close for adapter in yard.built] == [[0], [0], [0]]


@pytest.mark.parametrize("given_up", [False, True])
@virtual
async def test_a_stop_tells_who_is_drained(given_up: bool):
    """Battery 30: each replica that a stop drains is told to be drained when it is, with the streams that were cut."""
    yard = Yard(lambda url: Engine(words=99 if url == "http://a" else 1))
    host = AdapterHost(plugins=yard.plugins)
    for name in "abc":
        host.bind("chat", "words", {"url": f"http://{name}"}, replica_id=name, timeouts=Timeouts(drain=5))
    events: list[Any] = []
    host.observe(events.append)
    streams = [await reading(host, name) for name in "aab"]
    await host.drain("chat", "c")
    if given_up:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2):
                await host.aclose()
    else:
        await host.aclose()
    endings = await asyncio.gather(*streams, return_exceptions=True)
    assert [isinstance(each, WorkerReset) for each in endings] == [True, True, False]
    told = {event.replica_id: event for event in events if isinstance(event, ReplicaDrained)}
    tags = [(event.__struct_config__.tag, event.replica_id) for event in events if hasattr(event, "leases")]

    assert sorted(tags) == [("drain", "a"), ("drain", "b"), ("drain", "c")]
    assert {name: event.cut for name, event in told.items()} == {"a": 2, "b": 0, "c": 0}
    assert len([event for event in events if isinstance(event, ReplicaDrained)]) == 3
    assert told["a"].duration == pytest.approx(2 if given_up else 5, abs=0.06)
    assert told["b"].duration <= 1.1


@virtual
async def test_a_stopped_host_changes_nothing():
    """Battery 30: a host that has stopped refuses every change as draining."""
    yard = Yard()
    host = two(yard)
    await host.aclose()
    for call in (
        host.rebind("chat", "words", {}, replica_id="a"),
        host.drain("chat"),
        host.unbind("chat", "a"),
        host.reload(),
    ):
        with pytest.raises(PoolUnavailable, match="this host is stopping") as caught:
            await call
        assert caught.value.detail == "draining"


@virtual
async def test_a_deaf_stream_does_not_hold_up_a_drain():
    """ORCH-3600: a stream whose adapter does not let go is waited for no longer than the limit and a second."""

    class Deaf(Words):
        released = False

        async def clean_up(self) -> None:
            while not self.released:
                try:
                    await asyncio.sleep(99)
                except asyncio.CancelledError:
                    continue

    deaf = Deaf(words=99)
    yard = Yard(lambda _: deaf)
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {}, timeouts=SHORT)
    async with host:
        stream = await reading(host, "0")
        at = now()
        assert await host.unbind("chat", "0") == 1
        assert now() - at == moment(3.5)
        deaf.released = True
        with pytest.raises(WorkerReset):
            await stream
    assert deaf.closed == 1
