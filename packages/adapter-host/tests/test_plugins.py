import asyncio
import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from llama_orch_adapter_api import AdapterSpec, TaskRequest
from llama_orch_adapter_host import AdapterHost, ConfigError, NoAdapterError, Plugin, Plugins, UnknownEngineError

from .adapters import Config, Words, drained, virtual  # type: ignore[import-not-found]  # test folders are no packages

IMPORTS = """
import msgspec
from llama_orch_adapter_api import AdapterSpec, hookimpl
class Config(msgspec.Struct, forbid_unknown_fields=True):
    url: str = ""
"""

REGISTERS = """
@hookimpl
def llama_orch_register_adapters(register):
    register(AdapterSpec({engine!r}, {api}, Config, lambda context: None))
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Lay a distribution down as pip would: a module, and a dist-info folder with an entry point to it.

    `dist` is its name, `source` its module's text after the imports, `name` that of the entry point.
    """
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def write(dist: str, source: str, name: str | None = None, version: str | None = "1.2.3") -> None:
        module = f"{dist}_module"
        (tmp_path / f"{module}.py").write_text(IMPORTS + source)
        info = tmp_path / f"{dist}-{version or 0}.dist-info"
        info.mkdir()
        if version:
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {dist}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[llama_orch.adapters]\n{name or dist} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return write


def loaded() -> tuple[Plugins, dict[str, list[Plugin]]]:
    """The installed adapters, and what the listing says of each entry point's name."""
    plugins = Plugins()
    plugins.load()
    listing: dict[str, list[Plugin]] = {}
    for plugin in plugins.listing():
        listing.setdefault(plugin.name, []).append(plugin)
    return plugins, listing


def registers(engine: str, api: int = 1) -> str:
    return REGISTERS.format(engine=engine, api=api)


def test_an_installed_adapter_is_found(install: Install):
    """ORCH-3600: a distribution with an entry point of our group is all it takes; name and version are listed."""
    install("acme", registers("acme"))

    plugins, listing = loaded()

    assert listing["acme"] == [Plugin("acme", "1.2.3", 1, "ready", "acme", ("acme",), "")]
    assert plugins.spec("acme") is plugins.engines()["acme"]
    assert plugins.spec("acme").engine == "acme"


def test_one_package_may_serve_several_engines(install: Install):
    """A hook may call `register` more than once; each engine is usable."""
    install("twin", registers("one") + "    register(AdapterSpec('two', 1, Config, lambda context: None))")

    plugins, listing = loaded()

    assert listing["twin"][0].engines == ("one", "two")
    assert {"one", "two"} <= set(plugins.engines())


BAD = {
    "absent": (
        "import no_such_module_anywhere",
        "broken",
        "ModuleNotFoundError: No module named 'no_such_module_anywhere'",
    ),
    "syntax": ("def (", "broken", "SyntaxError: "),
    "exits": ("raise SystemExit(3)", "broken", "SystemExit: 3"),
    "raises": ("@hookimpl\ndef llama_orch_register_adapters(register): raise KeyError('x')", "broken", "KeyError: 'x'"),
    "leaves": (
        "@hookimpl\ndef llama_orch_register_adapters(register): raise SystemExit",
        "broken",
        "SystemExit; update",
    ),
    "asks": ("@hookimpl\ndef llama_orch_register_adapters(registre): pass", "broken", "PluginValidationError: "),
    "waits": ("@hookimpl\nasync def llama_orch_register_adapters(register): pass", "broken", "async def"),
    "nothing": ("", "broken", "it registers no adapter; update or remove nothing"),
    "silent": ("@hookimpl\ndef llama_orch_register_adapters(): pass", "broken", "it registers no adapter"),
    "typo": ("@hookimpl\ndef llama_orch_register_adapter(register): pass", "broken", "it registers no adapter"),
    "dict": (
        "@hookimpl\ndef llama_orch_register_adapters(register): register({})",
        "broken",
        "registers a dict, not an",
    ),
    "odd": (registers("odd", 0).replace("0, Config", "'1', Config"), "broken", "TypeError: "),
    "old": (registers("old", 0), "incompatible", "it was written for API 0, this host has 1; update the adapter"),
    "new": (registers("new", 2), "incompatible", "written for API 2, this host has 1; update llama-orch-adapter-host"),
    "mute": (
        "class Mute(Exception):\n    def __str__(self): raise ValueError\nraise Mute",
        "broken",
        "Mute; update or remove mute",
    ),
    "noisy": (
        r"raise ValueError('a\n\x1b[31mb\u202ec  d\x00')",
        "broken",
        r"ValueError: a \x1b[31mb\u202ec d\x00; update",
    ),
}


@pytest.mark.parametrize("dist", BAD)
def test_a_bad_plugin_harms_no_other(install: Install, dist: str):
    """Battery 31: whatever an adapter's package does wrong, it is listed with the mend in one line, and others load."""
    source, state, mend = BAD[dist]
    install("aardvark", registers("aardvark"))
    install(dist, source)
    install("zebra", registers("zebra"))

    plugins, listing = loaded()

    (bad,) = listing[dist]
    assert bad.state == state
    assert mend in bad.mend
    assert bad.mend.isprintable()
    assert (bad.version, bad.origin) == ("1.2.3", dist)
    assert {"aardvark", "zebra"} <= set(plugins.engines())
    assert dist not in plugins.engines()
    with pytest.raises(UnknownEngineError, match=f"no adapter for engine '{dist}'.*; {dist} is {state}: "):
        plugins.spec(dist)


def test_all_bad_plugins_at_once(install: Install):
    """Battery 31: a host serves on with every bad plugin installed beside a good one."""
    for dist, (source, _, _) in BAD.items():
        install(dist, source)
    install("good", registers("good"))

    plugins, listing = loaded()

    assert "good" in plugins.engines()
    assert set(BAD) <= set(listing)


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


def test_ctrl_c_is_not_a_plugins_fault(install: Install):
    """Battery 31: a KeyboardInterrupt while a plugin is imported reaches the one who pressed the keys."""
    install("slow", "raise KeyboardInterrupt")

    with pytest.raises(KeyboardInterrupt):
        Plugins().load()


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


@virtual
async def test_the_host_serves_with_a_broken_plugin_about():
    """Battery 31: quarantine is no more than a line in the listing for the tasks of the others."""
    plugins = Plugins()
    plugins.load([EntryPoint("broken", "no_such_module_anywhere", "llama_orch.adapters")])
    plugins.register(AdapterSpec("words", 1, Config, lambda _: Words()))
    async with AdapterHost(plugins=plugins) as host:
        host.bind("pool", "words", {})
        events = await drained(await host.submit("pool", TaskRequest(prompt="go on")))

    assert len(events) == 5
    assert [plugin.state for plugin in host.plugins.listing()] == ["broken"]


def test_a_host_finds_what_is_installed(install: Install):
    """ORCH-3600: a host that is given no plugins looks for the installed ones itself."""
    install("acme", registers("acme"))

    assert "acme" in AdapterHost().plugins.engines()


LIFE = """
seen = []
@hookimpl
def llama_orch_on_preload(binding):
    seen.append(("preload", binding.replica_id))
@hookimpl
def llama_orch_on_bind(binding):
    seen.append(("bind", binding.replica_id, binding.generation))
@hookimpl
def llama_orch_on_drain():
    seen.append("drain")
@hookimpl
def llama_orch_on_unbind(binding):
    seen.append(("unbind", binding.engine))
    raise OSError("not my day")
"""


def test_plugins_are_told_of_a_bindings_life(install: Install):
    """ORCH-3600: preload, bind, drain and unbind are told, in that order; a hook that raises harms nobody."""
    install("alpha", registers("words") + LIFE)
    install("beta", registers("deeds") + LIFE)
    plugins, _ = loaded()
    plugins.register(AdapterSpec("mine", 1, Config, lambda _: Words()))

    async def main() -> None:
        async with AdapterHost(plugins=plugins) as host:
            host.bind("chat", "mine", {}, replica_id="r0")

    with asyncio.Runner() as runner:
        runner.run(main())

    expected = [("preload", "r0"), ("bind", "r0", 1), "drain", ("unbind", "mine")]
    assert sys.modules["alpha_module"].seen == expected
    assert sys.modules["beta_module"].seen == expected
