"""The adapter of docs/writing-an-adapter.md, word for word: found by its entry point, certified, and used."""

import ast
import asyncio
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import msgspec
import pytest
from llama_orch_adapter_testkit import Behaviour, FakeEngine, LoopbackEngine, OpenAIDialect
from llama_orch_adapter_testkit.conformance import Certificate

PAGE = (Path(__file__).parents[1] / "docs" / "writing-an-adapter.md").read_text()
ADAPTER, TESTS, USE = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
LINES = 45


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A folder to import from in which the package lies as an installer leaves it."""
    (pyproject,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    project = tomllib.loads(pyproject)["project"]
    points = project["entry-points"]["llama_orch.adapters"]
    info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    (info / "entry_points.txt").write_text(
        "[llama_orch.adapters]\n" + "".join(f"{name} = {module}\n" for name, module in points.items())
    )
    (tmp_path / "acme_adapter.py").write_text(ADAPTER)
    (tmp_path / "test_acme.py").write_text(TESTS)
    (tmp_path / "use.py").write_text(USE)
    return tmp_path


def test_it_is_found_and_used(package: Path):
    """ORCH-3600: installed, the host finds it, and streams a real task from an engine of its dialect."""
    ran = asyncio.run(used(package))

    assert ran.returncode == 0, ran.stderr
    assert "Warning" not in ran.stderr
    assert ran.stdout.split() == ["Hi.0", "Hi.1", "Hi.2", "Hi.3"]


async def used(package: Path) -> "subprocess.CompletedProcess[str]":
    """What the page's program does before an engine that speaks as the page says."""
    async with LoopbackEngine(FakeEngine(Behaviour(), dialect())) as engine:
        return await asyncio.to_thread(run, package, "-W", "error", "use.py", engine.url)


def dialect() -> OpenAIDialect:
    """That of the page's tests."""
    told: dict[str, object] = {}
    exec(TESTS, told)
    conformance = told["TestConformance"]
    assert isinstance(conformance, type)
    return conformance.dialect  # type: ignore[attr-defined,no-any-return]


@pytest.mark.timeout(180)
def test_it_is_certified(package: Path):
    """ORCH-3612: it keeps every rule of the conformance suite, which also names each check that the page names."""
    words = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(package))
    ran = run(package, "-P", *words, "--import-mode=importlib", "test_acme.py", "--certificate", "acme.json")
    assert ran.returncode == 0, ran.stdout
    seen = msgspec.json.decode((package / "acme.json").read_bytes(), type=Certificate)

    assert (seen.adapter, seen.distribution, seen.version, seen.verdict) == ("acme", "acme-adapter", "1.0", "passed")
    named = set(re.findall(r"`(\w+\.\w+)`", PAGE.partition("## What goes wrong")[2].partition("\n## ")[0]))
    checks = {one.id for one in seen.checks}
    assert {name for name in named if not name.startswith(("asyncio.", "WorkerHealth."))} <= checks


def test_it_stands_on_one_screen():
    """Lines of code, blank ones not counted, and every page that is linked to is there."""
    lines = [line for line in ADAPTER.splitlines() if line.strip()]
    links = re.findall(r"\]\(([^)#]+)\)", PAGE)

    assert len(lines) <= LINES
    assert ast.parse(ADAPTER)
    assert [link for link in links if not (Path(__file__).parents[1] / "docs" / link).exists()] == []


def run(package: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    """Python in the package's folder, which is importable there."""
    return subprocess.run(
        [sys.executable, *words],
        cwd=package,
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
