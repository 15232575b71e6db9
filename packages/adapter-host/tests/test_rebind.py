import asyncio
from typing import Any

import pytest
from llama_orch_adapter_api import (
    AdapterError,
    BindingInfo,
    End,
    PoolUnavailable,
    Timeouts,
    WorkerHealth,
    WorkerReset,
)
from llama_orch_adapter_host import AdapterHost, ConfigError, PoolPolicy, ReloadError

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    DOWN,
    LOADING,
    READY,
    Engine,
    Yard,
    drained,
    end,
    moment,
    now,
    task,
    tokens,
    virtual,
)

LONG = Timeouts(drain=20)
SHORT = Timeouts(drain=2.5, preload=5)


def told(host: AdapterHost, kinds: str) -> list[Any]:
    """The host's events of these actions, as they come."""
    events: list[Any] = []
    host.observe(lambda event: events.append(event) if event.__struct_config__.tag in kinds.split() else None)
    return events


def tags(events: list[Any]) -> list[tuple[str, int]]:
    return [(event.__struct_config__.tag, event.generation) for event in events]


def test_one_word_a_replica():
    """The actions that these tests look for exist, so that none of them looks for nothing."""
    from llama_orch_adapter_host import _events  # noqa: PLC0415  # the union is the list

    known = {kind.__struct_config__.tag for kind in _events.HostEvent.__args__}

    assert known >= {"preload", "bind", "rebind", "drain", "drained", "unbind", "reload", "reloaded", "reload_failed"}


@virtual
async def test_a_rebind_swaps_one_reference():
    """ORCH-3600: streams go on where they run, new tasks go to the new generation, and the old one is closed once."""
    yard = Yard()
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {"url": "http://old"}, timeouts=LONG, http={"a": 1})
    async with host:
        before = await host.submit("chat", task())
        info = await host.rebind("chat", "words", {"url": "http://new"})
        after = await host.submit("chat", task())
        events = await drained(before), await drained(after)
        await asyncio.sleep(0.1)
        closed = list(yard.closed)

    old, new = yard.built
    assert info == BindingInfo("chat", "0", "words", generation=2)
    assert [len(tokens(each)) for each in events] == [3, 3]
    assert (old.tasks, new.tasks) == ([before.task_id], [after.task_id])
    assert closed == [1, 0]
    assert old.open_at_close == [0]
    assert (yard.contexts[1].timeouts, yard.contexts[1].http) == (LONG, {"a": 1})
    assert after.record.attempts[0].generation == 2


@virtual
async def test_each_generation_has_its_own_limit():
    """ORCH-3600: a new generation takes as many tasks as its limit says, whatever still runs on the old one."""
    yard = Yard()
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {"url": "http://old"}, timeouts=LONG, policy=PoolPolicy(max_in_flight=2))
    async with host:
        streams = [await host.submit("chat", task()) for _ in range(2)]
        await host.rebind("chat", "words", {"url": "http://new"})
        streams += [await host.submit("chat", task()) for _ in range(2)]
        with pytest.raises(PoolUnavailable) as caught:
            await host.submit("chat", task())
        await asyncio.gather(*map(drained, streams))

    assert caught.value.detail == "at_capacity"
    assert [len(adapter.tasks) for adapter in yard.built] == [2, 2]


@virtual
async def test_events_and_hooks_of_a_rebind():
    """ORCH-3600: each step is told as it happens: preload, rebind, drain, drained, unbind, and to the hooks."""
    yard = Yard()
    host = AdapterHost(plugins=yard.plugins)
    hooked: list[tuple[str, int]] = []
    yard.plugins.notify = lambda hook, info: hooked.append((hook.removeprefix("llama_orch_on_"), info.generation))  # type: ignore[method-assign]
    events = told(host, "preload bind rebind drain drained unbind")
    host.bind("chat", "words", {}, timeouts=SHORT)
    async with host:
        stream = await host.submit("chat", task())
        await host.rebind("chat", "words", {})
        rebound, draining = events[3:5]
        await drained(stream)
        await asyncio.sleep(0.1)
        seen = list(events)

    assert tags(seen) == [
        ("preload", 1), ("bind", 1), ("preload", 2), ("rebind", 2), ("drain", 1), ("drained", 1), ("unbind", 1),
    ]  # fmt: skip
    assert (rebound.leases, draining.leases, draining.limit) == (1, 1, 2.5)
    assert (seen[5].cut, seen[5].duration) == (0, moment(2))
    assert hooked[:7] == [
        ("preload", 1), ("bind", 1), ("reload", 1), ("preload", 2), ("rebind", 2), ("drain", 1), ("unbind", 1),
    ]  # fmt: skip


@virtual
async def test_streams_of_the_old_one_end_with_its_limit():
    """ORCH-3600: a stream that the drain limit of the old generation does not suffice for is WorkerReset (drained)."""
    yard = Yard(lambda _: Engine(words=99))
    host = AdapterHost(plugins=yard.plugins)
    events = told(host, "drained")
    host.bind("chat", "words", {}, timeouts=SHORT)
    async with host:
        stream = await host.submit("chat", task())
        at = now()
        await host.rebind("chat", "words", {}, timeouts=Timeouts(drain=50))
        with pytest.raises(WorkerReset, match="2.5 s were not enough for this stream") as caught:
            await drained(stream)
        took = now() - at
        await asyncio.sleep(0.1)

        assert (caught.value.detail, caught.value.replica, took) == ("drained", "0", moment(2.5))
        assert yard.closed == [1, 0]
        assert events[0].cut == 1


@pytest.mark.parametrize("pin", [None, "0"])
@virtual
async def test_a_task_without_a_token_goes_to_the_new_one(pin: str | None):
    """ORCH-3600: a task that is cut before its first token goes to the new generation, pinned or not."""
    yard = Yard(lambda url: Engine(pause=99 if url == "http://slow" else 0.1))
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {"url": "http://slow"}, timeouts=SHORT)
    async with host:
        reading = [asyncio.create_task(_read(host, pin)) for _ in range(40)]
        await asyncio.sleep(0.1)
        await host.rebind("chat", "words", {"url": "http://fast"})
        answers = [await each for each in reading]
        budget = host._registry.pool("chat").budget.left

    assert [len(tokens(events)) for events, _ in answers] == 40 * [3]
    assert {attempts for _, attempts in answers} == {2}
    assert (yard.built[0].begun, yard.built[0].freed, yard.built[1].begun) == (40, 40, 40)
    assert budget == 10


async def _read(host: AdapterHost, pin: str | None) -> tuple[list[Any], int]:
    stream = await host.submit("chat", task(replica_id=pin))
    return await drained(stream), stream.attempts


@virtual
async def test_a_loading_engine_is_waited_for():
    """ORCH-3600: a new generation takes over when it is ready, and not while its engine loads or is not there yet."""
    engine = Engine()
    engine.told = DOWN
    yard = Yard(lambda url: engine if url == "http://new" else Engine())
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {}, timeouts=SHORT)
    async with host:
        rebinding = asyncio.create_task(host.rebind("chat", "words", {"url": "http://new"}))
        for health in (LOADING, READY):
            await asyncio.sleep(1)
            assert host.capabilities().pools["chat"].replicas["0"].generation == 1
            engine.told = health
        engine.props_told = AdapterError("no slots", detail="unsupported")
        await asyncio.sleep(1)
        assert not rebinding.done()
        engine.props_told = await yard.built[0].props()
        await rebinding
        snapshot = host.capabilities().pools["chat"].replicas["0"]

    assert (snapshot.generation, snapshot.slots_total, snapshot.stale) == (2, 4, False)
    assert engine.asked > 3


@pytest.mark.parametrize(
    ("health", "props", "words"),
    [
        (DOWN, None, "it is down: connection refused"),
        (LOADING, None, "it is loading: 12 of 32 layers"),
        (WorkerHealth(live=True, ready=False, state="busy"), None, "it is busy"),
        (PoolUnavailable("no route to it", detail="unreachable"), None, "it is down: no route to it"),
        (READY, AdapterError("no props here", detail="not_found"), "it does not say what it can do: no props here"),
    ],
)
@virtual
async def test_a_failing_rebind_changes_nothing(health: Any, props: Any, words: str):
    """ORCH-3600: one that is not ready in time is closed, once, and its last answer told; the old one serves on."""
    sick = Engine()
    sick.told, sick.props_told = health, props or sick.props_told
    yard = Yard(lambda url: sick if url == "http://sick" else Engine())
    host = AdapterHost(plugins=yard.plugins)
    events = told(host, "reload reloaded reload_failed bind rebind drain unbind")
    host.bind("chat", "words", {}, timeouts=SHORT, policy=PoolPolicy(max_in_flight=7))
    async with host:
        at = now()
        stream = await host.submit("chat", task())
        with pytest.raises(ReloadError) as caught:
            await host.rebind("chat", "words", {"url": "http://sick"}, policy=PoolPolicy(max_in_flight=1))
        took = now() - at - 1
        rest = await drained(stream)
        answers = await drained(await host.submit("chat", task()))
        policy = host._registry.pool("chat").policy
        seen = list(events)
        again = await host.rebind("chat", "words", {})

    assert caught.value.problems == [
        f"replica chat/0: it was not ready within 5 s, {words} · look at the engine, or raise timeouts.preload"
    ]
    assert took == moment(5)
    assert (rest[-1], answers[-1]) == (end(3), end(3))
    assert policy == PoolPolicy(max_in_flight=7)
    assert yard.closed == [1, 1, 1]
    assert [event.__struct_config__.tag for event in seen] == ["bind", "reload", "reload_failed"]
    assert (seen[2].pool_id, seen[2].problems) == ("chat", tuple(caught.value.problems))
    assert again.generation == 3


@virtual
async def test_a_rebind_that_cannot_be_built():
    """ORCH-3600: a wrong table, an unknown engine or a factory that raises is told, and nothing changes."""

    def make(url: str) -> Engine:
        if url == "http://bad":
            raise ValueError("the url is bad; give a good one")
        return Engine()

    yard = Yard(make)
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {})
    async with host:
        for engine, table, words in (
            ("words", {"colour": "red"}, "replica chat/0: Object contains unknown field `colour`"),
            ("deeds", {}, "no adapter for engine 'deeds'"),
            ("words", {"url": "http://bad"}, "replica chat/0: the url is bad; give a good one"),
        ):
            with pytest.raises(ReloadError, match=words):
                await host.rebind("chat", engine, table)
        events = await drained(await host.submit("chat", task()))

    assert events[-1] == end(3)
    assert yard.closed == [1]


@pytest.mark.parametrize("name", ["", "a/b", "a\nb"])
@virtual
async def test_a_name_that_is_no_word(name: str):
    """ORCH-3600: binding by hand is as strict with the names of pools and replicas as a config is."""
    yard = Yard()
    async with AdapterHost(plugins=yard.plugins) as host:
        for pool_id, replica_id in ((name, "0"), ("chat", name)):
            with pytest.raises(ConfigError, match="give printable characters, no slash"):
                host.bind(pool_id, "words", {}, replica_id=replica_id)

    assert yard.built == []


@virtual
async def test_an_adapter_that_answers_nonsense():
    """ORCH-3600: an adapter whose health is none, or holds nonsense, is told and closed as one that is not ready."""
    odd = WorkerHealth(live=True, ready=False, state="down", detail=7)  # type: ignore[arg-type]  # that is its fault
    answers = {"http://none": None, "http://odd": odd}

    class Nonsense(Engine):
        def __init__(self, url: str) -> None:
            super().__init__()
            self.told = answers.get(url, READY)  # type: ignore[assignment]  # as above

    yard = Yard(Nonsense)
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {})
    async with host:
        with pytest.raises(ReloadError, match="it is down: the adapter for words answered a NoneType"):
            await host.rebind("chat", "words", {"url": "http://none"})
        with pytest.raises(ReloadError, match=r"it is down: the adapter for words .* at `\$\.detail`"):
            await host.rebind("chat", "words", {"url": "http://odd"})

        assert yard.closed == [0, 1, 1]


@virtual
async def test_what_is_not_bound_is_not_rebound():
    """ORCH-3600: rebinding, draining or unbinding what is not there is PoolUnavailable (unknown_pool)."""
    yard = Yard()
    async with AdapterHost(plugins=yard.plugins) as host:
        host.bind("chat", "words", {})
        for call in (
            host.rebind("nope", "words", {}), host.rebind("chat", "words", {}, replica_id="7"),
            host.drain("nope"), host.drain("chat", "7"), host.unbind("nope", "0"), host.unbind("chat", "7"),
        ):  # fmt: skip
            with pytest.raises(PoolUnavailable) as caught:
                await call
            assert caught.value.detail == "unknown_pool"


@virtual
async def test_rebinds_of_one_replica_come_in_turn():
    """ORCH-3600: rebinds that are asked for together happen one after the other, and the last one asked for stays."""
    yard = Yard()
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {})
    async with host:
        infos = await asyncio.gather(*(host.rebind("chat", "words", {"slots": i}) for i in range(5)))
        await asyncio.sleep(0.1)

        assert [info.generation for info in infos] == [2, 3, 4, 5, 6]
        assert yard.contexts[-1].config.slots == 4
        assert yard.closed == [1, 1, 1, 1, 1, 0]


@virtual
async def test_a_rebind_that_waits_for_what_is_unbound_meanwhile():
    """ORCH-3600: what was unbound while a rebind waited for its turn, or preloaded, is not bound again by that."""
    slow = Engine()
    slow.told = LOADING
    yard = Yard(lambda url: slow if url == "http://slow" else Engine())
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {})
    async with host:
        rebinds = [asyncio.create_task(host.rebind("chat", "words", {"url": f"http://{url}"})) for url in ("slow", "b")]
        await asyncio.sleep(1)
        await host.unbind("chat", "0")
        slow.told = READY
        with pytest.raises(ReloadError, match="bound, rebound or unbound by another call"):
            await rebinds[0]
        with pytest.raises(PoolUnavailable, match="pool 'chat' has no adapter bound"):
            await rebinds[1]

        assert host.pools() == ()
        assert yard.closed == [1, 1]


@virtual
async def test_a_rebind_that_is_given_up():
    """ORCH-3600: whoever cancels a rebind has nothing changed, which is told, and what was built is closed once."""
    sick = Engine()
    sick.told = LOADING
    yard = Yard(lambda url: sick if url == "http://sick" else Engine())
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {})
    async with host:
        seen = told(host, "reload reloaded reload_failed")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(3):
                await host.rebind("chat", "words", {"url": "http://sick"})
        closed = list(yard.closed)
        events = await drained(await host.submit("chat", task()))

    assert [event.__struct_config__.tag for event in seen] == ["reload", "reload_failed"]
    assert seen[1].problems == ("it was cancelled before it was ready · reload again",)
    assert closed == [0, 1]
    assert isinstance(events[-1], End)
    assert yard.closed == [1, 1]
