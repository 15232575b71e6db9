"""The suite as its users meet it: a class in a test file, run by pytest, with the adapter found by its entry point."""

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from llama_orch_adapter_testkit.conformance import Certificate
from llama_orch_adapter_testkit.conformance._registration import _registered

pytestmark = pytest.mark.timeout(120)  # whole certificates, on a machine that may be busy

GOOD = """
from llama_orch_adapter_api import API_VERSION, AdapterSpec, hookimpl
from llama_orch_adapter_vllm import VllmAdapter
from llama_orch_adapter_vllm._adapter import VllmConfig

@hookimpl
def llama_orch_register_adapters(register):
    register(AdapterSpec("vllm", API_VERSION, VllmConfig, VllmAdapter))
"""
TESTS = """
from llama_orch_adapter_testkit import VLLM
from llama_orch_adapter_testkit.conformance import AdapterConformance

class TestConformance(AdapterConformance):
    adapter = "acme"
    dialect = VLLM
    skips = {"seed": "it has none"}
"""


def package(folder: Path, module: str) -> None:
    """An installed package with one adapter, `acme`, and its tests beside it."""
    info = folder / "acme_adapter-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-adapter\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[llama_orch.adapters]\nacme = acme_adapter\n")
    (folder / "acme_adapter.py").write_text(module)
    (folder / "test_acme.py").write_text(TESTS)


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, *words]
    return subprocess.run(
        [*command, "--rootdir", folder, "--import-mode=importlib", folder / "test_acme.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def certificate(file: Path) -> Certificate:
    return msgspec.json.decode(file.read_bytes(), type=Certificate)


def test_a_package_is_certified(tmp_path: Path):
    """ORCH-3612: one class and one option write a certificate that names package, version and every check."""
    package(tmp_path, GOOD)
    ran = run(tmp_path, "--certificate", "out/acme.json")
    seen = certificate(tmp_path / "out" / "acme.json")

    assert ran.returncode == 1, ran.stdout  # the engine is to have the entry point's name
    assert (seen.adapter, seen.distribution, seen.version, seen.verdict) == ("acme", "acme-adapter", "1.2", "failed")
    assert {one.id for one in seen.checks if one.status == "failed"} == {"registration.api"}
    assert {one.reason for one in seen.checks if one.group == "seed"} == {"it has none"}
    assert seen.row() in ran.stdout
    assert "the entry point is 'acme', the engine 'vllm'" in ran.stdout


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("import socket\nsocket.socket().close()\n", "touches the network"),
        ("import pytest\n", "imports pytest"),
        ("import sys\nif 'pytest' not in sys.modules:\n    raise OSError('no such luck')\n", "OSError: no such luck"),
    ],
    ids=["socket", "heavy", "raises"],
)
def test_a_registration_that_is_not_pure(tmp_path: Path, more: str, words: str):
    """In a fresh interpreter it is seen to open a socket, to import what is heavy, or to fail."""
    package(tmp_path, more + GOOD)
    ran = run(tmp_path, "-k", "registration.pure")

    assert ran.returncode == 1, ran.stdout
    assert words in ran.stdout


@pytest.mark.parametrize(
    ("hook", "words"),
    [
        (GOOD.replace("def llama_orch", "async def llama_orch"), "registers no adapter"),
        (f"{GOOD}    return later()\n\nasync def later(): pass\n", "is asynchronous; hooks are plain functions"),
    ],
    ids=["async def", "coroutine"],
)
def test_a_hook_that_waits(tmp_path: Path, hook: str, words: str):
    """A hook that gives a coroutine waits for somebody, and nobody will come."""
    package(tmp_path, hook)
    ran = run(tmp_path, "-k", "registration.pure")

    assert ran.returncode == 1, ran.stdout
    assert words in ran.stdout


def test_a_registration_that_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its interpreter is ended with it, and leaves nothing for the next check to stumble over."""
    module = "import os, pathlib, time\npathlib.Path(__file__).with_name('pid').write_text(f'{os.getpid()}\\n')\n"
    package(tmp_path, module + "time.sleep(600)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    async def given_up() -> int:
        asking = asyncio.create_task(_registered("acme"))
        while not (said := (tmp_path / "pid").read_text() if (tmp_path / "pid").exists() else "").endswith("\n"):
            await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait([asking])
        return int(said)

    process = asyncio.run(given_up())
    with pytest.raises(ProcessLookupError):
        os.kill(process, 0)


def test_one_file_is_for_one_adapter(tmp_path: Path):
    """Two suites under one option are an error, and so is none."""
    package(tmp_path, GOOD)
    with (tmp_path / "test_acme.py").open("a") as file:
        file.write("\nclass TestOther(TestConformance):\n    pass\n\ndef test_else():\n    pass\n")
    two = run(tmp_path, "--certificate", "acme.json", "-k", "stream.order")
    none = run(tmp_path, "--certificate", "acme.json", "-k", "test_else")

    assert (two.returncode, none.returncode) == (4, 4)
    assert "run these one by one" in two.stdout
    assert "no conformance test was run" in none.stdout
    assert not (tmp_path / "acme.json").exists()


def test_what_was_not_run_is_told(tmp_path: Path):
    """A certificate over a part of the checks is not complete."""
    package(tmp_path, GOOD)
    ran = run(tmp_path, "--certificate", "acme.json", "-k", "stream.order")
    seen = certificate(tmp_path / "acme.json")

    assert ran.returncode == 0, ran.stdout
    assert seen.verdict == "incomplete"
    assert [one.id for one in seen.checks if one.status == "passed"] == ["stream.order"]
    assert {one.status for one in seen.checks} == {"passed", "not_run"}


def test_the_example_of_the_readme_runs(tmp_path: Path):
    """ORCH-3612: the class of the README, word for word, tries the adapter that it names."""
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
    (tmp_path / "test_acme.py").write_text(example)
    ran = run(tmp_path, "-k", "stream", "--certificate", "vllm.json")
    seen = certificate(tmp_path / "vllm.json")

    assert ran.returncode == 0, ran.stdout
    assert {one.status for one in seen.checks if one.id.startswith("stream.")} == {"passed"}
    assert (seen.adapter, seen.distribution) == ("vllm", "llama-orch-adapter-vllm")
