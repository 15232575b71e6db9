import asyncio
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from llama_orch_adapter_host import AdapterHost
from llama_orch_adapter_host._triggers import Trigger

from .adapters import Yard, now, virtual  # type: ignore[import-not-found]  # test folders are no packages

ONE = '[pools.chat]\nengine = "words"\nreplicas = [{ id = "a" }]\n'
TWO = ONE.replace('{ id = "a" }', '{ id = "a" }, { id = "b" }')
WITHIN = 15.0
"""Seconds of real time that a signal or a file's change may take; it takes a fraction of one."""


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
