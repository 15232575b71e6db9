"""Which adapters are at hand. The host walks the entry points itself, so that one bad package harms no other."""

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import EntryPoint
from typing import Self

import msgspec
from llama_orch_adapter_api import API_VERSION, AdapterSpec, RoutePolicy, get_logger

from ._config import ConfigError, PluginsConfig
from ._fanout import Fanout
from ._guard import Hung, Misbehaved, PluginLimits, guarded, told
from ._listener import Listener
from ._offer import Offer, offer_of
from ._scan import AS_WANTED, Plugin, State, scan

logger = get_logger(__name__)


class UnknownEngineError(ConfigError):
    """No adapter for this engine is usable."""


class NoAdapterError(ConfigError):
    """No adapter is installed at all."""


class Plugins:
    """The adapters at hand, by engine. `load` imports those that are installed; `register` adds one by hand.

    `allow` and `block` name entry points or distributions; what they keep out is never imported. `on_change` is told of
    each plugin that is loaded, refused or has its hooks turned off, on whatever thread saw it: the loading one, one of
    ours, or that of `notify`. `close` ends our threads.
    """

    def __init__(
        self,
        *,
        allow: Iterable[str] | None = None,
        block: Iterable[str] = (),
        on_change: Callable[[Plugin], None] | None = None,
        limits: PluginLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.on_change = on_change
        self._lists = PluginsConfig(None if allow is None else tuple(allow), tuple(block))
        self._limits = limits or PluginLimits()
        self._clock = clock
        self._specs: dict[str, AdapterSpec] = {}
        self._routes: dict[str, RoutePolicy] = {}
        self._found: list[Plugin] = []
        self._fanout = Fanout()
        self._loading = threading.Lock()

    @property
    def lists(self) -> PluginsConfig:
        """What may be imported, as it was said when these were made."""
        return self._lists

    @classmethod
    def installed(
        cls,
        *,
        allow: Iterable[str] | None = None,
        block: Iterable[str] = (),
        on_change: Callable[[Plugin], None] | None = None,
    ) -> Self:
        """All that is installed. It imports the adapters' packages, which takes a moment: not inside an event loop."""
        plugins = cls(allow=allow, block=block, on_change=on_change)
        plugins.load()
        return plugins

    def scan(self) -> tuple[Plugin, ...]:
        """Every entry point that is installed, by name, from metadata alone: nothing is imported, nothing changes."""
        return tuple(plugin for plugin, _ in scan(self._lists))

    def load(self, found: Iterable[EntryPoint] | None = None) -> None:
        """Import every entry point that is allowed, each by itself. What fails is listed with its mend, never raised.

        One that hangs costs its limit of 10 s, and everything else loads: not inside an event loop.
        """
        with self._loading:
            for plugin, point in scan(self._lists, found):
                if point is None or plugin.state != "found":
                    self._list(plugin)
                else:
                    self._admit(plugin, point.load)

    def register(self, spec: AdapterSpec) -> None:
        """Add an adapter that comes from no package. Raises `ConfigError` for another API or a name that is taken."""
        for _, problem in self._problems(Offer((spec,), (), {})):
            raise ConfigError([f"engine {spec.engine!r}: {problem}"])
        self._specs[spec.engine] = spec

    def register_plugin(self, plugin: object, name: str) -> Plugin:
        """Add an object or a module with hooks as if it were installed. Raises `ConfigError` where it is not ready.

        It is loaded and guarded like any other: not inside an event loop.
        """
        with self._loading:
            loaded = self._admit(Plugin(name, "?", None, "found", "register_plugin()"), lambda: plugin)
        if not loaded.serves:
            raise ConfigError([f"plugin {name!r} is {loaded.state}: {loaded.mend}"])
        return loaded

    def listing(self) -> tuple[Plugin, ...]:
        """Every plugin that was to be loaded, by name, and what became of it."""
        return tuple(self._counted(plugin) for plugin in tuple(self._found))

    def engines(self) -> dict[str, AdapterSpec]:
        """The usable adapters by engine."""
        return dict(self._specs)

    def routes(self) -> dict[str, RoutePolicy]:
        """The usable routing policies by name."""
        return dict(self._routes)

    def spec(self, engine: str) -> AdapterSpec:
        """The adapter of an engine. Raises `UnknownEngineError`, or `NoAdapterError` where there is none of any."""
        if engine in self._specs:
            return self._specs[engine]
        if not self._specs and not self._found:
            raise NoAdapterError(["no adapter is installed; install one, e.g. pip install llama-orch-adapter-llamacpp"])
        lost = [f"{p.name} is {p.state}: {p.mend}" for p in self._found if p.name == engine and p.mend]
        mend = lost[0] if lost else "name one of these, or install the package of its adapter"
        raise UnknownEngineError([f"no adapter for engine {engine!r} (known: {_names(self._specs)}); {mend}"])

    # --- what a host found out about those that it calls on its loop

    def drop_route(self, name: str, why: str) -> None:
        """List the plugin of a routing policy that is asked no more."""
        self._drop(lambda plugin: name in plugin.routes, f"routing policy {name!r} fails: {why}")

    def drop_advice(self, engine: str, why: str) -> None:
        """List the plugin of an adapter whose `advise` is asked no more."""
        self._drop(lambda plugin: engine in plugin.engines, f"advise() of engine {engine!r} fails: {why}")

    # --- telling plugins what happens

    def notify(self, hook: str, payload: object) -> None:
        """Tell every plugin that has this lifecycle hook, each on its own thread, in order. Never waits or raises."""
        self._fanout.notify(hook, payload)

    def hears(self, hook: str) -> bool:
        """Whether any plugin has this lifecycle hook."""
        return self._fanout.hears(hook)

    @property
    def listening(self) -> bool:
        """Whether any plugin was told anything, so that there is something to settle."""
        return self._fanout.listening

    def settle(self, limit: float) -> bool:
        """Wait until all is told; False where that takes more than `limit` seconds. Not inside an event loop."""
        return self._fanout.settle(limit)

    def close(self, limit: float = 2.0) -> bool:
        """Tell what is to be told and end the threads; False where one is left behind after `limit` seconds.

        Adapters stay usable, hooks are told nothing more. Not inside an event loop.
        """
        return self._fanout.close(limit)

    # --- one plugin's way in

    def _admit(self, plugin: Plugin, load: Callable[[], object]) -> Plugin:
        if any(other.name == plugin.name and other.serves for other in self._found):
            mend = "a plugin of this name is loaded already; give another name, or keep one of them"
            return self._list(_became(plugin, "duplicate", mend))
        began = self._clock()
        try:
            offer = guarded(lambda: offer_of(load(), plugin.name), self._limits.load, plugin.name)
        except Misbehaved as error:
            state: State = "hangs" if isinstance(error, Hung) else "broken"
            return self._list(_became(plugin, state, f"{error}; update or remove {plugin.origin}"))
        finally:
            if (took := self._clock() - began) > self._limits.slow_load:
                logger.warning("plugin %s took %.1f s to load; update %s", plugin.name, took, plugin.origin)
        return self._enlist(plugin, offer)

    def _enlist(self, plugin: Plugin, offer: Offer) -> Plugin:
        plugin = msgspec.structs.replace(
            plugin,
            api=offer.specs[0].api if offer.specs else None,
            engines=tuple(spec.engine for spec in offer.specs),
            routes=tuple(name for name, _ in offer.routes),
        )
        for state, problem in self._problems(offer):
            return self._list(_became(plugin, state, problem))
        self._specs.update((spec.engine, spec) for spec in offer.specs)
        self._routes.update(offer.routes)
        if offer.hooks:
            at = len(self._found)
            self._fanout.add(
                Listener(plugin.name, offer.hooks, lambda why: self._turn_off(at, why), self._limits, self._clock)
            )
        return self._list(_became(plugin, "ready"))

    def _problems(self, offer: Offer) -> Iterator[tuple[State, str]]:
        """Why an offer cannot be taken, the gravest first."""
        for spec in offer.specs:
            if spec.api != API_VERSION:
                older = "the adapter" if spec.api < API_VERSION else "llama-orch-adapter-host"
                yield "incompatible", f"it was written for API {spec.api}, this host has {API_VERSION}; update {older}"
        for what, names, taken in (
            ("engine", [spec.engine for spec in offer.specs], self._specs),
            ("route", [name for name, _ in offer.routes], self._routes),
        ):
            for name, count in Counter(names).items():
                if name in taken:
                    yield "duplicate", f"another package already serves {what} {name!r}; keep one of them"
                elif count > 1:
                    yield "duplicate", f"it registers {what} {name!r} {count} times; register each once"

    # --- what became of it

    def _list(self, plugin: Plugin) -> Plugin:
        self._found.append(plugin)
        self._tell(plugin)
        return plugin

    def _drop(self, owns: Callable[[Plugin], bool], why: str) -> None:
        for at, plugin in enumerate(self._found):
            if plugin.serves and owns(plugin):
                self._turn_off(at, why, "what else it registered")

    def _turn_off(self, at: int, why: str, rest: str = "what it registered") -> None:
        plugin = self._found[at]
        mend = f"{why}; {rest} serves on. Update or remove {plugin.origin} and start again"
        if plugin.mend:  # of hooks, policy or advice that were turned off before
            mend = f"{mend}. Before that {plugin.mend}"
        self._found[at] = plugin = _became(plugin, "hooks off", mend)
        self._tell(plugin)

    def _tell(self, plugin: Plugin) -> None:
        if self.on_change is None:
            mend = f": {plugin.mend}" if plugin.mend else ""
            loud = logging.INFO if plugin.state in AS_WANTED else logging.WARNING
            logger.log(
                loud, "plugin %s %s of %s is %s%s", plugin.name, plugin.version, plugin.origin, plugin.state, mend
            )
            return
        try:
            self.on_change(plugin)
        except Exception as error:  # noqa: BLE001  # who listens must not stop the loading, nor the watch over the others
            logger.warning("on_change of plugin %s raised %s", plugin.name, told(error))

    def _counted(self, plugin: Plugin) -> Plugin:
        dropped = self._fanout.dropped(plugin.name) if plugin.serves else 0
        return msgspec.structs.replace(plugin, dropped=dropped) if dropped else plugin


def _became(plugin: Plugin, state: State, mend: str = "") -> Plugin:
    return msgspec.structs.replace(plugin, state=state, mend=mend)


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
