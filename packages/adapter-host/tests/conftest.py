"""Distributions, laid down as pip would, and what the host makes of them."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from llama_orch_adapter_host import Plugin, Plugins

from . import acme as acme_adapter  # type: ignore[import-not-found]  # test folders are no packages

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
    """The source of a hook that registers an engine."""
    return REGISTERS.format(engine=engine, api=api)


@pytest.fixture
def acme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """The command in an empty folder, with the adapter of acme.py installed."""
    monkeypatch.syspath_prepend(tmp_path)
    acme_adapter.lay_down(tmp_path, "acme_adapter")
    monkeypatch.setitem(sys.modules, "acme_adapter", acme_adapter)
    monkeypatch.chdir(tmp_path)
    run: Callable[..., Result] = acme_adapter.command
    return run
