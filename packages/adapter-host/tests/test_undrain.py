"""Undoing a drain: each replica by itself, and never one that was asked for later."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from llama_orch_adapter_api import PoolUnavailable, Timeouts, WorkerHealth
from llama_orch_adapter_host import AdapterHost, PoolPolicy, ReloadError, ReloadReport, events, parse_config

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    DOWN,
    LOADING,
    READY,
    Engine,
    Yard,
    drained,
    end,
    now,
    task,
    virtual,
)

LIMITS = Timeouts(preload=5, drain=9)


class Site:
    """What is built is as `told` by its url from then on; ready where nothing is told."""

    def __init__(self) -> None:
        self.told: dict[str, WorkerHealth] = {}
        self.yard = Yard(self.make)

    def make(self, url: str) -> Engine:
        engine = Engine()
        engine.told = self.told.get(url, READY)
        return engine

    def recover(self) -> None:
        """All that was built is ready."""
        self.told = {}
        for engine in self.yard.built:
            engine.told = READY


def host_of(yard: Yard, *replicas: str) -> AdapterHost:
    """A pool `chat` of these, and a pool `code` of one."""
    host = AdapterHost(plugins=yard.plugins)
    for name in replicas:
        host.bind("chat", "words", {"url": f"http://{name}"}, replica_id=name, timeouts=LIMITS)
    host.bind("code", "words", {})
    return host


def names(report: ReloadReport) -> dict[str, list[str]]:
    return {
        field: [f"{info.pool_id}/{info.replica_id}#{info.generation}" for info in getattr(report, field)]
        for field in ("rebound", "unchanged", "drained")
    }


def detail(host: AdapterHost, pool_id: str = "chat") -> str:
    """Why a pool takes no task; "" where it does."""
    refusal = host.refusal(pool_id)
    return "" if refusal is None else refusal.detail


@virtual
async def test_a_drain_is_undone():
    """ORCH-3600: of a pool, or of one replica; what was not drained, and other pools, are not touched."""
    yard = Yard()
    async with host_of(yard, "a", "b", "c") as host:
        for name in "ab":
            await host.drain("chat", name)
        await host.drain("code")
        one = await host.undrain("chat", "a")
        await drained(await host.submit("chat", task(replica_id="a")))
        rest = await host.undrain("chat")
        again = await host.undrain("chat")
        with pytest.raises(
            PoolUnavailable, match=r"undo that: host.undrain\(pool_id\), or POST /v1/pools/{id}/reload\?u"
        ):
            await host.submit("code", task())

    assert names(one) == {"rebound": ["chat/a#2"], "unchanged": [], "drained": []}
    assert names(rest) == {"rebound": ["chat/b#2"], "unchanged": ["chat/a#2", "chat/c#1"], "drained": []}
    assert names(again) == {"rebound": [], "unchanged": ["chat/a#2", "chat/b#2", "chat/c#1"], "drained": []}


@virtual
async def test_what_comes_back_is_as_it_was():
    """ORCH-3600: its table and limits are those it had, its pool's policy stays, and the old streams run on."""
    yard = Yard()
    policy = PoolPolicy(max_in_flight=7)
    async with host_of(yard, "a") as host:
        host.bind("chat", "words", {}, replica_id="b", policy=policy)
        stream = await host.submit("chat", task(replica_id="a"))
        draining = asyncio.create_task(host.drain("chat", "a"))
        await asyncio.sleep(0.1)
        await host.undrain("chat", "a")
        await drained(await host.submit("chat", task(replica_id="a")))
        ended = (await drained(stream))[-1]
        kept = host._registry.pool("chat").policy

    assert (ended, await draining) == (end(3), 0)
    assert (yard.contexts[-1].config.url, yard.contexts[-1].timeouts) == ("http://a", LIMITS)
    assert kept == policy
    assert yard.closed == [1, 1, 1, 1]


@virtual
async def test_one_that_is_down_keeps_no_other_one_drained():
    """ORCH-3600: each comes back when it is ready; what is not in time stays drained, and the report says why."""
    site = Site()
    async with host_of(site.yard, "a", "b", "c") as host:
        await host.drain("chat")
        site.told = {"http://a": DOWN}
        begun = now()
        undraining = asyncio.create_task(host.undrain("chat"))
        await asyncio.sleep(1)
        soon = detail(host)
        report = await undraining
        took = now() - begun
        with pytest.raises(ReloadError) as caught:
            await host.undrain("chat", "a")

    late = "replica chat/a: it was not ready within 5 s, it is down: connection refused"
    assert soon == ""
    assert names(report) == {"rebound": ["chat/b#2", "chat/c#2"], "unchanged": ["chat/a#1"], "drained": ["chat/a#1"]}
    assert report.problems == (f"{late} · look at the engine, or raise timeouts.preload",)
    assert caught.value.problems == list(report.problems)
    assert report.duration == pytest.approx(took) == 5


@virtual
async def test_two_may_undo_the_same_drain():
    """ORCH-3600: the second finds it undone, and builds nothing."""
    yard = Yard()
    async with host_of(yard, "a") as host:
        await host.drain("chat")
        first, second = await asyncio.gather(host.undrain("chat"), host.undrain("chat", "a"))

    assert (names(first)["rebound"], names(second)["rebound"]) == (["chat/a#2"], [])
    assert names(second)["unchanged"] == ["chat/a#2"]
    assert len(yard.built) == 3


@pytest.mark.parametrize("what", [("nope", None), ("chat", "z")])
@virtual
async def test_what_is_not_bound_has_no_drain(what: tuple[str, str | None]):
    """ORCH-3600: a pool or a replica that is not there is told by name; what is there stays as it is."""
    async with host_of(Yard(), "a") as host:
        await host.drain("chat")
        with pytest.raises(PoolUnavailable) as caught:
            await host.undrain(*what)

        assert caught.value.detail == "unknown_pool"
        assert detail(host) == "draining"


@pytest.mark.parametrize("replica_id", [None, "a"])
@virtual
async def test_a_drain_that_is_asked_for_later_wins(replica_id: str | None):
    """ORCH-3600: a drain while one is being undone leaves it drained, and whoever undid it is told."""
    site = Site()
    async with host_of(site.yard, "a") as host:
        await host.drain("chat")
        site.told = {"http://a": LOADING}
        undraining = asyncio.create_task(host.undrain("chat"))
        await asyncio.sleep(1)
        await host.drain("chat", replica_id)
        site.recover()
        with pytest.raises(ReloadError, match="chat/a: it was drained again meanwhile, and stays so"):
            await undraining
        left = detail(host)
        back = await host.undrain("chat")

    assert left == "draining"
    assert names(back)["rebound"] == ["chat/a#3"]


@virtual
async def test_a_drain_that_is_asked_for_at_once_wins_too():
    """ORCH-3600: whichever call came last decides, however little lies between the two."""
    async with host_of(Yard(), "a") as host:
        await host.drain("chat")
        undraining, draining = (asyncio.create_task(each) for each in (host.undrain("chat"), host.drain("chat")))
        with pytest.raises(ReloadError, match="drained again meanwhile"):
            await undraining
        await draining

        assert detail(host) == "draining"


CHANGES: dict[str, Callable[[AdapterHost], Awaitable[object]]] = {
    "rebind": lambda host: host.rebind("chat", "words", {"url": "http://x"}, replica_id="a"),
    "reload": lambda host: host.reload(
        parse_config(b'[pools.chat]\nengine = "words"\nreplicas = [{ id = "a", url = "http://x" }, { id = "new" }]\n')
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@virtual
async def test_no_change_lets_tasks_in_to_what_was_drained_meanwhile(change: str):
    """ORCH-3600: what a change builds is drained too where its pool was while it was built, also what is new there."""
    site = Site()
    told: list[events.Event] = []
    async with host_of(site.yard, "a") as host:
        site.told = {"http://x": LOADING}
        changing = asyncio.ensure_future(CHANGES[change](host))
        await asyncio.sleep(1)
        host.observe(told.append)
        await host.drain("chat")
        site.recover()
        report = await changing
        left = detail(host)
        await asyncio.sleep(1)
        later = await host.undrain("chat")
        back = detail(host)

    assert left == "draining"
    assert back == ""
    assert names(later)["rebound"][0] == "chat/a#3"
    begun, over = events.ReplicaDraining, events.ReplicaDrained
    new = [type(each) for each in told if isinstance(each, begun | over) and each.generation == 2]
    assert new[:2] == [begun, over]
    if isinstance(report, ReloadReport):
        assert names(report)["drained"] == ["chat/a#2", "chat/new#1"]


@virtual
async def test_a_drain_before_a_change_is_no_later_one():
    """ORCH-3600: a rebind that is asked for after a drain lets tasks in, whatever it waited for; others are let be."""
    site = Site()
    async with host_of(site.yard, "a", "b") as host:
        await host.drain("chat")
        site.told = {"http://x": LOADING}
        changing = asyncio.create_task(host.rebind("chat", "words", {"url": "http://x"}, replica_id="a"))
        await asyncio.sleep(1)
        await host.drain("chat", "b")
        site.recover()
        await changing

        assert detail(host) == ""
        assert not host._reloads._later
