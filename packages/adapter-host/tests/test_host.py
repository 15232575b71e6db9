import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    PoolUnavailable,
    Timeouts,
    TokenEvent,
    WorkerAdapter,
    WorkerError,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_adapter_host import AdapterHost, ConfigError, UnknownEngineError, parse_config
from llama_orch_adapter_host._ledger import REMEMBERED
from llama_orch_adapter_host._probe import PROBE_LIMIT
from llama_orch_adapter_host.observe import Metrics
from prometheus_client import CollectorRegistry

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    PROPS,
    Config,
    Words,
    drained,
    end,
    host_of,
    moment,
    now,
    plugins_with,
    seen_by,
    task,
    tokens,
    virtual,
)

TWO_POOLS = b"""
[pools.chat]
engine = "words"
timeouts = { idle = 7 }
http = { http_version = "2" }
replicas = [{ url = "http://one" }, { id = "b", url = "http://two" }]
[pools.embed]
engine = "words"
replicas = [{}]
"""


# --- binding


@virtual
async def test_a_config_is_bound_on_entering():
    """ORCH-3600: entering a host binds one adapter for each replica of its config, each with its own context."""
    contexts: list[AdapterContext] = []
    adapters = [Words(), Words(), Words()]
    host = AdapterHost(parse_config(TWO_POOLS), seen_by(contexts, *adapters))
    assert host.pools() == ()
    async with host:
        pools = host.pools()
        replicas = [(await host.submit("chat", task(replica_id=name))).replica for name in ("0", "b")]

    assert pools == ("chat", "embed")
    assert replicas == ["chat/0", "chat/b"]
    assert [context.replica for context in contexts] == ["chat/0", "chat/b", "embed/0"]
    assert contexts[0].config == Config("http://one")
    assert contexts[0].timeouts == Timeouts(idle=7)
    assert contexts[0].http == {"http_version": "2"}
    assert contexts[2].timeouts == Timeouts()
    assert [adapter.closed for adapter in adapters] == [1, 1, 1]


async def test_adapters_are_found_on_entering():
    """ORCH-3600: a host without a config finds what is installed when it is entered, so that `bind` blocks no loop."""
    async with AdapterHost() as host:
        with pytest.raises(ConfigError, match="no adapter"):
            host.bind("chat", "deeds", {})


def test_a_host_from_a_file(tmp_path: Path):
    """ORCH-3601: `from_config` reads a TOML file when the host is entered, and refuses a bad one then.

    It stands in a coroutine, as the documentation shows it: nothing of it may block the loop.
    """
    path = tmp_path / "pools.toml"
    path.write_bytes(TWO_POOLS)
    adapters = [Words(pause=None), Words(pause=None), Words(pause=None)]

    async def main() -> list[TokenEvent]:
        async with AdapterHost.from_config(path, plugins_with(*adapters)) as host:
            events = await drained(await host.submit("embed", task()))
        with pytest.raises(ConfigError, match="cannot be read"):
            async with AdapterHost.from_config(tmp_path / "absent"):
                pass
        return events

    with asyncio.Runner() as runner:
        events = runner.run(main())

    assert len(tokens(events)) == 3


@virtual
async def test_a_config_is_bound_whole_or_not_at_all():
    """ORCH-3600: every problem of every pool is told at once, and then nothing is bound."""
    config = parse_config(
        b"""
        [pools.good]
        engine = "words"
        replicas = [{}]
        [pools.bad]
        engine = "words"
        replicas = [{ colour = "red" }, { slots = "x" }]
        [pools.odd]
        engine = "deeds"
        replicas = [{}]
        """
    )
    host = AdapterHost(config, plugins_with(Words()))
    with pytest.raises(ConfigError) as caught:
        async with host:
            raise AssertionError("entered")

    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "replica bad/0",
        "replica bad/1",
        "no adapter for engine 'deeds' (known",
    ]
    assert host.pools() == ()


@virtual
async def test_a_single_problem_keeps_its_class():
    """A config whose only problem is a missing adapter raises the error that says so by its class."""
    host = AdapterHost(parse_config(b"[pools.a]\nengine='deeds'\nreplicas=[{}]"), plugins_with(Words()))
    with pytest.raises(UnknownEngineError, match="no adapter for engine 'deeds'"):
        await host.__aenter__()


@pytest.mark.parametrize(
    ("error", "told"),
    [(ValueError("url is empty; give one"), "url is empty; give one"), (KeyError("secret"), "KeyError")],
)
def test_a_factory_that_raises(error: Exception, told: str):
    """A factory's ValueError is told with its replica; of anything else, not meant for people, only the class."""
    plugins = plugins_with()
    spec = plugins.spec("words")

    def factory(context: AdapterContext) -> WorkerAdapter:
        raise error

    plugins._specs["words"] = type(spec)("words", 1, Config, factory)
    with pytest.raises(ConfigError) as caught:
        AdapterHost(plugins=plugins).bind("pool", "words", {})

    assert str(caught.value) == f"replica pool/0: {told}"
    assert caught.value.__cause__ is error


def test_binding_by_hand(caplog: pytest.LogCaptureFixture):
    """ORCH-3600: `bind` gives the adapter its table, limits, overrides, a clock, a voice and a counter, and once."""
    caplog.set_level(logging.INFO)
    contexts: list[AdapterContext] = []
    host = AdapterHost(plugins=seen_by(contexts, Words(), Words()))
    scraped = CollectorRegistry()
    host.observe(Metrics(scraped))
    limits = Timeouts(idle=3)

    info = host.bind("chat", "words", {"url": "http://x"}, replica_id="r1", timeouts=limits, http={"a": 1})
    with pytest.raises(ConfigError, match="chat/r1 is bound already"):
        host.bind("chat", "words", {}, replica_id="r1")
    with pytest.raises(ConfigError, match="replica chat/0: Object contains unknown field `colour`"):
        host.bind("chat", "words", {"colour": "red"})

    (context,) = contexts
    assert (info.pool_id, info.replica_id, info.engine, info.generation) == ("chat", "r1", "words", 1)
    assert (context.config, context.timeouts, context.http) == (Config("http://x"), limits, {"a": 1})
    assert abs(context.clock() - time.monotonic()) < 60
    context.narrate("the engine is loading its model")
    assert caplog.messages[-1] == "chat/r1 says: the engine is loading its model"
    for _ in range(2):
        context.count("fallback_refused")
    labels = {"pool": "chat", "replica": "r1", "engine": "words", "what": "fallback_refused"}
    assert scraped.get_sample_value("llama_orch_adapter_counts_total", labels) == 2


# --- what is refused before any engine is asked


@virtual
async def test_an_unknown_pool_is_refused():
    """A task for a pool that is not bound is PoolUnavailable (unknown_pool), and so is looking at one."""
    async with host_of(Words()) as host:
        for call in (host.submit("nope", task()), host.health("nope"), host.props("nope")):
            with pytest.raises(PoolUnavailable, match="bound: pool") as caught:
                await call

            assert caught.value.detail == "unknown_pool"


@virtual
async def test_a_deadline_too_short_to_be_useful():
    """Battery 24: with less than `min_useful` to go a task is DeadlineUnmet (queue) and reaches no engine."""
    adapter = Words(pause=None)
    async with host_of(adapter, timeouts=Timeouts(min_useful=0.2)) as host:
        with pytest.raises(DeadlineUnmet, match=r"199 ms leaves less than timeouts\.min_useful, 0\.2 s") as caught:
            await host.submit("pool", task(deadline_ms=199))
        assert adapter.begun == 0
        events = await drained(await host.submit("pool", task(deadline_ms=200)))

    assert (caught.value.detail, caught.value.phase, caught.value.pool) == ("queue", "queue", "pool")
    assert events[-1] == end(3)


@virtual
async def test_a_stopped_host_refuses():
    """Battery 30: a host that stops, or has stopped, refuses tasks as draining, which another host may take."""
    adapter = Words()
    host = host_of(adapter)
    stream = await host.submit("pool", task())
    stopping = asyncio.create_task(host.aclose())
    await asyncio.sleep(0.1)
    for _ in range(2):
        with pytest.raises(PoolUnavailable, match="this host is stopping") as caught:
            await host.submit("pool", task())

        assert (caught.value.detail, caught.value.retriable, caught.value.engine_fault) == ("draining", True, False)
        await drained(stream)
        await stopping

    assert adapter.begun == 1


@virtual
async def test_task_ids_are_not_remembered_for_ever():
    """What a cancel knows of tasks that are over is bounded; the oldest are forgotten first."""
    async with host_of(Words(words=0, pause=None)) as host:
        requests = [task() for _ in range(REMEMBERED + 3)]
        for request in requests:
            await drained(await host.submit("pool", request))
        outcomes = [(await host.cancel("pool", request.task_id)).outcome for request in requests]

        assert len(host._ledger._ended) == REMEMBERED

    assert outcomes == 3 * ["unknown"] + REMEMBERED * ["already_done"]


# --- looking at a pool


class Looked(Words):
    """Answers health and props as it is told to."""

    def __init__(self, answer: Callable[[], Awaitable[Any]]) -> None:
        super().__init__()
        self.answer = answer

    async def health(self) -> WorkerHealth:
        health: WorkerHealth = await self.answer()
        return health

    async def props(self) -> WorkerProps:
        props: WorkerProps = await self.answer()
        return props


async def hangs() -> None:
    await asyncio.Event().wait()


async def is_down() -> None:
    raise PoolUnavailable("connection refused", detail="unreachable")


async def is_loading() -> None:
    raise PoolUnavailable("loading its model", detail="loading")


async def breaks() -> None:
    raise KeyError("secret")


async def times_out_by_itself() -> None:
    raise TimeoutError


@virtual
async def test_health_of_a_pool():
    """ORCH-3601: `health` asks all replicas at once and answers by id; one that fails says why."""
    sick = [Looked(answer) for answer in (hangs, is_down, is_loading, breaks, times_out_by_itself)]
    async with host_of(Words(), *sick) as host:
        health = await host.health("pool")

    assert now() == moment(PROBE_LIMIT)
    assert list(health) == ["0", "1", "2", "3", "4", "5"]
    assert health["0"] == WorkerHealth(live=True, ready=True, state="ready")
    assert [health[name].state for name in "12345"] == ["down", "down", "loading", "down", "down"]
    assert not any(health[name].ready for name in "12345")
    assert [health[name].live for name in "12345"] == [True, False, True, True, True]
    assert health["1"].detail == "no answer within 5 s · pool/1 · look at the engine"
    assert health["2"].detail == "connection refused"
    assert "raised KeyError, which is no WorkerError" in health["4"].detail
    assert "raised TimeoutError, which is no WorkerError" in health["5"].detail


@virtual
async def test_props_of_a_pool():
    """ORCH-3601: `props` answers for each replica by its id, with its props, or the error that says why not."""
    sick = [Looked(answer) for answer in (hangs, is_down, breaks)]
    async with host_of(Words(), *sick) as host:
        props = await host.props("pool")

    assert props["0"] == PROPS
    errors = [props[name] for name in "123"]
    assert [type(error) for error in errors] == [DecodeTimeout, PoolUnavailable, AdapterError]
    for name, error in zip("123", errors, strict=True):
        assert isinstance(error, WorkerError)
        assert (error.engine, error.pool, error.replica) == ("words", "pool", name)


@virtual
async def test_binding_while_a_pool_is_looked_at():
    """A replica bound while a pool is asked does not disturb the answers of the others."""

    async def slowly() -> WorkerHealth:
        await asyncio.sleep(1)
        return WorkerHealth(live=True, ready=False, state="busy")

    host = AdapterHost(plugins=plugins_with(Looked(slowly), Words()))
    host.bind("pool", "words", {})
    async with host:
        looking = asyncio.create_task(host.health("pool"))
        await asyncio.sleep(0.5)
        host.bind("pool", "words", {}, replica_id="new")
        health = await looking
        again = await host.health("pool")

    assert list(health) == ["0"]
    assert list(again) == ["0", "new"]
