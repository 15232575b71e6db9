import asyncio
from pathlib import Path
from typing import Any

import pytest
from llama_orch_adapter_api import PoolUnavailable, Timeouts
from llama_orch_adapter_host import AdapterHost, HostConfig, PoolPolicy, ReloadError, ReloadReport, parse_config

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
    virtual,
)


def config(**pools: str) -> HostConfig:
    """Pools of one engine; each is told by its replicas as `id=url`, and by tables after a semicolon."""
    lines: list[str] = []
    for pool, told in pools.items():
        replicas, _, more = told.partition(";")
        lines += [f"[pools.{pool}]", 'engine = "words"', "timeouts = { preload = 5, drain = 2.5 }", more]
        for replica in replicas.split():
            name, _, url = replica.partition("=")
            lines += [f"[[pools.{pool}.replicas]]", f'id = "{name}"', f'url = "http://{url}"']
    return parse_config("\n".join(lines).encode())


def places(report: ReloadReport) -> dict[str, list[str]]:
    return {
        field: [f"{info.pool_id}/{info.replica_id}#{info.generation}" for info in getattr(report, field)]
        for field in ("added", "rebound", "removed", "unchanged")
    }


def bound(host: AdapterHost) -> dict[str, int]:
    """The generation of every replica."""
    pools = host.capabilities().pools.items()
    return {f"{pool}/{name}": each.generation for pool, some in pools for name, each in some.replicas.items()}


@virtual
async def test_a_config_is_applied_by_difference():
    """ORCH-3600: what is new is bound, what changed rebound, what is gone unbound, and the rest is not touched."""
    yard = Yard()
    async with AdapterHost(config(chat="a=1 b=1 c=1", old="a=1"), yard.plugins) as host:
        stream = await host.submit("chat", task(replica_id="b"))
        gone = await host.submit("old", task())
        report = await host.reload(config(chat="a=1 b=2 d=1", new="a=1"))
        now_bound = bound(host)
        ends = [events[-1] for events in await asyncio.gather(drained(stream), drained(gone))]
        await asyncio.sleep(0.1)
        closed = list(yard.closed)

    assert places(report) == {
        "added": ["chat/d#1", "new/a#1"],
        "rebound": ["chat/b#2"],
        "removed": ["chat/c#1", "old/a#1"],
        "unchanged": ["chat/a#1"],
    }
    assert now_bound == {"chat/a": 1, "chat/b": 2, "chat/d": 1, "new/a": 1}
    assert ends == [end(3), end(3)]
    assert closed == [0, 1, 1, 1, 0, 0, 0]
    assert yard.closed == 7 * [1]


@virtual
async def test_a_reload_removes():
    """ORCH-3600: what the config no longer names is gone; that it stays is LocalAI's issue 11656.

    What was bound by hand and is not in the config goes with them: the config is the whole of it.
    """
    yard = Yard()
    async with AdapterHost(config(chat="a=1 b=1", old="a=1"), yard.plugins) as host:
        host.bind("hand", "words", {})
        report = await host.reload(config(chat="a=1"))
        await asyncio.sleep(60)
        asked = [adapter.asked for adapter in yard.built]
        await asyncio.sleep(60)

        assert places(report)["removed"] == ["chat/b#1", "old/a#1", "hand/0#1"]
        assert host.pools() == ("chat",)
        assert yard.closed == [0, 1, 1, 1]
        assert [adapter.asked for adapter in yard.built][1:] == asked[1:]
        assert yard.built[0].asked > asked[0]
        with pytest.raises(PoolUnavailable, match="bound: chat"):
            await host.submit("old", task())


@virtual
async def test_a_drain_has_the_time_its_pool_says():
    """ORCH-3600: a reload kills no stream before `timeouts.drain`; that five seconds do is dynamo's issue 13559."""
    yard = Yard(lambda _: Engine(words=30))
    host = AdapterHost(plugins=yard.plugins)
    host.bind("chat", "words", {}, replica_id="a", timeouts=Timeouts(drain=40))
    async with host:
        stream = await host.submit("chat", task())
        await host.reload(config(chat="a=2"))
        events = await drained(stream)

        assert events[-1] == end(30)
        assert now() == moment(30)


@virtual
async def test_a_whole_pool_may_change_its_replicas():
    """ORCH-3600: when all replicas of a pool get other names, a task that has no token yet finds the new ones."""
    yard = Yard(lambda url: Engine(pause=99 if url == "http://1" else 0.1))
    async with AdapterHost(config(chat="a=1 b=1"), yard.plugins) as host:
        reading = [asyncio.create_task(host.submit("chat", task()).__aenter__()) for _ in range(20)]
        await asyncio.sleep(0.1)
        await host.reload(config(chat="c=2 d=2"))
        streams = [await each for each in reading]
        ends = [(await drained(stream))[-1] for stream in streams]

        assert ends == 20 * [end(3)]
        assert {stream.attempts for stream in streams} == {2}
        assert host.pools() == ("chat",)


@virtual
async def test_all_is_ready_before_anything_is_swapped():
    """ORCH-3600: new generations are preloaded at once, and swapped in one go when the slowest of them is ready."""
    slow: dict[str, float] = {"http://x": 1, "http://y": 3}
    begun = now()

    class Slow(Engine):
        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.ready_at = now() + seconds

        async def health(self) -> Any:
            self.told = LOADING if now() < self.ready_at else READY
            return await super().health()

    yard = Yard(lambda url: Slow(slow[url]) if url in slow else Engine())
    async with AdapterHost(config(chat="a=1 b=1 c=1"), yard.plugins) as host:
        seen: list[dict[str, int]] = []
        host.observe(lambda _: seen.append(bound(host)))
        await host.reload(config(chat="a=x b=y"))

        assert now() - begun < 5
        assert {tuple(each.items()) for each in seen} == {
            (("chat/a", 1), ("chat/b", 1), ("chat/c", 1)),
            (("chat/a", 2), ("chat/b", 2)),
        }


@virtual
async def test_a_failing_reload_changes_nothing():
    """Battery 29: every problem of a reload is told at once, what it built is closed, and what was bound serves on."""
    sick = Engine()
    sick.told = DOWN

    def make(url: str) -> Engine:
        if url == "http://bad":
            raise ValueError("it is bad; give a good one")
        return sick if url == "http://sick" else Engine()

    yard = Yard(make)
    host = AdapterHost(config(chat="a=1 b=1", old="a=1"), yard.plugins)
    told: list[Any] = []
    async with host:
        policy = host._registry.pool("chat").policy
        host.observe(told.append)
        with pytest.raises(ReloadError) as caught:
            await host.reload(config(chat="a=bad b=sick c=fine;max_in_flight = 1"))
        answers = [(await drained(await host.submit(pool, task())))[-1] for pool in ("chat", "chat", "old")]

        late = "it was not ready within 5 s, it is down: connection refused"
        assert caught.value.problems == [
            "replica chat/a: it is bad; give a good one",
            f"replica chat/b: {late} · look at the engine, or raise timeouts.preload",
        ]
        assert bound(host) == {"chat/a": 1, "chat/b": 1, "old/a": 1}
        assert host._registry.pool("chat").policy == policy
        assert answers == 3 * [end(3)]
        assert yard.closed == [0, 0, 0, 1, 1]
        (failed,) = [event for event in told if event.__struct_config__.tag == "reload_failed"]
        assert failed.problems == tuple(caught.value.problems)
        assert not [event for event in told if event.__struct_config__.tag in {"rebind", "drain", "unbind", "reloaded"}]

        report = await host.reload(config(chat="a=1 b=1", old="a=1"))
        assert places(report)["unchanged"] == ["chat/a#1", "chat/b#1", "old/a#1"]
    assert yard.closed == [1, 1, 1, 1, 1]


@virtual
async def test_a_config_that_is_wrong_builds_nothing():
    """ORCH-3600: what is wrong with a config is all told before anything is built."""
    yard = Yard()
    async with AdapterHost(config(chat="a=1"), yard.plugins) as host:
        wrong = parse_config(
            b'[pools.chat]\nengine = "words"\nreplicas = [{ colour = "red" }]\n'
            b'[pools.odd]\nengine = "deeds"\nreplicas = [{}]'
        )
        with pytest.raises(ReloadError) as caught:
            await host.reload(wrong)

        assert [problem.split(":")[0] for problem in caught.value.problems] == [
            "replica chat/0",
            "no adapter for engine 'deeds' (known",
        ]
        assert len(yard.built) == 1


@virtual
async def test_policies_are_adopted_without_a_rebind():
    """ORCH-3600: how a pool's tasks are treated changes at once, for its bound replicas too, which stay as they are."""
    yard = Yard()
    async with AdapterHost(config(chat="a=1", other="a=1"), yard.plugins) as host:
        tables = "max_in_flight = 1\nhealth = { interval = 1.0, spread = 0.0 }\nbreaker = { consecutive = 2 }"
        report = await host.reload(config(chat=f"a=1;{tables}", other="a=1"))
        (binding,) = host._registry.pool("chat").order
        first = await host.submit("chat", task())
        with pytest.raises(PoolUnavailable) as caught:
            await host.submit("chat", task())
        await asyncio.sleep(2)
        asked = yard.built[0].asked
        await asyncio.sleep(10)

        assert places(report)["unchanged"] == ["chat/a#1", "other/a#1"]
        assert report.policies == ("chat",)
        assert (first.replica, caught.value.detail) == ("chat/a", "at_capacity")
        assert yard.built[0].asked - asked == 10
        breaker = binding.gate.breaker
        for _ in range(2):
            breaker.leave(breaker._shared, "fault", now())
        assert breaker.state == "open"
        assert host._registry.pool("other").policy == PoolPolicy()
        assert len(yard.built) == 2


@virtual
async def test_limits_are_part_of_what_is_built():
    """ORCH-3600: other timeouts or HTTP overrides are another generation, for an adapter is given them once."""
    yard = Yard()
    async with AdapterHost(config(chat="a=1"), yard.plugins) as host:
        report = await host.reload(config(chat="a=1;http = { max_line = 7 }"))

        assert places(report)["rebound"] == ["chat/a#2"]
        assert yard.contexts[1].http == {"max_line": 7}


@virtual
async def test_a_secret_that_changed_is_a_change(tmp_path: Path):
    """ORCH-3600: a reload reads secrets again, and one that is another makes another generation."""
    key = tmp_path / "key"
    await asyncio.to_thread(key.write_text, "one")
    told = f'[pools.chat]\nengine = "words"\nreplicas = [{{ api_key = {{ file = "{key}" }} }}]'.encode()
    yard = Yard()
    async with AdapterHost(parse_config(told), yard.plugins) as host:
        same = await host.reload()
        await asyncio.to_thread(key.write_text, "two")
        other = await host.reload()

        assert (len(same.unchanged), len(other.rebound)) == (1, 1)
        assert [context.config.api_key.reveal() for context in yard.contexts] == ["one", "two"]


@virtual
async def test_without_an_argument_the_file_is_read_again(tmp_path: Path):
    """ORCH-3600: a host from a file reads that file again; what is wrong with it is told with its path."""
    path = tmp_path / "pools.toml"
    text = '[pools.chat]\nengine = "words"\nreplicas = [{ id = "a" }, { id = "b" }]'
    await asyncio.to_thread(path.write_text, text)
    yard = Yard()
    async with AdapterHost.from_config(path, yard.plugins) as host:
        await asyncio.to_thread(path.write_text, text.replace(', { id = "b" }', ""))
        report = await host.reload()
        await asyncio.to_thread(path.write_text, "[pools")
        with pytest.raises(ReloadError, match="pools.toml: "):
            await host.reload()
        await asyncio.to_thread(path.unlink)
        with pytest.raises(ReloadError, match=r"pools.toml cannot be read: No such file"):
            await host.reload()

        assert places(report)["removed"] == ["chat/b#1"]
        assert bound(host) == {"chat/a": 1}


@virtual
async def test_a_reload_undoes_no_drain():
    """ORCH-3600: what was drained and is the same stays drained, and the report names it, of whatever pool."""
    yard = Yard()
    async with AdapterHost(config(chat="a=1 b=1", code="a=1"), yard.plugins) as host:
        await host.drain("chat", "a")
        await host.drain("code")
        report = await host.reload()
        refusal = host.refusal("code")

    assert places(report)["unchanged"] == ["chat/a#1", "chat/b#1", "code/a#1"]
    assert [(info.pool_id, info.replica_id) for info in report.drained] == [("chat", "a"), ("code", "a")]
    assert refusal is not None
    assert refusal.detail == "draining"


@virtual
async def test_a_host_without_a_config_has_nothing_to_read_again():
    """ORCH-3600: `reload()` of a host that never had a config is told so, and unbinds nothing."""
    yard = Yard()
    async with AdapterHost(plugins=yard.plugins) as host:
        host.bind("chat", "words", {})
        with pytest.raises(ReloadError, match="was made without a config; give reload"):
            await host.reload()

        assert bound(host) == {"chat/0": 1}
