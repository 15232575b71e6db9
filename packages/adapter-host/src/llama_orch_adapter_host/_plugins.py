"""Which adapters are installed. The host walks the entry points itself, so that one bad package harms no other."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from importlib.metadata import EntryPoint, entry_points
from typing import Literal, Self

import msgspec
import pluggy
from llama_orch_adapter_api import (
    API_VERSION,
    ENTRY_POINT_GROUP,
    PROJECT,
    AdapterSpec,
    BindingInfo,
    HookSpecs,
    get_logger,
)

from ._config import ConfigError

logger = get_logger(__name__)

State = Literal["ready", "broken", "duplicate", "incompatible"]


class UnknownEngineError(ConfigError):
    """No adapter for this engine is usable."""


class NoAdapterError(ConfigError):
    """No adapter is installed at all."""


class Plugin(msgspec.Struct, frozen=True):
    """One entry point and what became of it. `engines` it registered; `mend` is what to do where it is not ready."""

    name: str
    version: str
    api: int | None
    state: State
    origin: str
    engines: tuple[str, ...] = ()
    mend: str = ""


class Plugins:
    """The adapters at hand, by engine. `load` finds those that are installed; `register` adds one by hand."""

    def __init__(self) -> None:
        self._manager = pluggy.PluginManager(PROJECT)
        self._manager.add_hookspecs(HookSpecs)
        self._specs: dict[str, AdapterSpec] = {}
        self._found: list[Plugin] = []

    @classmethod
    def installed(cls) -> Self:
        """All that is installed. It imports the adapters' packages, which takes a moment: not inside an event loop."""
        plugins = cls()
        plugins.load()
        return plugins

    def load(self, found: Iterable[EntryPoint] | None = None) -> None:
        """Import every entry point of our group, each by itself. What fails is listed with its mend, never raised."""
        points = list(entry_points(group=ENTRY_POINT_GROUP) if found is None else found)
        count = Counter(point.name for point in points)
        for point in sorted(points, key=lambda p: (p.name, _origin(p))):
            if count[point.name] > 1:
                rivals = ", ".join(sorted(_origin(p) for p in points if p.name == point.name))
                self._found.append(_plugin(point, "duplicate", mend=f"keep one of the packages that own it: {rivals}"))
            else:
                self._found.append(self._admit(point))

    def register(self, spec: AdapterSpec) -> None:
        """Add an adapter that comes from no package. Raises `ConfigError` for another API or a name that is taken."""
        problem = self._problem(spec)
        if problem:
            raise ConfigError([f"engine {spec.engine!r}: {problem}"])
        self._specs[spec.engine] = spec

    def listing(self) -> tuple[Plugin, ...]:
        """Every entry point found, by name."""
        return tuple(self._found)

    def engines(self) -> dict[str, AdapterSpec]:
        """The usable adapters by engine."""
        return dict(self._specs)

    def spec(self, engine: str) -> AdapterSpec:
        """The adapter of an engine. Raises `UnknownEngineError`, or `NoAdapterError` where there is none of any."""
        if engine in self._specs:
            return self._specs[engine]
        if not self._specs and not self._found:
            raise NoAdapterError(["no adapter is installed; install one, e.g. pip install llama-orch-adapter-llamacpp"])
        lost = [f"{p.name} is {p.state}: {p.mend}" for p in self._found if p.name == engine and p.mend]
        mend = lost[0] if lost else "name one of these, or install the package of its adapter"
        raise UnknownEngineError([f"no adapter for engine {engine!r} (known: {_names(self._specs)}); {mend}"])

    def notify(self, hook: str, binding: BindingInfo) -> None:
        """Call a lifecycle hook of every plugin; one that raises is logged, and harms no other."""
        for impl in getattr(self._manager.hook, hook).get_hookimpls():
            try:
                impl.function(*[binding for _ in impl.argnames])
            except (Exception, SystemExit) as error:  # noqa: BLE001  # as in _admit
                logger.warning("plugin %s: %s raised %s", impl.plugin_name, hook, type(error).__name__)

    def _admit(self, point: EntryPoint) -> Plugin:
        try:
            admitted = self._enlist(point, self._offers(point))
        except (Exception, SystemExit) as error:  # noqa: BLE001  # a stranger's code is his package's trouble alone
            admitted = _plugin(point, "broken", mend=f"{_told(error)}; update or remove {_origin(point)}")
        if admitted.state != "ready":
            self._manager.unregister(name=point.name)
        return admitted

    def _offers(self, point: EntryPoint) -> list[AdapterSpec]:
        """What the plugin registers when it is asked."""
        offered: list[AdapterSpec] = []
        plugin = point.load()
        self._manager.register(plugin, point.name)
        for impl in self._manager.hook.llama_orch_register_adapters.get_hookimpls():
            if impl.plugin is plugin:
                answer = impl.function(*_arguments(impl.argnames, offered.append))
                if inspect.iscoroutine(answer):
                    answer.close()
                    raise TypeError("its hook is an async def; hooks are plain functions")
        for spec in offered:
            if not isinstance(spec, AdapterSpec):
                raise TypeError(f"it registers a {type(spec).__name__}, not an AdapterSpec")
        return offered

    def _enlist(self, point: EntryPoint, offered: list[AdapterSpec]) -> Plugin:
        api = offered[0].api if offered else None
        engines = tuple(spec.engine for spec in offered)
        problems = [problem for problem in map(self._problem, offered) if problem]
        if problems:
            state: State = "incompatible" if any(spec.api != API_VERSION for spec in offered) else "duplicate"
            return _plugin(point, state, api, engines, problems[0])
        self._specs.update((spec.engine, spec) for spec in offered)
        mend = "" if offered else f"it registers no adapter; update or remove {_origin(point)}"
        return _plugin(point, "ready" if offered else "broken", api, engines, mend)

    def _problem(self, spec: AdapterSpec) -> str:
        if spec.api != API_VERSION:
            older = "the adapter" if spec.api < API_VERSION else "llama-orch-adapter-host"
            return f"it was written for API {spec.api}, this host has {API_VERSION}; update {older}"
        if spec.engine in self._specs:
            return f"another package already serves engine {spec.engine!r}; keep one of them"
        return ""


def _arguments(names: Iterable[str], register: Callable[[AdapterSpec], None]) -> list[Callable[[AdapterSpec], None]]:
    """What a hook implementation asked for: pluggy has checked that it is `register` or nothing."""
    return [register for _ in names]


def _plugin(
    point: EntryPoint, state: State, api: int | None = None, engines: tuple[str, ...] = (), mend: str = ""
) -> Plugin:
    version = point.dist.version if point.dist else None
    return Plugin(point.name, version or "?", api, state, _origin(point), engines, mend)


def _origin(point: EntryPoint) -> str:
    """The distribution it comes from, else the module: a package half removed no longer knows its own name."""
    return (point.dist.name if point.dist else None) or point.value


def _told(error: BaseException) -> str:
    """An exception in one line: its class, and its text with whatever would break the line escaped."""
    try:
        text = " ".join(str(error).split())[:200]
    except Exception:  # noqa: BLE001  # a stranger's __str__
        text = ""
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _names(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
