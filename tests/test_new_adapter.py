"""A new adapter, as its author gets it: it installs, is found, fails what is to be filled in, and then passes."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .filled import OPENAI, OWN, PARTS, fill  # type: ignore[import-not-found]  # test folders are no packages

ROOT = Path(__file__).parents[1]
DIST = ROOT / "dist"
OURS = [f"llama-orch-{path.parent.name}" for path in ROOT.glob("packages/*/pyproject.toml")]
FROM_DIST = ["--find-links", str(DIST), *(word for name in OURS for word in ("--refresh-package", name))]
PINNED = ["--constraint", "constraints.txt", "--build-constraints", "constraints.txt"]

KINDS: dict[str, tuple[list[str], dict[str, str]]] = {
    "events": ([], OWN),
    "lines": (["--stream", "ndjson"], OWN),
    "like-openai": (["--like", "openai"], OPENAI),
}
"""By the name of the engine: the options, and what is filled in."""

UNTOUCHED = {
    "registration.pure",
    "registration.api",
    "registration.factory",
    "config.strict",
    "health.loading",
    "health.down",
    "health.cancelled",
    "errors.unreachable",
    "cancel.unread",
    "secrets.reprs",
}
"""What an adapter keeps in which everything is to be filled in."""

OF_PROPS = {
    *("props.complete", "props.fresh", "version.stable", "workloads.refused", "life.leaves_nothing"),
    *("loop.not_blocked", "confirms_cancel.idle", "chat.order", "tools.calls", "reasoning.channel", "logprobs.told"),
    *("seed.sent", "deadline.sent", "embedding.vectors", "rerank.scores"),
}
"""What needs the capabilities, and be it to know whether it is asked for."""

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(not DIST.is_dir(), reason="no wheels: `nox -s cross` builds them first"),
]


class Workshop:
    """A folder with an environment of its own, in which the adapters are written and installed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, command: str, *arguments: str, cwd: str = ".") -> tuple[int, str]:
        """A command of the environment: its exit code, and what it prints to who is not CI, which pytest tells more."""
        left_out = ("PYTHON", "PYTEST", "CI", "BUILD_NUMBER")
        bare = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
        ran = subprocess.run(
            [self.folder / "venv" / "bin" / command, *arguments],
            cwd=self.folder / cwd,
            env=bare,
            capture_output=True,
            text=True,
            check=False,
        )
        return ran.returncode, ran.stdout + ran.stderr

    def uv(self, *arguments: str) -> None:
        subprocess.run([sys.executable, "-m", "uv", *arguments], check=True, capture_output=True, cwd=ROOT)

    def install(self, *words: str) -> None:
        self.uv("pip", "install", "--python", str(self.folder / "venv"), *PINNED, *FROM_DIST, *words)

    def certificate(self, engine: str) -> dict[str, Any]:
        """What the tests of an adapter say of it."""
        self.run("pytest", "-q", "--certificate", "it.json", cwd=f"adapter-{engine}")
        told: dict[str, Any] = json.loads((self.folder / f"adapter-{engine}" / "it.json").read_bytes())
        return told

    def problems(self, engine: str) -> list[str]:
        """What mypy and ruff have against an adapter, by its own settings and by this project's."""
        every = (
            ("mypy", "src", "tests", "--cache-dir", "../mypy"),
            ("ruff", "check"),
            ("ruff", "check", "--config", str(ROOT / "pyproject.toml")),
            ("ruff", "format", "--check"),
        )
        seen = [self.run(*command, cwd=f"adapter-{engine}") for command in every]
        return [told for code, told in seen if code]


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:
    """Each kind of adapter, written and installed."""
    shop = Workshop(tmp_path_factory.mktemp("workshop"))
    shop.uv("venv", "--python", sys.executable, str(shop.folder / "venv"))
    shop.install("llama-orch-adapter-host[cli]")
    for engine, (options, _) in KINDS.items():
        code, told = shop.run("adapter-host", "new-adapter", engine, *options)
        assert code == 0, told
    folders = [str(shop.folder / f"adapter-{engine}") for engine in KINDS]
    shop.install(*(word for each in folders for word in ("-e", each)), "--group", f"{folders[0]}/pyproject.toml:dev")
    return shop


def test_new_adapters_are_found(workshop: Workshop):
    """ORCH-3600: installed, each is listed as ready, under the name that it was given."""
    code, told = workshop.run("adapter-host", "plugins", "--json")

    assert code == 0, told
    listed = {each["name"]: (each["state"], each["engines"]) for each in json.loads(told)}
    assert {engine: listed[engine] for engine in KINDS} == {engine: ("ready", [engine]) for engine in KINDS}


@pytest.mark.parametrize("engine", KINDS)
def test_a_new_adapter_fails_what_is_to_be_filled_in_and_no_more(workshop: Workshop, engine: str):
    """ORCH-3612: each failure names a part and its file, and once the parts are filled in, the adapter is certified."""
    _, parts = KINDS[engine]
    wire = f"src/llama_orch_adapter_{engine.replace('-', '_')}/_wire.py"
    new, problems = workshop.certificate(engine)["checks"], workshop.problems(engine)
    folder = workshop.folder / f"adapter-{engine}"
    fill(folder / wire, parts)
    whole, problems_then = workshop.certificate(engine), workshop.problems(engine)

    failed = {each["id"]: each["reason"] for each in new if each["status"] == "failed"}
    asked = {each["id"] for each in new if each["status"] != "skipped"}
    assert failed.keys() == (OF_PROPS if parts is OPENAI else asked - UNTOUCHED)
    assert [why for why in failed.values() if not re.search(rf"fill in ({PARTS})\(\) in {wire}: ", why)] == []
    assert whole["verdict"] == "passed"
    assert (whole["adapter"], whole["distribution"]) == (engine, f"llama-orch-adapter-{engine}")
    assert {each["id"] for each in whole["checks"] if each["status"] == "passed"} >= {"seed.sent", "chat.order"}
    assert (problems, problems_then) == ([], [])


def test_the_parts_are_asked_for_one_by_one(workshop: Workshop):
    """ORCH-3612: `pytest -x`, as the command says to type, names the first part that is missing, then the next."""
    workshop.run("adapter-host", "new-adapter", "steps")
    workshop.install("-e", str(workshop.folder / "adapter-steps"))
    wire = workshop.folder / "adapter-steps/src/llama_orch_adapter_steps/_wire.py"
    named = []
    for part in OWN:
        _, told = workshop.run("pytest", "-x", cwd="adapter-steps")
        named += re.findall(r"^NotImplementedError: fill in (\w+)\(\)", told, re.MULTILINE)
        fill(wire, {part: OWN[part]})
    code, told = workshop.run("pytest", "-x", cwd="adapter-steps")

    assert named == list(OWN)
    assert code == 0, told
