"""What a plugin has to offer: adapters, routing policies, hooks. Asking runs its code, so it is asked under guard."""

import inspect
from collections.abc import Callable
from typing import NamedTuple

import pluggy
from llama_orch_adapter_api import PROJECT, AdapterSpec, HookSpecs, RoutePolicy

from ._guard import Misbehaved

Hook = Callable[[object], object]
"""A lifecycle hook of a plugin: takes the binding or the event."""

LIFECYCLE = frozenset(hook for hook in vars(HookSpecs) if hook.startswith("llama_orch_on_"))
"""The hooks that tell of something."""


class Offer(NamedTuple):
    """All that one plugin registered, and its lifecycle hooks by name."""

    specs: tuple[AdapterSpec, ...]
    routes: tuple[tuple[str, RoutePolicy], ...]
    hooks: dict[str, tuple[Hook, ...]]


def offer_of(plugin: object, name: str) -> Offer:
    """Ask a plugin for all it has. Raises whatever it raises, and `Misbehaved` for what no host can use.

    Each plugin has a manager of its own: one that hangs in here, and goes on later, reaches nobody else.
    """
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    manager.register(plugin, name)
    found = {caller.name: caller.get_hookimpls() for caller in manager.get_hookcallers(plugin) or ()}
    for hook, impls in found.items():
        for impl in impls:
            _check(hook, impl)
    specs: list[AdapterSpec] = []
    routes: list[tuple[str, RoutePolicy]] = []
    for impl in found.get("llama_orch_register_adapters", ()):
        _ask(impl, specs.append)
    for impl in found.get("llama_orch_register_routes", ()):
        _ask(impl, lambda name, policy: routes.append((name, policy)))
    for spec in specs:
        _check_spec(spec)
    for route, policy in routes:
        _check_route(route, policy)
    hooks = {hook: tuple(map(_hook, impls)) for hook, impls in found.items() if hook in LIFECYCLE}
    offer = Offer(tuple(specs), tuple(routes), hooks)
    if not any(offer):
        raise Misbehaved("it registers no adapter and no routing policy, and has no hook")
    return offer


def never_awaited(answer: object) -> bool:
    """Whether a hook gave a coroutine, which no event loop will finish. It is closed."""
    if not inspect.iscoroutine(answer):
        return False
    answer.close()
    return True


def _check(name: str, impl: pluggy.HookImpl) -> None:
    if name not in vars(HookSpecs) and not impl.optionalhook:
        raise Misbehaved(f"{name} is no hook of this host; correct its name, or mark it optionalhook=True")
    if inspect.iscoroutinefunction(impl.function) or inspect.isasyncgenfunction(impl.function):
        raise Misbehaved(f"its hook {name} is an async def; hooks are plain functions, called on a thread")
    if inspect.isgeneratorfunction(impl.function):  # wrappers among them
        raise Misbehaved(f"its hook {name} yields; hooks are plain functions, and none wraps another's")


def _ask(impl: pluggy.HookImpl, register: Callable[..., None]) -> None:
    """Call a registering hook; pluggy has checked that it asks for `register` or for nothing."""
    if never_awaited(impl.function(*[register for _ in impl.argnames])):
        raise Misbehaved("its hook gives a coroutine, which nobody awaits; hooks are plain functions")


def _hook(impl: pluggy.HookImpl) -> Hook:
    return lambda payload: impl.function(*[payload for _ in impl.argnames])


def _check_spec(spec: object) -> None:
    if not isinstance(spec, AdapterSpec):
        raise Misbehaved(f"it registers a {type(spec).__name__}, not an AdapterSpec")
    if not isinstance(spec.engine, str) or not isinstance(spec.api, int):
        raise Misbehaved(f"its AdapterSpec has engine {spec.engine!r} and api {spec.api!r}; give a name and a number")


def _check_route(name: object, policy: object) -> None:
    if not isinstance(name, str) or not name:
        raise Misbehaved(f"it registers a routing policy under {name!r}; give a name")
    if not callable(policy) or inspect.iscoroutinefunction(policy):
        raise Misbehaved(f"its routing policy {name!r} is no plain function; give one")
