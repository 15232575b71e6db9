import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from llama_orch_adapter_host.cli._app import app
from llama_orch_adapter_host.cli._exit import Exit

from .conftest import Install, registers  # type: ignore[import-not-found]  # test folders are no packages

EXPLODES = "raise AssertionError('imported')"
LISTS = "[plugins]\nblock = ['shady']\n[pools.a]\nengine = 'shady'\nreplicas = [{ url = 'http://127.0.0.1:1' }]\n"

Run = Callable[..., Result]


@pytest.fixture
def run(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in a folder of its own, beside a good plugin, one that explodes, and one that is spoilt."""
    install("acme", registers("acme"))
    install("shady", EXPLODES)
    install("wreck", "")
    (tmp_path / "wreck-1.2.3.dist-info" / "entry_points.txt").write_text("[llama_orch.adapters]\nno entry\n")
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda *arguments: CliRunner().invoke(app, arguments)


def rows(ended: Result) -> dict[str, dict[str, Any]]:
    return {plugin["name"]: plugin for plugin in json.loads(ended.stdout)}


def test_what_is_blocked_and_what_is_broken_is_shown_with_its_mend(run: Run, tmp_path: Path):
    """ORCH-3600: the lists of --config hold for the listing; whatever is not usable says what to do."""
    (tmp_path / "lists.toml").write_text(LISTS)
    ended = run("plugins", "--config", str(tmp_path / "lists.toml"))

    assert ended.exit_code == 0, ended.output
    lines = {line.split()[0]: " ".join(line.split()) for line in ended.stdout.splitlines()}
    assert lines["NAME"] == "NAME VERSION API STATE FROM MEND"
    assert lines["acme"] == "acme 1.2.3 1 ready acme"
    assert lines["shady"] == "shady 1.2.3 blocked shady plugins.block names it; to use it, take it off that list"
    assert lines["wreck"].startswith("wreck 1.2.3 broken wreck its entry_points.txt cannot be read (")
    assert "shady_module" not in sys.modules


def test_the_lists_of_the_config_at_hand(run: Run):
    """ORCH-3600: ./pools.toml is read by itself; in JSON each plugin says all that is known of it."""
    Path("pools.toml").write_text(LISTS)
    found = rows(run("plugins", "--json"))

    assert (found["acme"]["state"], found["shady"]["state"], found["wreck"]["state"]) == ("ready", "blocked", "broken")
    assert found["acme"] == {
        "name": "acme",
        "version": "1.2.3",
        "api": 1,
        "state": "ready",
        "origin": "acme",
        "engines": ["acme"],
        "mend": "",
        "routes": [],
        "dropped": 0,
    }


def test_without_a_config_all_is_allowed(run: Run):
    """ORCH-3600: where there is no config there are no lists; what explodes on import is broken, and told why."""
    found = rows(run("plugins", "--json"))

    assert (found["acme"]["state"], found["shady"]["state"]) == ("ready", "broken")
    assert found["shady"]["mend"] == "AssertionError: imported; update or remove shady"


def test_listing_without_an_import(run: Run):
    """ORCH-3600: with --no-import only metadata are read: no API is known, and no code of a plugin is run."""
    Path("pools.toml").write_text("[plugins]\nallow = ['acme', 'SHADY']\n[pools.a]\nengine = 'acme'\nreplicas = [{}]\n")
    found = rows(run("plugins", "--no-import", "--json"))

    assert (found["acme"]["state"], found["acme"]["api"], found["acme"]["version"]) == ("found", None, "1.2.3")
    assert (found["shady"]["state"], found["wreck"]["state"]) == ("found", "broken")
    assert {"acme_module", "shady_module"}.isdisjoint(sys.modules)
    assert run("plugins", "--no-import").exit_code == 0


def test_a_config_that_cannot_be_read(run: Run):
    """ORCH-3600: without knowing what is blocked nothing is imported; the config's own mistake is told instead."""
    Path("pools.toml").write_text("[plugins]\nblok = ['shady']\n")
    ended = run("plugins")

    assert ended.exit_code == Exit.CONFIG
    assert "pools.toml: Object missing required field `pools`" in ended.stderr
    assert {"acme_module", "shady_module"}.isdisjoint(sys.modules)


@pytest.mark.parametrize("verb", [("chat", "hi"), ("health",), ("props",)])
def test_every_verb_keeps_to_the_lists(run: Run, verb: tuple[str, ...]):
    """ORCH-3600: a pool whose plugin is blocked is refused with the mend, and the plugin is not imported."""
    Path("pools.toml").write_text(LISTS)
    ended = run(*verb)

    assert ended.exit_code == Exit.UNKNOWN_ENGINE, ended.output
    assert "shady is blocked: plugins.block names it; to use it, take it off that list" in ended.stderr
    assert "shady_module" not in sys.modules
