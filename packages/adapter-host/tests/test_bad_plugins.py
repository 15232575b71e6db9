"""Battery 31: whatever a plugin does, the host serves on and the others run."""

import asyncio
import importlib
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from llama_orch_adapter_api import AdapterSpec, TaskRequest, hookimpl
from llama_orch_adapter_host import AdapterHost, Plugin, PluginLimits, Plugins, PoolPolicy, UnknownEngineError
from llama_orch_adapter_host._offer import LIFECYCLE

from .adapters import Config, Words, drained, virtual  # type: ignore[import-not-found]  # test folders are no packages
from .conftest import Install, loaded, registers  # type: ignore[import-not-found]  # as above

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
    "nothing": (
        "",
        "broken",
        "it registers no adapter and no routing policy, and has no hook; update or remove nothing",
    ),
    "silent": ("@hookimpl\ndef llama_orch_register_adapters(): pass", "broken", "it registers no adapter"),
    "typo": (
        "@hookimpl\ndef llama_orch_register_adapter(register): pass",
        "broken",
        "llama_orch_register_adapter is no hook of this host; correct its name",
    ),
    "dict": (
        "@hookimpl\ndef llama_orch_register_adapters(register): register({})",
        "broken",
        "registers a dict, not an",
    ),
    "odd": (registers("odd", 0).replace("0, Config", "'1', Config"), "broken", "engine 'odd' and api '1'; give"),
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


def test_ctrl_c_is_not_a_plugins_fault(install: Install, monkeypatch: pytest.MonkeyPatch):
    """Battery 31: a Ctrl-C while a plugin is imported reaches the one who pressed the keys, at once."""
    goes_on = threading.Event()
    monkeypatch.setitem(sys.modules, "goes_on", goes_on)
    main = threading.main_thread().ident
    install("slow", f"import signal, goes_on\nsignal.pthread_kill({main}, {signal.SIGINT:d})\ngoes_on.wait(15)")

    with pytest.raises(KeyboardInterrupt):
        Plugins().load()

    goes_on.set()


def test_the_host_serves_with_a_broken_plugin_about():
    """Battery 31: quarantine is no more than a line in the listing for the tasks of the others."""
    plugins = Plugins()
    plugins.load([EntryPoint("broken", "no_such_module_anywhere", "llama_orch.adapters")])
    plugins.register(AdapterSpec("words", 1, Config, lambda _: Words()))

    @virtual
    async def serve() -> None:
        async with AdapterHost(plugins=plugins) as host:
            host.bind("pool", "words", {})
            events = await drained(await host.submit("pool", TaskRequest(prompt="go on")))

        assert len(events) == 5

    serve()

    assert [plugin.state for plugin in plugins.listing()] == ["broken"]


# --- every misbehaviour, at every place


class Clock:
    """A clock that stands until somebody moves it; who is slow moves it for his own thread."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ahead: dict[int, float] = {}

    def __call__(self) -> float:
        return self.now + self.ahead.get(threading.get_ident(), 0)

    def of_all(self) -> float:
        return self.now + sum(self.ahead.values())

    def be_slow(self) -> None:
        self.ahead[threading.get_ident()] = self.ahead.get(threading.get_ident(), 0) + 5


class Stage:
    """What the misbehaving code of a case does, and the means to see it and to end it."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.entered = threading.Event()
        self.goes_on = threading.Event()
        self.calls = 0

    def misbehave(self, how: str) -> None:
        self.calls += 1
        self.entered.set()
        match how:
            case "raises":
                raise OSError("not my day")
            case "exits":
                sys.exit(3)
            case "interrupts":
                raise KeyboardInterrupt
            case "imports":
                importlib.import_module("no_such_module_anywhere")
            case "slow":
                self.clock.be_slow()
            case "hangs":
                self.goes_on.wait()


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    """A stage that installed modules can import; what hangs on it is let go at the end."""
    stage = Stage()
    monkeypatch.setitem(sys.modules, "stage_of_test", stage)
    yield stage
    stage.goes_on.set()


HOW = {
    "raises": "raised OSError: not my day",
    "exits": "raised SystemExit: 3",
    "interrupts": "raised KeyboardInterrupt",
    "imports": "raised ModuleNotFoundError: No module named 'no_such_module_anywhere'",
    "slow": "took 5.0 s",
    "hangs": "did not come to an end within 10 s",
}
"""What is said of each misbehaviour of a hook."""

LOADS = {
    "import": "import stage_of_test\nstage_of_test.misbehave({how!r})\n",
    "adapters": "import stage_of_test\n@hookimpl\ndef llama_orch_register_adapters(register):\n"
    "    register(AdapterSpec('bad', 1, Config, lambda context: None))\n    stage_of_test.misbehave({how!r})\n",
    "routes": "import stage_of_test\n@hookimpl\ndef llama_orch_register_routes(register):\n"
    "    register('bad', len)\n    stage_of_test.misbehave({how!r})\n",
}
"""Where a plugin may misbehave while it is loaded."""


@pytest.mark.parametrize("where", LOADS)
@pytest.mark.parametrize("how", [how for how in HOW if how != "slow"])
def test_a_plugin_that_misbehaves_while_it_is_loaded(install: Install, stage: Stage, where: str, how: str):
    """Battery 31: raise, exit, interrupt, hang, a failing import: nothing of the plugin is kept, the others load."""
    install("aardvark", registers("aardvark"))
    install("bad", LOADS[where].format(how=how))
    install("zebra", registers("zebra"))
    plugins = Plugins(limits=PluginLimits(load=1), allow=["aardvark", "bad", "zebra"])
    plugins.load()

    states = {plugin.name: plugin.state for plugin in plugins.listing() if plugin.state != "blocked"}
    (mend,) = [plugin.mend for plugin in plugins.listing() if plugin.name == "bad"]
    said = "it does not come to an end within 1 s" if how == "hangs" else HOW[how].removeprefix("raised ")
    assert states == {"aardvark": "ready", "bad": "hangs" if how == "hangs" else "broken", "zebra": "ready"}
    assert mend == f"{said}; update or remove bad"
    assert set(plugins.engines()) == {"aardvark", "zebra"}
    assert plugins.routes() == {}


@pytest.mark.parametrize("where", LOADS)
def test_a_plugin_that_is_slow_while_it_is_loaded(
    install: Install, stage: Stage, where: str, caplog: pytest.LogCaptureFixture
):
    """Battery 31: what is slow to load is usable, and warned of."""
    install("bad", LOADS[where].format(how="slow") + ("" if where == "adapters" else registers("bad")))
    plugins = Plugins(clock=stage.clock.of_all)
    plugins.load()

    assert "bad" in plugins.engines()
    assert [m for m in caplog.messages if "bad" in m] == ["plugin bad took 5.0 s to load; update bad"]


def plugin_of(hook: str, implementation: Callable[[object], None]) -> object:
    """A plugin with a route of its own and one lifecycle hook."""
    argument = "event" if hook == "llama_orch_on_event" else "binding"
    scope: dict[str, Any] = {"implementation": implementation}
    exec(f"def {hook}(self, {argument}): implementation({argument})", scope)  # pluggy reads the argument's name

    class Plugin:
        @hookimpl
        def llama_orch_register_routes(self, register: Any) -> None:
            register(f"route of {id(self)}", len)

    setattr(Plugin, hook, hookimpl(scope[hook]))
    return Plugin()


@pytest.mark.parametrize("hook", sorted(LIFECYCLE))
@pytest.mark.parametrize("how", HOW)
def test_a_hook_that_misbehaves(stage: Stage, hook: str, how: str):
    """Battery 31: three strikes in a row, or one call that hangs, and it is not called again; the others are."""
    seen: list[object] = []
    changes: list[Plugin] = []
    plugins = Plugins(clock=stage.clock, on_change=changes.append)
    plugins.register_plugin(plugin_of(hook, seen.append), "aardvark")
    plugins.register_plugin(plugin_of(hook, lambda _: stage.misbehave(how)), "bad")
    plugins.register_plugin(plugin_of(hook, seen.append), "zebra")
    for count in range(10):
        plugins.notify(hook, count)
    if how == "hangs":
        assert stage.entered.wait(10)
        others = [plugins._fanout._by_name[name] for name in ("aardvark", "zebra")]
        assert all(listener.settle(time.monotonic() + 10) for listener in others)
        stage.clock.now += 10.5
        plugins.notify(hook, "this finds it out")
    settled = plugins.settle(10)
    plugins.notify(hook, "and this is not for the bad one")
    closed = plugins.close(10) if how != "hangs" else plugins.settle(10)

    (bad,) = [plugin for plugin in plugins.listing() if plugin.name == "bad"]
    why = HOW[how] if how == "hangs" else f"{HOW[how]}, the last of 3 strikes in a row"
    assert settled
    assert closed
    assert stage.calls == (1 if how == "hangs" else 3)
    assert bad.state == "hooks off"
    assert bad.mend == (
        f"{hook} {why}; what it registered serves on. Update or remove register_plugin() and start again"
    )
    assert changes[3:] == [bad]
    told = [*range(10), *(["this finds it out"] if how == "hangs" else []), "and this is not for the bad one"]
    assert sorted(seen, key=str) == sorted([*told, *told], key=str)
    assert len(plugins.routes()) == 3


@pytest.mark.parametrize("how", HOW)
def test_the_host_serves_on_whatever_a_hook_does(stage: Stage, how: str):
    """Battery 31: a host whose plugin misbehaves in every hook binds, serves and ends like any other."""

    class Bad:
        @hookimpl
        def llama_orch_register_adapters(self, register: Any) -> None:
            register(AdapterSpec("words", 1, Config, lambda _: Words()))

        @hookimpl
        def llama_orch_on_preload(self) -> None:
            stage.misbehave(how)

        llama_orch_on_bind = llama_orch_on_drain = llama_orch_on_unbind = llama_orch_on_preload

    plugins = Plugins(clock=stage.clock)
    plugins.register_plugin(Bad(), "bad")

    @virtual
    async def serve() -> None:
        async with AdapterHost(plugins=plugins) as host:
            for replica in ("0", "1"):
                host.bind("pool", "words", {}, replica_id=replica)
            assert await asyncio.to_thread(stage.entered.wait, 10)
            stage.clock.now += 10.5
            assert len(await drained(await host.submit("pool", TaskRequest(prompt="go on")))) == 5

    serve()

    assert [plugin.state for plugin in plugins.listing()] == ["hooks off"]
    assert "words" in plugins.engines()


def test_a_policy_and_advice_that_are_dropped():
    """Battery 31: a plugin whose routing policy or advice had its last strike is listed, and serves on."""
    plugins = Plugins()

    def leave(*_: object) -> Any:
        sys.exit(3)

    class Bad:
        @hookimpl
        def llama_orch_register_adapters(self, register: Any) -> None:
            register(AdapterSpec("words", 1, Config, lambda _: Words(pause=None), advise=leave))

        @hookimpl
        def llama_orch_register_routes(self, register: Any) -> None:
            register("odd", leave)

    plugins.register_plugin(Bad(), "bad")
    changes: list[tuple[str, str]] = []
    plugins.on_change = lambda plugin: changes.append((plugin.state, plugin.mend))

    @virtual
    async def serve() -> None:
        async with AdapterHost(plugins=plugins) as host:
            host.bind("pool", "words", {}, policy=PoolPolicy(route="odd"))
            await host._fleet.lookout.refresh(host._registry.binding("pool", "0"))
            for _ in range(5):
                assert len(await drained(await host.submit("pool", TaskRequest(prompt="go on")))) == 5

    serve()

    mend = "the last of 3 strikes in a row; it is asked no more; what else it registered serves on. Update or remove "
    assert [state for state, _ in changes] == ["hooks off", "hooks off"]
    assert changes[0][1].startswith(f"routing policy 'odd' fails: SystemExit, {mend}")
    assert changes[1][1].startswith(f"advise() of engine 'words' fails: SystemExit, {mend}")
    assert changes[1][1].endswith(f". Before that {changes[0][1]}")
    assert [plugin.state for plugin in plugins.listing()] == ["hooks off"]
    assert "words" in plugins.engines()
