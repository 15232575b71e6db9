"""The rules of the repository that no tool checks."""

import ast
import re
import tomllib
from collections import defaultdict
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(path.parent for path in ROOT.glob("packages/*/pyproject.toml"))
TEST_FILES = sorted([*ROOT.glob("packages/*/tests/**/test_*.py"), *ROOT.glob("tests/**/test_*.py")])


def settings() -> dict[str, Any]:
    tools: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    return tools


def test_ci_runs_the_command_of_the_readme() -> None:
    """What CI runs is what the README tells a newcomer to type, to the letter."""
    command = (ROOT / ".ci" / "run").read_text().splitlines()[-1]

    assert command in (ROOT / "README.md").read_text().splitlines()


def test_constraints_name_no_place() -> None:
    """The lock holds versions, markers and hashes: no index, no host, no path."""
    pin = r"[a-z0-9-]+==[\w.]+( ; [^/@]+)? \\"
    digest = r"    --hash=sha256:[0-9a-f]{64}( \\)?"

    strays = [
        line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not re.fullmatch(f"{pin}|{digest}", line)
    ]

    assert strays == []


@pytest.mark.parametrize("path", TEST_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_test_states_its_rule(path: Path) -> None:
    """Every test has a docstring."""
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]

    silent = [node.name for node in functions if node.name.startswith("test_") and not ast.get_docstring(node)]

    assert silent == []


def test_no_switch_of_pythons_is_set_to_nought() -> None:
    """Any value of such a variable switches it on, "0" like "1": what is not wanted is left out."""
    switch = re.compile(r"""PYTHON(?:ASYNCIODEBUG|DEVMODE|FAULTHANDLER|UNBUFFERED)["']?(?:: |=)["']?0""")
    files = [*ROOT.glob("packages/*/tests/**/*.py"), *ROOT.glob("tests/**/*.py"), ROOT / "noxfile.py"]

    assert [str(path.relative_to(ROOT)) for path in files if switch.search(path.read_text())] == []


def test_what_is_not_the_packages_own_uses_public_names() -> None:
    """What the cross-package tests and the benchmarks need of a library, its users can import too."""
    rooms = re.compile(r"^\s*(?:from|import) (llama_orch_\w+\._\w+)", re.MULTILINE)
    strangers = [*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")]

    assert [(path.name, room) for path in strangers for room in rooms.findall(path.read_text())] == []


def test_contracts_and_coverage_know_every_package() -> None:
    """A package that the import contracts or the coverage did not list would go unchecked."""
    modules = ["llama_orch_" + path.name.replace("-", "_") for path in PACKAGES]

    assert sorted(settings()["importlinter"]["root_packages"]) == sorted(modules)
    assert sorted(settings()["coverage"]["run"]["source_pkgs"]) == sorted(modules)


def test_packages_agree_on_versions() -> None:
    """A library that several packages need is asked for in the same versions: they are installed together."""
    wanted: defaultdict[str, set[str]] = defaultdict(set)
    for path in PACKAGES:
        project = tomllib.loads((path / "pyproject.toml").read_text())["project"]
        for requirement in (*project["dependencies"], *chain(*project.get("optional-dependencies", {}).values())):
            name = re.match(r"[\w-]+", requirement)
            assert name is not None
            wanted[name[0]].add(re.sub(r"^[\w-]+(\[[^\]]*\])?", "", requirement))

    assert {name: versions for name, versions in wanted.items() if len(versions) > 1} == {}


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_is_whole(package: Path) -> None:
    """Each package types its users' code, keeps a changelog and explains itself in at most 20 lines."""
    assert list(package.glob("src/*/py.typed"))
    assert "<!-- towncrier release notes start -->" in (package / "CHANGELOG.md").read_text()
    assert len((package / "README.md").read_text().splitlines()) <= 20
