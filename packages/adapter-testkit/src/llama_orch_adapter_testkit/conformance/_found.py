"""The adapter under test, found as a host finds it: by its entry point, and the hook behind that."""

import inspect
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

import pluggy
from llama_orch_adapter_api import ENTRY_POINT_GROUP, PROJECT, AdapterSpec, HookSpecs


@dataclass(frozen=True)
class Found:
    """An adapter. `point` is None where its spec was handed over: then nothing is known of its package."""

    name: str
    spec: AdapterSpec
    point: EntryPoint | None = None

    @property
    def distribution(self) -> str | None:
        """The name of the package that it came with."""
        return self.point.dist.name if self.point is not None and self.point.dist is not None else None

    @property
    def version(self) -> str | None:
        """The version of that package."""
        return self.point.dist.version if self.point is not None and self.point.dist is not None else None


def find(adapter: str | AdapterSpec) -> Found:
    """The adapter of that entry point, or of that spec. Raises `LookupError` with the mend where there is none."""
    if isinstance(adapter, AdapterSpec):
        return Found(adapter.engine, adapter)
    points = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if adapter not in points:
        known = ", ".join(sorted(points)) or "none"
        raise LookupError(
            f"no entry point {adapter!r} in the group {ENTRY_POINT_GROUP!r} (known: {known}); "
            "install the adapter's package, e.g. pip install -e ."
        )
    specs = {spec.engine: spec for spec in offered(points[adapter].load(), adapter)}
    if adapter not in specs and len(specs) != 1:
        raise LookupError(
            f"the package of {adapter!r} registers {', '.join(sorted(specs)) or 'no adapter'}; "
            "register an AdapterSpec whose engine has the entry point's name"
        )
    return Found(adapter, specs.get(adapter) or next(iter(specs.values())), points[adapter])


def offered(plugin: object, name: str) -> list[AdapterSpec]:
    """The specs that a plugin registers."""
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(HookSpecs)
    manager.register(plugin, name)
    specs: list[AdapterSpec] = []
    for impl in manager.hook.llama_orch_register_adapters.get_hookimpls():
        answer = impl.function(*[specs.append for _ in impl.argnames])
        if inspect.iscoroutine(answer):
            answer.close()  # nobody awaits it, and `registration.pure` says so
    return specs
