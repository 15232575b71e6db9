"""`adapter-host new-adapter`: what it writes, what it says, and when it refuses."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from llama_orch_adapter_host.cli._app import app
from llama_orch_adapter_host.cli._exit import Exit
from llama_orch_adapter_host.cli._scaffold import Names

from .conftest import Install, registers  # type: ignore[import-not-found]  # test folders are no packages

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return lambda *words: CliRunner().invoke(app, ["new-adapter", *words])


def written(folder: str) -> set[str]:
    return {str(path.relative_to(folder)) for path in Path(folder).rglob("*") if path.is_file()}


FILES = {
    "README.md",
    "pyproject.toml",
    "src/llama_orch_adapter_acme_one/__init__.py",
    "src/llama_orch_adapter_acme_one/_adapter.py",
    "src/llama_orch_adapter_acme_one/_wire.py",
    "src/llama_orch_adapter_acme_one/py.typed",
    "tests/dialect.py",
    "tests/test_conformance.py",
}
OWN = ["health_of", "worker_props", "request_body", "text_of", "end_of"]


def test_a_package_is_written_and_the_way_from_there_told(run: Run):
    """The files, what is missing in which of them, and the commands that come next."""
    ended = run("acme-one")

    assert ended.exit_code == Exit.OK, ended.output
    assert written("adapter-acme-one") == FILES
    missing = ", ".join(f"{part}()" for part in OWN)
    assert f"To be filled in, in src/llama_orch_adapter_acme_one/_wire.py: {missing}\n" in ended.stdout
    assert "  cd adapter-acme-one\n  pip install -e . --group dev\n" in ended.stdout
    readme = Path("adapter-acme-one/README.md").read_text()
    assert all(f"| `{part}` |" in readme for part in OWN)
    assert "$ cd adapter-acme-one\n$ pip install -e . --group dev\n" in readme


def test_what_is_written_is_told_in_json(run: Run):
    """With --json, one document: names, folder, files and the parts to fill in."""
    ended = run("acme-one", "--json", "--like", "openai", "--into", "some/where")
    told = json.loads(ended.stdout)

    assert (told["engine"], told["distribution"]) == ("acme-one", "llama-orch-adapter-acme-one")
    assert told["folder"] == "some/where"
    assert set(told["files"]) == written("some/where") == FILES
    assert told["parts"] == [{"file": "src/llama_orch_adapter_acme_one/_wire.py", "function": "worker_props"}]


@pytest.mark.parametrize(("stream", "content_type"), [("sse", "text/event-stream"), ("ndjson", "application/x-ndjson")])
def test_the_engine_of_the_tests_streams_as_asked(run: Run, stream: str, content_type: str):
    """`--stream` says how the scripted engine frames its events; the package is the same but for that."""
    run("acme", "--stream", stream)

    assert f"Content-Type: {content_type}\\r\\n" in Path("adapter-acme/tests/dialect.py").read_text()


@pytest.mark.parametrize("options", [(), ("--like", "openai"), ("--stream", "ndjson")])
def test_the_longest_name_makes_no_line_too_long(run: Run, options: tuple[str, ...]):
    """Whatever the engine is called, what is written is Python of the house's width, with nothing left to put in."""
    run("o23456789-123456789-123456789x", *options, "--into", "it")

    for file in written("it"):
        text = Path("it", file).read_text()
        assert [line for line in text.splitlines() if len(line) > 120] == []
        assert "${" not in text
        if file.endswith(".py"):
            compile(text, file, "exec")


@pytest.mark.parametrize(
    ("name", "mend"),
    [
        ("", "acme"),
        ("My_Engine", "my-engine"),
        ("2fast", "fast"),
        ("a--b", "a-b"),
        ("-a", "a"),
        ("größe", "gr-e"),
        ("a/../b", "a-b"),
        ("x" * 31, "x" * 30),
    ],
)
def test_a_name_that_makes_no_package_is_refused(run: Run, name: str, mend: str):
    """A name that no config, package and module could bear is refused with one that all could; nothing is written."""
    ended = run("--json", "--", name)
    failure = json.loads(ended.stdout)

    assert (ended.exit_code, failure["code"]) == (Exit.USAGE, "USAGE")
    assert failure["message"].endswith(f"such as {mend}")
    assert Names.of(mend).engine == mend
    assert list(Path().iterdir()) == []


def test_a_name_that_is_taken_is_refused(run: Run, install: Install):
    """So is that of an installed plugin, of an installed package, and of one of this project's."""
    install("shady", registers("shady"), name="acme")
    install("llama_orch_adapter_other", "", name="elsewhere")
    told = {name: run(name) for name in ("acme", "other", "host", "vllm")}

    assert {ended.exit_code for ended in told.values()} == {Exit.TAKEN}
    assert "taken by shady; give another name, such as my-acme, or uninstall that" in told["acme"].stderr
    assert "taken by llama-orch-adapter-other; give another name" in told["other"].stderr
    assert "taken by llama-orch-adapter-host; give another name" in told["host"].stderr
    assert "such as my-vllm" in told["vllm"].stderr
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("there", ["folder", "file"])
def test_what_is_there_is_left_alone(run: Run, there: str):
    """A folder or file of that name is refused, and nothing in it is touched."""
    place = Path("adapter-acme")
    if there == "folder":
        place.mkdir()
        (place / "pyproject.toml").write_text("mine")
    else:
        place.write_text("mine")
    ended = run("acme", "--json")
    failure = json.loads(ended.stdout)

    assert (ended.exit_code, failure["code"], failure["exit_code"]) == (19, "TAKEN", 19)
    assert "adapter-acme is there already; remove it, or give another folder with --into DIR" in failure["message"]
    assert ((place / "pyproject.toml") if there == "folder" else place).read_text() == "mine"


def test_a_folder_that_cannot_be_written_is_told(run: Run):
    """Where there can be no such folder, the code is 1 and the mend another one."""
    Path("file").write_text("")
    ended = run("acme", "--into", "file/deeper", "--json")
    failure = json.loads(ended.stdout)

    assert (ended.exit_code, failure["code"]) == (Exit.FAILED, "FAILED")
    assert "file/deeper cannot be written: Not a directory; give a folder that can" in failure["message"]


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limits")
def test_half_a_package_is_none(run: Run, tmp_path: Path):
    """Where writing fails in the middle of it, the new folder is gone again."""
    script = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500));"
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "from llama_orch_adapter_host.cli import main; sys.argv = ['adapter-host', 'new-adapter', 'acme']; main()"
    )
    ended = subprocess.run(
        [sys.executable, "-B", "-c", script], cwd=tmp_path / "here", capture_output=True, text=True, check=False
    )

    assert ended.returncode == Exit.FAILED, ended.stderr
    assert "adapter-acme cannot be written: File too large" in ended.stderr
    assert list(Path().iterdir()) == []


def test_an_option_without_a_place_is_refused(run: Run):
    """How OpenAI's dialect streams is no question."""
    ended = run("acme", "--like", "openai", "--stream", "sse")

    assert ended.exit_code == Exit.USAGE
    assert "leave --stream out" in ended.stderr
