from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from llama_orch_adapter_api import AdapterSpec, BindingInfo, hookimpl
from llama_orch_adapter_host._guard import Misbehaved
from llama_orch_adapter_host._offer import LIFECYCLE, never_awaited, offer_of

from .adapters import Config, Words  # type: ignore[import-not-found]  # test folders are no packages

SPEC = AdapterSpec("words", 1, Config, lambda _: Words())


async def waits(*_: object) -> None:
    """What no hook may be."""


def plugin_of(**hooks: Callable[..., object]) -> object:
    return type("Plugin", (), {name: staticmethod(hookimpl(hook)) for name, hook in hooks.items()})()


def refused(**hooks: Callable[..., object]) -> str:
    with pytest.raises(Misbehaved) as caught:
        offer_of(plugin_of(**hooks), "acme")
    return str(caught.value)


def test_all_that_a_plugin_has():
    """ORCH-3600: adapters, routing policies and lifecycle hooks are collected; the order of registering is kept."""
    seen: list[object] = []

    def adapters(register: Any) -> None:
        register(SPEC)
        register(AdapterSpec("deeds", 1, Config, lambda _: Words()))

    def routes(register: Any) -> None:
        register("nearest", min)

    def bind(binding: BindingInfo) -> None:
        seen.append(binding)

    def drain() -> None:
        seen.append("drain")

    offer = offer_of(
        plugin_of(
            llama_orch_register_adapters=adapters,
            llama_orch_register_routes=routes,
            llama_orch_on_bind=bind,
            llama_orch_on_drain=drain,
        ),
        "acme",
    )
    for hook in ("llama_orch_on_bind", "llama_orch_on_drain"):
        for call in offer.hooks[hook]:
            call("told")

    assert [spec.engine for spec in offer.specs] == ["words", "deeds"]
    assert offer.routes == (("nearest", min),)
    assert set(offer.hooks) == {"llama_orch_on_bind", "llama_orch_on_drain"}
    assert seen == ["told", "drain"]


def test_what_is_registered_too_late_is_not():
    """A plugin that keeps `register` and calls it after its hook ended adds nothing."""
    kept: list[Any] = []

    def adapters(register: Any) -> None:
        register(SPEC)
        kept.append(register)

    offer = offer_of(plugin_of(llama_orch_register_adapters=adapters), "acme")
    kept[0](AdapterSpec("late", 1, Config, lambda _: Words()))

    assert offer.specs == (SPEC,)


def test_the_hooks_that_tell():
    """Every specification that begins with `llama_orch_on_` is called when its moment comes."""
    moments = ("preload", "bind", "reload", "rebind", "drain", "unbind", "event")

    assert {f"llama_orch_on_{moment}" for moment in moments} == LIFECYCLE


@pytest.mark.parametrize("hook", [*sorted(LIFECYCLE), "llama_orch_register_adapters", "llama_orch_register_routes"])
def test_an_async_hook_is_refused(hook: str):
    """Battery 31: an `async def` hook would never run, so its plugin is refused with the mend."""

    async def implementation() -> None:
        raise AssertionError

    async def generator() -> Any:
        yield

    told = f"its hook {hook} is an async def; hooks are plain functions, called on a thread"
    assert refused(**{hook: implementation}) == told
    assert refused(**{hook: generator}) == told


def test_a_hook_that_yields_is_refused():
    """Battery 31: pluggy's wrappers wrap nothing here, and a generator never runs: both are refused."""

    def implementation() -> Iterator[None]:
        yield

    class Wraps:
        @hookimpl(wrapper=True)
        def llama_orch_on_bind(self) -> Any:
            return (yield)

    told = "its hook llama_orch_on_bind yields; hooks are plain functions, and none wraps another's"
    assert refused(llama_orch_on_bind=implementation) == told
    with pytest.raises(Misbehaved, match=told):
        offer_of(Wraps(), "acme")


def test_a_hook_that_gives_a_coroutine():
    """Battery 31: a plain function that hands on a coroutine is refused, and the coroutine is closed."""
    told = "its hook gives a coroutine, which nobody awaits; hooks are plain functions"

    assert refused(llama_orch_register_adapters=lambda register: waits(register)) == told  # noqa: PLW0108 - a hook's argument has a name
    assert not never_awaited(None)


def test_an_unknown_hook_is_refused():
    """A misspelt hook would never be called, so it is refused; one for other hosts too is marked `optionalhook`."""

    class Newer:
        @hookimpl(optionalhook=True)
        def llama_orch_on_eclipse(self) -> None:
            raise AssertionError

        @hookimpl
        def llama_orch_on_bind(self) -> None:
            """Do nothing."""

    assert refused(llama_orch_on_bnid=lambda: None) == (
        "llama_orch_on_bnid is no hook of this host; correct its name, or mark it optionalhook=True"
    )
    assert set(offer_of(Newer(), "acme").hooks) == {"llama_orch_on_bind"}


@pytest.mark.parametrize(
    ("name", "policy", "told"),
    [
        ("", min, "it registers a routing policy under ''; give a name"),
        (None, min, "it registers a routing policy under None; give a name"),
        ("nearest", None, "its routing policy 'nearest' is no plain function; give one"),
        ("nearest", waits, "its routing policy 'nearest' is no plain function; give one"),
    ],
)
def test_a_policy_that_is_none(name: object, policy: object, told: str):
    """A routing policy is a plain function with a name."""

    def routes(register: Any) -> None:
        register(name, policy)

    assert refused(llama_orch_register_routes=routes) == told


def test_a_partial_is_a_policy():
    """Whatever can be called is a policy."""
    nearest = partial(min, default=None)

    def routes(register: Any) -> None:
        register("nearest", nearest)

    assert offer_of(plugin_of(llama_orch_register_routes=routes), "acme").routes == (("nearest", nearest),)
