import asyncio
import logging
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
from llama_orch_adapter_api import AdapterSpec, hookimpl
from llama_orch_adapter_host import (
    AdapterHost,
    ConfigError,
    NoAdapterError,
    Plugin,
    PluginLimits,
    Plugins,
    UnknownEngineError,
    parse_config,
)

from .adapters import Config, Words  # type: ignore[import-not-found]  # test folders are no packages
from .conftest import Install, loaded, registers  # type: ignore[import-not-found]  # as above


def test_an_installed_adapter_is_found(install: Install):
    """ORCH-3600: a distribution with an entry point of our group is all it takes; name and version are listed."""
    install("acme", registers("acme"))

    plugins, listing = loaded()

    assert listing["acme"] == [Plugin("acme", "1.2.3", 1, "ready", "acme", ("acme",), "")]
    assert plugins.spec("acme") is plugins.engines()["acme"]
    assert plugins.spec("acme").engine == "acme"


def test_importing_the_host_imports_no_adapter(install: Install, tmp_path: Path):
    """ORCH-3600: adapters are imported by those who ask for them; importing the host, or making one, does not ask."""
    install("acme", registers("acme"))
    script = (
        "import sys; from llama_orch_adapter_host import AdapterHost, Plugins; AdapterHost(); Plugins().scan()\n"
        "print('acme' in {plugin.name for plugin in Plugins().scan()}, 'acme_module' in sys.modules)\n"
        "print(*sorted(name for name in sys.modules if name.startswith(('llama_', 'aiohttp')) and '.' not in name))"
    )
    path = {"PYTHONPATH": str(tmp_path)}
    out = subprocess.run(
        [sys.executable, "-c", script], env=os.environ | path, check=True, capture_output=True, text=True
    )

    assert out.stdout.splitlines() == ["True False", "llama_orch_adapter_api llama_orch_adapter_host"]


def test_one_package_may_serve_several_engines(install: Install):
    """A hook may call `register` more than once; each engine is usable."""
    install("twin", registers("one") + "    register(AdapterSpec('two', 1, Config, lambda context: None))")

    plugins, listing = loaded()

    assert listing["twin"][0].engines == ("one", "two")
    assert {"one", "two"} <= set(plugins.engines())


def test_two_owners_of_a_name_are_both_refused(install: Install):
    """Battery 31: two distributions with one entry-point name are both refused, unimported, and told of each other."""
    install("left", "raise AssertionError('imported')", name="both")
    install("right", "raise AssertionError('imported')", name="both")
    install("good", registers("good"))

    plugins, listing = loaded()

    assert [(p.state, p.origin, p.mend) for p in listing["both"]] == [
        ("duplicate", "left", "keep one of the packages that own it: left, right"),
        ("duplicate", "right", "keep one of the packages that own it: left, right"),
    ]
    assert "good" in plugins.engines()
    assert "left_module" not in sys.modules
    with pytest.raises(UnknownEngineError, match="both is duplicate: keep one of the packages"):
        plugins.spec("both")


def test_an_engine_is_served_by_the_first_that_registers_it(install: Install):
    """Battery 31: a package that offers an engine which another one serves already is told so, and changes nothing."""
    install("alpha", registers("same"))
    install("beta", registers("same"))

    plugins, listing = loaded()

    assert listing["alpha"][0].state == "ready"
    assert listing["beta"][0].state == "duplicate"
    assert listing["beta"][0].mend == "another package already serves engine 'same'; keep one of them"
    assert "same" in plugins.engines()


def test_a_package_half_removed(install: Install):
    """Battery 31: a distribution whose metadata file is gone is listed by its module."""
    install("ruin", "import no_such_module_anywhere", version=None)
    install("good", registers("good"))

    plugins, listing = loaded()

    assert (listing["ruin"][0].version, listing["ruin"][0].origin) == ("?", "ruin_module")
    assert "good" in plugins.engines()


def test_an_entry_point_without_a_distribution():
    """An entry point that somebody made by hand is listed by what it points at."""
    plugins = Plugins()
    plugins.load([EntryPoint("hand", "no_such_module_anywhere", "llama_orch.adapters")])

    (found,) = plugins.listing()

    assert (found.state, found.version, found.origin) == ("broken", "?", "no_such_module_anywhere")


def test_no_adapter_at_all():
    """With nothing installed, asking for an engine says what to install."""
    plugins = Plugins()
    plugins.load([])

    with pytest.raises(NoAdapterError, match=r"no adapter is installed; install one, e\.g\. pip install "):
        plugins.spec("words")


def test_an_unknown_engine_names_those_that_are_known():
    """Asking for an engine that nobody serves names the others."""
    plugins = Plugins()
    for engine in ("words", "deeds"):
        plugins.register(AdapterSpec(engine, 1, Config, lambda _: Words()))

    with pytest.raises(UnknownEngineError) as caught:
        plugins.spec("thoughts")

    assert str(caught.value) == (
        "no adapter for engine 'thoughts' (known: deeds, words); "
        "name one of these, or install the package of its adapter"
    )


@pytest.mark.parametrize(
    ("api", "told"),
    [(1, "another package already serves engine 'words'"), (2, "it was written for API 2, this host has 1")],
)
def test_registering_by_hand_follows_the_same_rules(api: int, told: str):
    """ORCH-3600: an adapter registered in code is refused for another API or a name that is taken."""
    plugins = Plugins()
    plugins.register(AdapterSpec("words", 1, Config, lambda _: Words()))

    with pytest.raises(ConfigError, match=f"engine 'words': {told}"):
        plugins.register(AdapterSpec("words", api, Config, lambda _: Words()))


def test_a_host_finds_what_is_installed(install: Install):
    """ORCH-3600: a host that is given no plugins looks for the installed ones itself."""
    install("acme", registers("acme"))

    assert "acme" in AdapterHost().plugins.engines()


def test_a_host_imports_what_its_config_lets_in(install: Install):
    """Battery 31: a host that is given no plugins keeps to the lists of its config, at the first look already."""
    install("acme", registers("acme"))
    install("shady", "raise AssertionError('imported')")
    raw = b"plugins.block = ['shady']\n[pools.a]\nengine = 'acme'\nreplicas = [{}]"

    host = AdapterHost(parse_config(raw))

    assert {p.name: p.state for p in host.plugins.listing()}.items() >= {("acme", "ready"), ("shady", "blocked")}
    assert "shady_module" not in sys.modules


def test_an_entered_host_knows_what_is_installed(install: Install, monkeypatch: pytest.MonkeyPatch):
    """ORCH-3600: entering a host without a config finds the installed adapters off the event loop, to be bound then."""
    install("acme", registers("acme").replace("None", "__import__('sys').modules['adapters_of_test'].Words()"))
    monkeypatch.setitem(sys.modules, "adapters_of_test", sys.modules[Words.__module__])

    async def main() -> tuple[str, ...]:
        async with AdapterHost() as host:
            host.bind("chat", "acme", {})
            return host.pools()

    with asyncio.Runner() as runner:
        assert runner.run(main()) == ("chat",)


class Both:
    """A plugin with an adapter and a routing policy."""

    def __init__(self, engine: str = "words", route: str = "nearest") -> None:
        self.engine = engine
        self.route = route

    @hookimpl
    def llama_orch_register_adapters(self, register: Any) -> None:
        register(AdapterSpec(self.engine, 1, Config, lambda _: Words()))

    @hookimpl
    def llama_orch_register_routes(self, register: Any) -> None:
        register(self.route, len)


def test_a_plugin_in_code():
    """An object with hooks is loaded like an installed plugin; its engines and routes are there at once."""
    plugins = Plugins()

    loaded = plugins.register_plugin(Both(), "mine")

    assert loaded == Plugin("mine", "?", 1, "ready", "register_plugin()", ("words",), "", ("nearest",))
    assert plugins.listing() == (loaded,)
    assert plugins.routes() == {"nearest": len}
    assert plugins.spec("words").engine == "words"


@pytest.mark.parametrize(
    ("other", "name", "told"),
    [
        (Both("deeds"), "yours", "is duplicate: another package already serves route 'nearest'; keep one of them"),
        (Both("words", "farthest"), "yours", "is duplicate: another package already serves engine 'words'"),
        (Both("deeds", "farthest"), "mine", "is duplicate: a plugin of this name is loaded already; give another"),
        (object(), "yours", "is broken: it registers no adapter and no routing policy, and has no hook"),
    ],
)
def test_a_plugin_in_code_follows_the_same_rules(other: object, name: str, told: str):
    """A name that is taken, of a plugin, an engine or a route, is refused whole, and nothing of it is kept."""
    plugins = Plugins()
    plugins.register_plugin(Both(), "mine")

    with pytest.raises(ConfigError, match=f"plugin '{name}' {told}"):
        plugins.register_plugin(other, name)

    assert (list(plugins.engines()), list(plugins.routes())) == (["words"], ["nearest"])


def test_a_name_is_registered_once():
    """A plugin that registers one engine, or one route, twice is refused: which one it meant nobody knows."""

    class Twice(Both):
        @hookimpl
        def llama_orch_register_routes(self, register: Any) -> None:
            register("nearest", len)
            register("nearest", max)

    plugins = Plugins()
    with pytest.raises(ConfigError, match="it registers route 'nearest' 2 times; register each once"):
        plugins.register_plugin(Twice(), "mine")

    assert not plugins.engines()


def test_every_load_is_narrated(install: Install, caplog: pytest.LogCaptureFixture):
    """Each plugin's outcome is told with name, version and origin: to `on_change`, in the log where there is none."""
    install("acme", registers("acme"))
    install("shady", registers("shady"))
    install("wreck", "raise OSError('no such luck')")
    caplog.set_level(logging.INFO)
    changes: list[Plugin] = []
    plugins = Plugins.installed(block=["shady"], on_change=changes.append)
    assert caplog.messages == []
    Plugins.installed(block=["shady"])

    assert tuple(changes) == plugins.listing()
    assert {"acme", "shady", "wreck"} <= {plugin.name for plugin in changes}
    assert "plugin acme 1.2.3 of acme is ready" in caplog.messages
    assert "plugin shady 1.2.3 of shady is blocked: plugins.block names it; to use it, take it off that list" in (
        caplog.messages
    )
    assert "plugin wreck 1.2.3 of wreck is broken: OSError: no such luck; update or remove wreck" in caplog.messages


def test_who_is_told_must_not_stop_the_loading(caplog: pytest.LogCaptureFixture):
    """An `on_change` that raises is logged, and the plugin is loaded all the same."""

    def raises(plugin: Plugin) -> None:
        raise OSError("not now")

    plugins = Plugins(on_change=raises)
    plugins.register_plugin(Both(), "mine")

    assert "words" in plugins.engines()
    assert caplog.messages == ["on_change of plugin mine raised OSError: not now"]


def test_a_slow_load_is_warned_of(caplog: pytest.LogCaptureFixture):
    """Battery 31: a plugin that takes long to load is usable, and its owner is told how long it took."""
    times = iter((0.0, 3.5))
    plugins = Plugins(limits=PluginLimits(slow_load=2), clock=lambda: next(times))
    plugins.register_plugin(Both(), "mine")

    assert "words" in plugins.engines()
    assert caplog.messages == ["plugin mine took 3.5 s to load; update register_plugin()"]
