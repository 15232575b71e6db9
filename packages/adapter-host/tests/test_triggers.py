import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from llama_orch_adapter_api import End, PoolUnavailable, WorkerHealth
from llama_orch_adapter_host import AdapterHost, parse_config
from llama_orch_adapter_host._events import HostEvent, ReloadBegun
from llama_orch_adapter_host._triggers import Trigger

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    READY,
    Engine,
    Yard,
    drained,
    now,
    task,
    virtual,
)

ONE = '[pools.chat]\nengine = "words"\nreplicas = [{ id = "a" }]\n'
TWO = ONE.replace('{ id = "a" }', '{ id = "a" }, { id = "b" }')
WITHIN = 15.0
"""Seconds of real time that a signal or a file's change may take; it takes a fraction of one."""


class Slow(Engine):
    """Takes a second to say how it is."""

    async def health(self) -> WorkerHealth:
        await asyncio.sleep(1)
        return READY


def replicas(host: AdapterHost) -> list[str]:
    return list(host.capabilities().pools["chat"].replicas)


async def until(true: Callable[[], bool]) -> None:
    """Wait, in real time, until something is so."""
    given_up = time.monotonic() + WITHIN
    while not true():
        assert time.monotonic() < given_up
        await asyncio.sleep(0.01)


async def write(path: Path, text: str) -> None:
    await asyncio.to_thread(path.write_text, text)


async def hup() -> None:
    os.kill(os.getpid(), signal.SIGHUP)
    await asyncio.sleep(0)


async def test_sighup_reloads(tmp_path: Path):
    """ORCH-3600: a SIGHUP to this process reloads the file; afterwards the signal means again what it meant."""
    path = tmp_path / "pools.toml"
    await write(path, ONE)
    before = signal.getsignal(signal.SIGHUP)
    async with AdapterHost.from_config(path, Yard().plugins) as host:
        with host.reload_on_sighup():
            await write(path, TWO)
            await hup()
            await until(lambda: replicas(host) == ["a", "b"])
            with pytest.raises(RuntimeError, match="SIGHUP is handled already"):
                host.reload_on_sighup()
        assert signal.getsignal(signal.SIGHUP) is before


async def test_a_failing_reload_by_signal_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    """ORCH-3600: a SIGHUP with a bad file is told once, by its event, changes nothing, and the next one works."""
    path = tmp_path / "pools.toml"
    await write(path, ONE)
    told: list[str] = []
    async with AdapterHost.from_config(path, Yard().plugins) as host:
        host.observe(lambda event: told.append(event.__struct_config__.tag))  # type: ignore[arg-type]  # a word
        host.reload_on_sighup()
        await write(path, "[pools")
        await hup()
        await until(lambda: "reload_failed" in told)
        assert replicas(host) == ["a"]
        await write(path, TWO)
        await hup()
        await until(lambda: replicas(host) == ["a", "b"])

    assert [record.name.rpartition(".")[2] for record in caplog.records if record.levelno >= 30] == ["narration"]
    assert [message.partition(":")[0] for message in caplog.messages if "keeps its configuration" in message] == [
        "the host keeps its configuration; 1 problem in the new one"
    ]
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


async def test_a_signal_that_is_ignored_stays_ignored():
    """A process that ignores SIGHUP, as nohup makes it, ignores it again when the host is closed."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        async with AdapterHost(plugins=Yard().plugins) as host:
            trigger = host.reload_on_sighup()
            trigger.close()
            trigger.close()
            await hup()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


async def test_a_signal_during_a_stop_is_taken():
    """ORCH-3600: a SIGHUP while a stopping host lets its streams run reloads nothing, and ends no process."""
    reloads: list[HostEvent] = []
    host = await AdapterHost(plugins=Yard().plugins).__aenter__()
    host.bind("chat", "words", {})
    host.observe(lambda event: reloads.append(event) if isinstance(event, ReloadBegun) else None)
    host.reload_on_sighup()
    stream = await host.submit("chat", task())
    stopping = asyncio.create_task(host.aclose())
    await asyncio.sleep(0)
    await hup()
    await hup()
    told = await drained(stream)
    await stopping

    assert isinstance(told[-1], End)
    assert reloads == []
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_DFL


async def test_a_system_without_the_signal(monkeypatch: pytest.MonkeyPatch):
    """Where there is no SIGHUP, asking for it is told with what to do instead."""
    monkeypatch.delattr(signal, "SIGHUP")
    async with AdapterHost(plugins=Yard().plugins) as host:
        with pytest.raises(RuntimeError, match=r"has no SIGHUP; call host\.reload\(\) instead"):
            host.reload_on_sighup()


@virtual
async def test_occasions_during_a_reload_make_one_more(caplog: pytest.LogCaptureFixture):
    """ORCH-3600: however often it is triggered while a reload runs, one more follows; whatever it raises is logged."""
    begun: list[float] = []

    async def reload() -> None:
        begun.append(now())
        await asyncio.sleep(1)
        raise KeyError("secret")

    pulls: list[Callable[[], None]] = []

    def install(pull: Callable[[], None]) -> Callable[[], None]:
        pulls.append(pull)
        return pulls.clear

    reloading: Callable[[], Awaitable[object]] = reload
    with Trigger(reloading, install, asyncio.get_running_loop().create_task):
        (pull,) = pulls
        for _ in range(5):
            pull()
            await asyncio.sleep(0.1)
        await asyncio.sleep(3)
        pull()
        await asyncio.sleep(2)

    assert [round(at, 3) for at in begun] == [0, 1, 3.5]
    assert pulls == []
    assert [message.split(" · ")[0] for message in caplog.messages] == 3 * ["the reload failed; report it"]


@virtual
async def test_closing_drops_the_reload_that_waits(caplog: pytest.LogCaptureFixture):
    """ORCH-3600: a host that stops amid a reload begins none that was to follow it, and complains of nothing."""
    yard = Yard(lambda url: Slow() if url == "slow" else Engine())
    text = '[pools.chat]\nengine = "words"\nreplicas = [{ url = "%s" }]\n'
    configs = [parse_config((text % url).encode()) for url in ("fast", "slow")]
    begun: list[HostEvent] = []
    async with AdapterHost(configs[0], yard.plugins) as host:
        host.observe(lambda event: begun.append(event) if isinstance(event, ReloadBegun) else None)
        host._read = lambda: configs[1]
        pulls: list[Callable[[], None]] = []
        host._triggered(lambda pull: pulls.append(pull) or pulls.clear)
        stream = await host.submit("chat", task())
        (pull,) = pulls
        pull()
        await asyncio.sleep(0.1)
        pull()
        reader = asyncio.create_task(drained(stream))
        await host.aclose()
        await reader

    assert len(begun) == 1
    assert [record.message for record in caplog.records if record.name.endswith("_triggers")] == []


@virtual
async def test_a_stopping_host_ends_the_reloading(caplog: pytest.LogCaptureFixture):
    """ORCH-3600: that a host is stopping is no fault of a reload, and nothing follows it."""
    begun: list[float] = []

    async def reload() -> None:
        begun.append(now())
        await asyncio.sleep(1)
        raise PoolUnavailable("this host is stopping", detail="draining")

    pulls: list[Callable[[], None]] = []
    Trigger(reload, lambda pull: pulls.append(pull) or pulls.clear, asyncio.get_running_loop().create_task)
    for _ in range(2):
        pulls[0]()
        await asyncio.sleep(0.1)
    await asyncio.sleep(3)

    assert begun == [0]
    assert caplog.messages == []
