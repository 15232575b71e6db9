import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from llama_orch_adapter_host import Plugin, Plugins, PluginsConfig
from llama_orch_adapter_host._scan import normalised, scan

from .conftest import Install, registers  # type: ignore[import-not-found]  # test folders are no packages

EXPLODES = "raise AssertionError('imported')"


def states(plugins: Plugins) -> dict[str, tuple[str, str]]:
    """State and mend of what is installed, by name, without an import."""
    return {plugin.name: (plugin.state, plugin.mend) for plugin in plugins.scan()}


def test_listing_imports_nothing(install: Install):
    """ORCH-3600: name, version and origin of a plugin are known from its metadata; its code is not run."""
    install("acme", EXPLODES)

    (acme,) = [plugin for plugin in Plugins().scan() if plugin.name == "acme"]

    assert acme == Plugin("acme", "1.2.3", None, "found", "acme")
    assert "acme_module" not in sys.modules


def test_looking_changes_nothing(install: Install):
    """A scan is a look: what is listed as loaded, and what is usable, stays as it was."""
    install("acme", registers("acme"))
    plugins = Plugins()
    plugins.scan()

    assert plugins.listing() == ()
    assert plugins.engines() == {}


BLOCKED = ("blocked", "plugins.block names it; to use it, take it off that list")
NOT_ALLOWED = ("blocked", "plugins.allow does not name it; to use it, add it to that list")


@pytest.mark.parametrize(
    ("allow", "block", "state"),
    [
        (None, (), ("found", "")),
        (None, ("shady",), BLOCKED),
        (None, ("Shady.Adapters_Inc",), BLOCKED),
        (None, ("shady-adapters--inc",), BLOCKED),
        (None, ("SHADY",), ("found", "")),
        (None, ("shady-adapters",), ("found", "")),
        ((), (), NOT_ALLOWED),
        (("acme",), (), NOT_ALLOWED),
        (("shady",), (), ("found", "")),
        (("SHADY_ADAPTERS_INC",), (), ("found", "")),
        (("shady",), ("shady_adapters.inc",), BLOCKED),
    ],
)
def test_allow_and_block_lists(install: Install, allow: tuple[str, ...] | None, block: tuple[str, ...], state: object):
    """ORCH-3600: lists name entry points as they are, distributions as indexes compare them; block outranks allow."""
    install("shady_adapters_inc", EXPLODES, name="shady")

    assert states(Plugins(allow=allow, block=block))["shady"] == state


def test_what_is_blocked_is_never_imported(install: Install):
    """Battery 31: a plugin that the lists keep out is listed with the mend when the others load, and not run."""
    install("acme", registers("acme"))
    install("shady", EXPLODES)
    plugins = Plugins.installed(block=["shady"])

    listed = {plugin.name: (plugin.state, plugin.mend) for plugin in plugins.listing()}
    assert listed["shady"] == BLOCKED
    assert listed["acme"] == ("ready", "")
    assert "shady_module" not in sys.modules


def test_blocking_one_owner_of_a_name_lets_the_other_in(install: Install):
    """A name that two distributions own is free again once one of them is kept out."""
    install("left", EXPLODES, name="both")
    install("right", EXPLODES, name="both")

    def both(plugins: Plugins) -> list[tuple[str, str]]:
        return [(p.origin, p.state) for p in plugins.scan() if p.name == "both"]

    assert both(Plugins()) == [("left", "duplicate"), ("right", "duplicate")]
    assert both(Plugins(block=["left"])) == [("left", "blocked"), ("right", "found")]
    assert both(Plugins(allow=["left"])) == [("left", "found"), ("right", "blocked")]


def test_a_nameless_distribution():
    """A package that lost its name is let in by its entry point alone, and kept out where a block list may mean it."""
    point = EntryPoint("hand", "hand_module", "llama_orch.adapters")

    def listed(**lists: tuple[str, ...]) -> tuple[str, str]:
        ((plugin, _),) = scan(PluginsConfig(**lists), [point])
        return plugin.state, plugin.mend

    assert listed() == ("found", "")
    assert listed(allow=("hand",)) == ("found", "")
    assert listed(allow=("hand_module",)) == NOT_ALLOWED
    assert listed(block=("hand",)) == BLOCKED
    assert listed(block=("other",)) == (
        "blocked",
        "its package lost its own name, so plugins.block may mean it; install it again",
    )


SPOILT = {
    "no pairs": b"[llama_orch.adapters]\nthis is no entry\n",
    "no text": b"\xff\xfe\x00[llama_orch.adapters]\n",
    "a stranger's": b"[console_scripts]\nthis is no entry\n",
}


@pytest.mark.parametrize("kind", SPOILT)
def test_spoilt_metadata_harm_no_other(install: Install, tmp_path: Path, kind: str):
    """Battery 31: a distribution whose entry points cannot be read is named as broken, and the others load."""
    install("acme", registers("acme"))
    install("wreck", EXPLODES)
    (tmp_path / "wreck-1.2.3.dist-info" / "entry_points.txt").write_bytes(SPOILT[kind])
    plugins = Plugins.installed()

    (wreck,) = [plugin for plugin in plugins.listing() if plugin.name == "wreck"]
    assert (wreck.state, wreck.version, wreck.origin) == ("broken", "1.2.3", "wreck")
    assert wreck.mend.startswith("its entry_points.txt cannot be read (")
    assert wreck.mend.endswith("); install it again, or remove it")
    assert wreck.mend.isprintable()
    assert "acme" in plugins.engines()
    assert states(Plugins())["wreck"] == ("broken", wreck.mend)


def test_spoilt_metadata_of_a_package_half_removed(install: Install, tmp_path: Path):
    """Battery 31: where not even the name of the distribution is left, the others load all the same."""
    install("acme", registers("acme"))
    install("wreck", EXPLODES, version=None)
    (tmp_path / "wreck-0.dist-info" / "entry_points.txt").write_bytes(SPOILT["no pairs"])
    plugins = Plugins.installed()

    assert [(p.version, p.state) for p in plugins.listing() if p.name == "?"] == [("?", "broken")]
    assert "acme" in plugins.engines()


def test_a_name_that_cannot_be_read(install: Install, tmp_path: Path):
    """Battery 31: a distribution whose METADATA is no text is listed by its module, and its adapter is usable."""
    install("acme", registers("acme"))
    (tmp_path / "acme-1.2.3.dist-info" / "METADATA").write_bytes(b"Name: \xff\n")
    plugins = Plugins.installed()

    (acme,) = [plugin for plugin in plugins.listing() if plugin.name == "acme"]
    assert (acme.state, acme.version, acme.origin) == ("ready", "?", "acme_module")


def test_beside_spoilt_metadata_the_first_of_a_name_counts(
    install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Battery 31: an older copy of a distribution further down the path is no second owner, whoever else is spoilt."""
    install("acme", registers("acme"))
    install("wreck", EXPLODES)
    (tmp_path / "wreck-1.2.3.dist-info" / "entry_points.txt").write_bytes(SPOILT["no pairs"])
    older = tmp_path / "older" / "Acme-1.0.dist-info"
    older.mkdir(parents=True)
    (older / "METADATA").write_text("Metadata-Version: 2.1\nName: Acme\nVersion: 1.0\n")
    (older / "entry_points.txt").write_text("[llama_orch.adapters]\nacme = nowhere\n")
    monkeypatch.setattr(sys, "path", [*sys.path, str(older.parent)])

    (acme,) = [plugin for plugin in Plugins().scan() if plugin.name == "acme"]

    assert (acme.state, acme.version) == ("found", "1.2.3")


@pytest.mark.parametrize("name", ["Acme.LLM__adapter", "acme-llm-adapter", "ACME_llm.-adapter"])
def test_names_are_compared_as_indexes_do(name: str):
    """Case does not count, and neither which of `-`, `_` and `.` stand between words, nor how many."""
    assert normalised(name) == "acme-llm-adapter"
