"""What the documentation shows is run, or read, as it stands."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
from llama_orch_adapter_api import Timeouts
from llama_orch_adapter_host import PoolPolicy, parse_config
from llama_orch_adapter_testkit import OPENAI, Dialect, Load, Reply, Request

from .conftest import quiet  # type: ignore[import-not-found]  # test folders are no packages

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def output_of(page: str, folder: Path) -> list[str]:
    """What the whole program on a page prints, run as it stands, with warnings as errors."""
    (example,) = re.findall(r"```python\n(import asyncio.*?)```", (DOCS / page).read_text(), re.DOTALL)
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", example],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (ran.returncode, quiet(ran.stderr)) == (0, [])
    return ran.stdout.splitlines()


def test_the_example_of_a_reload_runs(tmp_path: Path):
    """ORCH-3600: the Python of docs/reload.md, word for word, preloads, reloads and prints what the new one answers."""
    lines = output_of("reload.md", tmp_path)

    assert lines[0] == "generation 2 is ready beside the one that serves"
    assert lines[-1] == "http://127.0.0.1:8081 says hello"


def test_the_example_of_the_host_runs(tmp_path: Path):
    """ORCH-3600: the Python of docs/using-the-host.md submits, collects, cancels, explains and reads capabilities."""
    assert output_of("using-the-host.md", tmp_path) == [
        "told: a task of chat ended, ok",
        "collected: 0 1 2 3 4 (length)",
        "told: a task of chat ended, cancelled",
        "cancelled in decode, idle after None ms",
        "the stream ends: cancelled",
        "write 1 event at a time",
        "explained: chat/0, the only replica",
        "context 2048, stale: False",
    ]


def test_the_example_of_a_plugin_runs(tmp_path: Path):
    """ORCH-3600: the plugin of docs/plugins.md is loaded, routes, serves, and is told what happens."""
    state, answer, why, heard = output_of("plugins.md", tmp_path)

    assert (state, answer, why) == ("acme is ready", "http://blue says hello", "policy by_tenant")
    assert heard == str(["bound chat/red", "bound chat/blue", "first token from blue"])


def test_the_defaults_of_the_configuration_are_the_defaults():
    """What docs/configuration.md calls a default is one, and every field of every table stands there."""
    blocks = re.findall(r"```toml\n(.*?)```", (DOCS / "configuration.md").read_text(), re.DOTALL)
    (text,) = [block for block in blocks if "[pools.chat]" in block]
    pool = parse_config(text.encode()).pools["chat"]

    assert pool.timeouts == Timeouts()
    assert pool.policy == PoolPolicy()
    tables = [Timeouts(), PoolPolicy(), *(getattr(PoolPolicy(), name) for name in ("retry", "breaker", "health"))]
    named = [name for table in tables for name in msgspec.structs.asdict(table)]
    assert [name for name in named if not re.search(rf"^(# |\[pools\.chat\.)?{name}\b", text, re.MULTILINE)] == []


def anchors(page: Path) -> set[str]:
    """What its headings are linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere():
    """Each page, and each heading of one, that a page links is there."""
    pages = [*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *ROOT.glob("packages/*/*.md")]
    dead = []
    for page in pages:
        for link in re.findall(r"\]\((?!\w+:)([^)\s]+)\)", page.read_text()):
            place, _, heading = link.partition("#")
            target = page.parent / place if place else page
            if not target.exists() or (heading and heading not in anchors(target)):
                dead.append(f"{page.relative_to(ROOT)}: {link}")

    assert len(pages) > 20
    assert dead == []


def test_every_fact_of_an_engine_is_held_by_a_test():
    """docs/engine-facts.md names tests that there are, and leaves no fact without one."""
    page = (DOCS / "engine-facts.md").read_text()
    named = re.findall(r"`([\w-]+)/(test_\w+)::(test_\w+)`", page)
    folders = {
        "tests": ROOT / "tests",
        "engines": ROOT / "tests/engines",
        "http-util": ROOT / "packages/http-util/tests",
        "llamacpp": ROOT / "packages/adapter-llamacpp/tests",
        "vllm": ROOT / "packages/adapter-vllm/tests",
    }
    missing = [
        f"{folder}/{file}::{test}"
        for folder, file, test in named
        if f"def {test}(" not in (folders[folder] / f"{file}.py").read_text()
    ]

    assert missing == []
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| fact", "| ---"))]
    assert [row for row in rows if "::" not in row] == []


def test_the_dialect_of_the_conformance_suite() -> None:
    """ORCH-3612: the dialect of docs/conformance.md says what its own engine says, and the rest as OpenAI's does."""
    *_, example = re.findall(r"```python\n(.*?)```", (DOCS / "conformance.md").read_text(), re.DOTALL)
    told: dict[str, Any] = {}
    exec(example, told)
    acme: Dialect = told["ACME"]
    about, models = (
        acme.look(Request("GET", path, {}, {}, b"", keeps_alive=True), Load(slots=1, running=1, waiting=1))
        for path in ("/about", "/v1/models")
    )

    assert about == Reply.json(200, {"version": "4.2", "model": "fake", "busy": True})
    assert models == OPENAI.look(Request("GET", "/v1/models", {}, {}, b"", keeps_alive=True), Load(1, 0, 0))
