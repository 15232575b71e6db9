"""Hooks and what an adapter is given: valid for pluggy, and wrong plugins are told what is wrong."""

from collections.abc import Callable

import msgspec
import pluggy
import pytest
from llama_orch_adapter_api import (
    API_VERSION,
    ENTRY_POINT_GROUP,
    PROJECT,
    AdapterContext,
    AdapterSpec,
    BindingInfo,
    HookSpecs,
    LaunchOptions,
    Progress,
    Timeouts,
    WorkerAdapter,
    hookimpl,
)

SPECS = [name for name in vars(HookSpecs) if not name.startswith("_")]
LIFECYCLE = ["preload", "bind", "reload", "rebind", "drain", "unbind"]
BINDING = BindingInfo("chat", "r0", "echo", 1)


def manager() -> pluggy.PluginManager:
    plugins = pluggy.PluginManager(PROJECT)
    plugins.add_hookspecs(HookSpecs)
    return plugins


def test_names() -> None:
    """What packages are found by is fixed: project, entry-point group and version of the boundary."""
    assert (PROJECT, ENTRY_POINT_GROUP, API_VERSION) == ("llama_orch", "llama_orch.adapters", 1)


def test_every_spec_is_known_to_pluggy() -> None:
    """Pluggy takes every specification, by the names that the design lists."""
    names = {name for name in vars(manager().hook) if not name.startswith("_")}

    assert names == {
        "llama_orch_register_adapters",
        "llama_orch_register_routes",
        "llama_orch_on_event",
        *(f"llama_orch_on_{moment}" for moment in LIFECYCLE),
    }


@pytest.mark.parametrize("name", SPECS)
def test_every_spec_says_what_it_is_for(name: str) -> None:
    """A hook is a name, a signature and one sentence."""
    assert (getattr(HookSpecs, name).__doc__ or "").endswith(".")


def test_an_adapter_is_registered() -> None:
    """A plugin hands its spec to `register`, and the spec comes out as it went in."""

    class Config(msgspec.Struct, forbid_unknown_fields=True):
        url: str

    def make(context: AdapterContext) -> WorkerAdapter:
        raise NotImplementedError(context.pool_id)

    spec = AdapterSpec("echo", API_VERSION, Config, make)

    class Plugin:
        @hookimpl
        def llama_orch_register_adapters(self, register: Callable[[AdapterSpec], None]) -> None:
            register(spec)

    plugins = manager()
    plugins.register(Plugin())
    found: list[AdapterSpec] = []
    plugins.hook.llama_orch_register_adapters(register=found.append)

    assert found == [spec]
    assert spec.launch is None


@pytest.mark.parametrize("moment", LIFECYCLE)
def test_lifecycle_hooks_are_told_the_binding(moment: str) -> None:
    """Each lifecycle hook reaches a plugin with the binding it is about."""
    seen: list[object] = []

    def implementation(self: object, binding: BindingInfo) -> None:
        seen.append(binding)

    plugin = type("Plugin", (), {f"llama_orch_on_{moment}": hookimpl(implementation)})
    plugins = manager()
    plugins.register(plugin())
    getattr(plugins.hook, f"llama_orch_on_{moment}")(binding=BINDING)

    assert seen == [BINDING]


@pytest.mark.parametrize("name", SPECS)
def test_a_wrong_argument_is_refused_by_name(name: str) -> None:
    """A plugin that asks for an argument the hook does not have is refused; plugin, hook and argument are named."""

    def implementation(self: object, wrong: object) -> None:
        raise AssertionError

    plugin = type("Plugin", (), {name: hookimpl(implementation)})

    with pytest.raises(pluggy.PluginValidationError, match=rf"(?s)'my-plugin'.*hook '{name}'.*wrong"):
        manager().register(plugin(), name="my-plugin")


def test_an_unknown_hook_is_found_out() -> None:
    """A misspelt hook name of ours is refused by pluggy's check."""

    def implementation(self: object) -> None:
        raise AssertionError

    plugin = type("Plugin", (), {"llama_orch_on_bnid": hookimpl(implementation)})
    plugins = manager()
    plugins.register(plugin())

    with pytest.raises(pluggy.PluginValidationError, match="unknown hook 'llama_orch_on_bnid'"):
        plugins.check_pending()


LIMITS = ["connect", "first_token", "idle", "drain", "min_useful"]
MAY_BE_ZERO = ["drain", "min_useful"]


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("value", [-0.001, 86400.5, float("nan"), float("inf")])
def test_limits_are_bounded(name: str, value: float) -> None:
    """A limit is between 0 and a day; the refusal names it, its value and the mend."""
    least = "from 0" if name in MAY_BE_ZERO else "above 0"

    with pytest.raises(ValueError, match=f"^timeouts.{name} is {value}; give seconds, {least} and up to 86400$"):
        Timeouts(**{name: value})


@pytest.mark.parametrize("name", LIMITS)
def test_no_wait_at_all(name: str) -> None:
    """Draining at once and calling with next to no time left are choices; a wait of 0 s for an engine is none."""
    wire = {name: 0}
    if name in MAY_BE_ZERO:
        assert getattr(msgspec.convert(wire, Timeouts), name) == 0
        return

    with pytest.raises(msgspec.ValidationError, match=f"^timeouts.{name} is 0.0; give seconds, above 0 and"):
        msgspec.convert(wire, Timeouts)


def test_limits_in_range() -> None:
    """A day is allowed, and so is a thousandth of a second."""
    limits = Timeouts(connect=0.001, first_token=86400, idle=86400, drain=86400, min_useful=86400)

    assert msgspec.convert(msgspec.to_builtins(limits), Timeouts) == limits


def test_a_misspelt_limit_is_refused() -> None:
    """A limit that does not exist is refused by name, not passed over."""
    with pytest.raises(msgspec.ValidationError, match="unknown field `frist_token`"):
        msgspec.convert({"frist_token": 5}, Timeouts)


def test_a_context_names_its_replica() -> None:
    """The replica's name is pool and replica, as it stands in `Started`."""
    context = AdapterContext("chat", "r0", None, Timeouts(), {}, lambda: 0.0, lambda _: None)

    assert context.replica == "chat/r0"
    context.count("nobody listens")


def test_a_launch_needs_no_progress() -> None:
    """Who starts an engine need not listen to its progress."""
    options = LaunchOptions()

    assert options.progress(Progress("model", 1, 2)) is None  # type: ignore[func-returns-value]  # that it does nothing is the rule
