"""Between the host and its plugins (ORCH-3604)."""

import gc
import itertools
import weakref

import pytest
from llama_orch_adapter_host import AdapterHost, Plugin, Plugins
from llama_orch_adapter_host._events import HostEvent, PluginChanged

from .adapters import Words, plugins_with, virtual  # type: ignore[import-not-found]  # test folders are no packages

CHANGE = Plugin(name="shady", version="1", api=1, state="broken", origin="shady 1")


def sharing(plugins: Plugins) -> tuple[AdapterHost, list[str]]:
    """A host with these plugins, and the names of those that it told to have changed."""
    host = AdapterHost(plugins=plugins)
    told: list[str] = []

    def observe(event: HostEvent) -> None:
        if isinstance(event, PluginChanged):
            told.append(event.name)

    host.observe(observe)
    assert host.plugins is plugins
    return host, told


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@virtual
async def test_hosts_that_share_plugins(order: tuple[int, ...]):
    """ORCH-3604: each host is told of a change as long as it lives, in whatever order they stop, and nothing stays."""
    first: list[str] = []
    plugins = plugins_with(Words())
    plugins.on_change = own = lambda plugin: first.append(plugin.name)
    some = [sharing(plugins) for _ in range(3)]
    for stopped in order:
        plugins._tell(CHANGE)
        await some[stopped][0].aclose()
    plugins._tell(CHANGE)

    assert plugins.on_change is own
    assert first == 4 * ["shady"]
    assert [len(told) for _, told in some] == [order.index(i) + 1 for i in range(3)]


@virtual
async def test_an_on_change_that_came_later_stays():
    """ORCH-3604: whoever listens instead of the hosts is left alone by their stop."""
    plugins = plugins_with(Words())
    host, _ = sharing(plugins)
    plugins.on_change = own = [].append
    await host.aclose()

    assert plugins.on_change == own


@virtual
async def test_a_stopped_host_is_not_kept_by_its_plugins():
    """ORCH-3604: plugins that outlive a host do not keep it."""
    plugins = plugins_with(Words())
    host, _ = sharing(plugins)
    await host.aclose()
    gone = weakref.ref(host)
    del host, _
    gc.collect()

    assert gone() is None
