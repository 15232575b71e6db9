"""Entering a host: once, whole or not at all (ORCH-3600)."""

import asyncio
import threading
from collections.abc import Callable

import pytest
from llama_orch_adapter_host import AdapterHost, ConfigError, HostConfig, parse_config

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    Words,
    drained,
    host_of,
    plugins_with,
    task,
    virtual,
)


@virtual
async def test_a_host_is_entered_once():
    """Battery 30: a host that runs, or has stopped, cannot be entered: nobody would close what it builds then."""
    built = [Words(), Words()]
    host = AdapterHost(parse_config(b'[pools.chat]\nengine = "words"\nreplicas = [{}]'), plugins_with(*built))
    async with host:
        with pytest.raises(RuntimeError, match="this host is entered already; a host is entered once"):
            await host.__aenter__()
        assert len(await drained(await host.submit("chat", task()))) == 5
    with pytest.raises(RuntimeError, match="this host has stopped; a host is entered once · make a new one"):
        async with host:
            pass

    assert [adapter.closed for adapter in built] == [1, 0]


@virtual
async def test_a_host_closed_while_it_is_entered():
    """Battery 30: a host that is closed before it was entered stays closed: it binds nothing, entering raises."""
    adapter = Words()
    host = AdapterHost(parse_config(b'[pools.chat]\nengine = "words"\nreplicas = [{}]'), plugins_with(adapter))
    entering = asyncio.create_task(host.__aenter__())
    await asyncio.sleep(0)  # it reads its config
    await host.aclose()
    with pytest.raises(RuntimeError, match="closed while it was being entered · make a new one"):
        await entering

    assert host.pools() == ()
    assert len(host._fleet.bindings()) == 0


async def test_plugins_found_by_a_closed_host_are_let_go_of(install: Callable[..., None]):
    """Battery 30: what entering finds after the host was closed leaves no thread behind."""
    install("late", "@hookimpl\ndef llama_orch_on_event(event): pass\n")
    closed = threading.Event()
    host = AdapterHost()
    host._read = lambda: HostConfig({}) if closed.wait() else None  # as from a slow disk
    entering = asyncio.create_task(host.__aenter__())
    await asyncio.sleep(0)
    await host.aclose()
    closed.set()
    with pytest.raises(RuntimeError, match="closed while it was being entered"):
        await entering

    assert [plugin.name for plugin in host.plugins.listing() if plugin.name == "late"] == ["late"]
    assert "hooks of late" not in [thread.name for thread in threading.enumerate()]


async def test_plugins_found_after_entering_was_cancelled_are_let_go_of(install: Callable[..., None]):
    """Battery 30: what a cancelled entering finds once it has been given up leaves no thread behind."""
    install("late", "@hookimpl\ndef llama_orch_on_event(event): pass\n")
    cancelled = threading.Event()
    host = AdapterHost()
    host._read = lambda: HostConfig({}) if cancelled.wait() else None  # as from a slow disk
    entering = asyncio.create_task(host.__aenter__())
    await asyncio.sleep(0)
    entering.cancel()
    await asyncio.wait([entering])
    cancelled.set()
    await asyncio.get_running_loop().shutdown_default_executor()  # it has found them all

    assert entering.cancelled()
    assert [plugin.name for plugin in host.plugins.listing() if plugin.name == "late"] == ["late"]
    assert "hooks of late" not in [thread.name for thread in threading.enumerate()]


@virtual
async def test_what_was_built_beside_a_failure_is_closed():
    """ORCH-3600: adapters that were built and never bound are closed once, with the host; a taken id builds none."""
    built = [Words(), Words()]
    plugins = plugins_with(*built)
    config = parse_config(b'[pools.chat]\nengine = "words"\nreplicas = [{}, {}, {}]')
    with pytest.raises(ConfigError, match="IndexError"):
        async with AdapterHost(config, plugins):
            pass
    host = host_of(Words(), Words())
    with pytest.raises(ConfigError, match="is bound already"):
        host.bind("pool", "words", {}, replica_id="1")
    await host.aclose()

    assert [adapter.closed for adapter in built] == [1, 1]
