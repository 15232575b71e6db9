import asyncio
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import watchfiles
from llama_orch_adapter_host import AdapterHost, _file
from watchfiles._rust_notify import WatchfilesRustInternalError

from .adapters import Yard  # type: ignore[import-not-found]  # test folders are no packages

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


async def test_a_file_that_is_written_or_replaced(tmp_path: Path):
    """ORCH-3600: a file is reloaded when it is written in place, and when another is renamed over it."""
    path = tmp_path / "pools.toml"
    await write(path, ONE)
    async with AdapterHost.from_config(path, Yard().plugins) as host:
        await write(path, TWO)  # what came before the watch is news too
        with host.reload_on_change():
            await until(lambda: replicas(host) == ["a", "b"])
            await write(path, ONE)
            await until(lambda: replicas(host) == ["a"])
            await write(tmp_path / "new", TWO)
            await asyncio.to_thread((tmp_path / "new").replace, path)
            await until(lambda: replicas(host) == ["a", "b"])


async def test_a_file_behind_links(tmp_path: Path):
    """ORCH-3600: a config map of Kubernetes, a link to a folder that is swapped, is reloaded, swap after swap."""

    def publish(version: str, text: str) -> None:
        folder = tmp_path / version
        folder.mkdir()
        (folder / "pools.toml").write_text(text)
        (tmp_path / "..next").symlink_to(version)
        (tmp_path / "..next").rename(tmp_path / "..data")

    def mount() -> None:
        publish("..1", ONE)
        (tmp_path / "pools.toml").symlink_to("..data/pools.toml")

    await asyncio.to_thread(mount)
    async with AdapterHost.from_config(tmp_path / "pools.toml", Yard().plugins) as host:
        with host.reload_on_change():
            await asyncio.sleep(0.3)
            for i, (text, names) in enumerate([(TWO, ["a", "b"]), (ONE, ["a"])], 2):
                await asyncio.to_thread(publish, f"..{i}", text)
                await until(lambda: replicas(host) == names)  # noqa: B023  # it is waited for here


async def test_what_changes_nothing_reloads_nothing(tmp_path: Path):
    """ORCH-3600: a file that is touched, gone for a moment, or has a new neighbour, is not reloaded."""
    path = tmp_path / "pools.toml"
    await write(path, ONE)
    told: list[str] = []
    async with AdapterHost.from_config(path, Yard().plugins) as host:
        host.observe(lambda event: told.append(event.__struct_config__.tag))  # type: ignore[arg-type]  # a word
        host.reload_on_change()
        await asyncio.sleep(0.3)
        await write(tmp_path / "neighbour", ONE)
        await asyncio.to_thread(path.touch)
        await asyncio.sleep(0.3)
        await asyncio.to_thread(path.unlink)
        await asyncio.sleep(0.3)
        await write(path, ONE)
        await asyncio.sleep(0.3)
        assert "reload" not in told
        await write(path, TWO)
        await until(lambda: replicas(host) == ["a", "b"])

    assert told.count("reload") == 1


async def test_watching_needs_a_file_and_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ORCH-3600: without a file, or without watchfiles, watching is refused with the mend."""
    async with AdapterHost(plugins=Yard().plugins) as host:
        with pytest.raises(RuntimeError, match="make it by AdapterHost"):
            host.reload_on_change()
    path = tmp_path / "pools.toml"
    await write(path, ONE)
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    async with AdapterHost.from_config(path, Yard().plugins) as host:
        with pytest.raises(RuntimeError, match=r"pip install llama-orch-adapter-host\[watch\]"):
            host.reload_on_change()


async def test_a_bad_file_is_tried_once(tmp_path: Path):
    """ORCH-3600: a change to a file that cannot be used is told once, and the next change is looked at as any other."""
    path = tmp_path / "pools.toml"
    await write(path, ONE)
    told: list[str] = []
    async with AdapterHost.from_config(path, Yard().plugins) as host:
        host.observe(lambda event: told.append(event.__struct_config__.tag))  # type: ignore[arg-type]  # a word
        with host.reload_on_change():
            await write(path, "[pools")
            await until(lambda: "reload_failed" in told)
            await write(tmp_path / "neighbour", ONE)
            await asyncio.sleep(0.3)
            await write(path, TWO)
            await until(lambda: replicas(host) == ["a", "b"])
        await write(path, ONE)
        await asyncio.sleep(0.3)

    assert (told.count("reload_failed"), told.count("reloaded")) == (1, 1)


async def test_a_relative_path_is_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A path that is relative to where the process runs is watched there."""
    monkeypatch.chdir(tmp_path)
    await write(tmp_path / "pools.toml", ONE)
    async with AdapterHost.from_config("pools.toml", Yard().plugins) as host:
        with host.reload_on_change():
            await asyncio.sleep(0.3)
            await write(tmp_path / "pools.toml", TWO)
            await until(lambda: replicas(host) == ["a", "b"])


async def test_a_folder_that_is_gone_is_watched_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ORCH-3600: a folder that vanishes and comes back, as a remounted one does, is watched on."""
    monkeypatch.setattr(_file, "_LOOK", 0.2)
    folder, away = tmp_path / "etc", tmp_path / "away"
    await asyncio.to_thread(folder.mkdir)
    await write(folder / "pools.toml", ONE)
    async with AdapterHost.from_config(folder / "pools.toml", Yard().plugins) as host:
        with host.reload_on_change():
            await asyncio.sleep(0.3)
            await asyncio.to_thread(folder.rename, away)
            await asyncio.sleep(0.5)
            await write(away / "pools.toml", TWO)
            await asyncio.to_thread(away.rename, folder)
            await until(lambda: replicas(host) == ["a", "b"])


async def test_a_folder_that_cannot_be_watched_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """ORCH-3600: where the system refuses the watch, that is logged, and it is tried again."""

    class Late(_file.ConfigFile):
        """Names a folder that is not there yet."""

        def folders(self) -> frozenset[Path]:
            return frozenset([tmp_path / "late"])

    monkeypatch.setattr(_file, "_LOOK", 0.2)
    pulled: list[int] = []
    stop = _file.on_change(
        Late(tmp_path / "late" / "pools.toml"), lambda: pulled.append(1), asyncio.get_running_loop().create_task
    )
    await until(lambda: any("cannot be watched" in message for message in caplog.messages))
    await asyncio.to_thread((tmp_path / "late").mkdir)
    await write(tmp_path / "late" / "pools.toml", ONE)
    await until(lambda: pulled == [1])
    stop()
    await asyncio.sleep(0.3)


async def test_a_file_whose_changes_are_not_told_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """ORCH-3600: where no watch is to be had, that is logged once with the mend, and the file is looked at instead."""

    async def none_left(*_: object, **_facts: object) -> AsyncIterator[object]:
        raise WatchfilesRustInternalError("Error creating recommended watcher: Too many open files (os error 24)")
        yield

    monkeypatch.setattr(_file, "_LOOK", 0.1)
    monkeypatch.setattr(watchfiles, "awatch", none_left)
    path = tmp_path / "pools.toml"
    await write(path, ONE)
    async with AdapterHost.from_config(path, Yard().plugins) as host:
        with host.reload_on_change():
            for text, names in [(TWO, ["a", "b"]), (ONE, ["a"])]:
                await write(path, text)
                await until(lambda: replicas(host) == names)  # noqa: B023  # it is waited for here

    (warned,) = (message for message in caplog.messages if "cannot be watched" in message)
    assert "Too many open files" in warned
    assert "raise fs.inotify.max_user_instances" in warned


async def test_a_file_that_was_a_link_to_itself_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """ORCH-3600: a link that leads to itself for a while ends no watch."""
    monkeypatch.setattr(_file, "_LOOK", 0.1)
    path = tmp_path / "pools.toml"
    await write(path, ONE)
    async with AdapterHost.from_config(path, Yard().plugins) as host:
        with host.reload_on_change():
            await asyncio.sleep(0.3)
            await asyncio.to_thread(path.unlink)
            await asyncio.to_thread(path.symlink_to, path)
            await asyncio.sleep(0.5)
            await asyncio.to_thread(path.unlink)
            await write(path, TWO)
            await until(lambda: replicas(host) == ["a", "b"])
