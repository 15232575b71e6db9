"""The embedded engine, with the real one; what is refused before it starts needs none."""

import asyncio
import http.client
import importlib.abc
import importlib.machinery
import json
import os
import signal
import subprocess
import sys
import time
import types
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import LaunchError, LaunchOptions, Progress
from llama_orch_adapter_llamacpp import embedded
from llama_orch_adapter_llamacpp._model import SMOLLM2, small_model
from llama_orch_adapter_llamacpp.embedded import launch

PARENT = """
import asyncio, urllib.request
from llama_orch_adapter_api import LaunchOptions
from llama_orch_adapter_llamacpp.embedded import launch

def health(url):
    return urllib.request.urlopen(url + "/health", timeout=5).status

async def main():
    async with launch(LaunchOptions(slots=1, context=256, threads=1)) as url:
        print(url, flush=True)
        try:
            await asyncio.Event().wait()
        finally:
            print(await asyncio.to_thread(health, url), flush=True)

asyncio.run(main())
"""

TWO_LAUNCHES = """
import asyncio, os, pathlib, sys
from llama_orch_adapter_api import LaunchOptions
from llama_orch_adapter_llamacpp.embedded import launch

def children():
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return "no child"
    return "a child"

async def main(cancel):
    asyncio.get_running_loop().slow_callback_duration = 60  # on a busy machine a callback may take its time
    model, me = pathlib.Path(sys.argv[1]), asyncio.current_task()
    loading = lambda _: me.cancel() if cancel else None
    try:
        async with launch(LaunchOptions(model=model, slots=1, context=256, threads=1, progress=loading)):
            said = "ready"
    except asyncio.CancelledError:
        said = "cancelled"
    print(f"{said}, {children()}")

asyncio.run(main(True))
asyncio.run(main(False))
"""


def get(url: str, **headers: str) -> tuple[Any, Any]:
    """The JSON at a URL and the response's headers."""
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return json.load(response), response.headers


def is_gone(url: str) -> bool:
    """Whether nobody listens there any more."""
    try:
        get(url + "/health")
    except urllib.error.HTTPError:
        return False
    except OSError:
        return True
    return False


def gone_within(url: str, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not (gone := is_gone(url)) and time.monotonic() < end:
        time.sleep(0.02)
    return gone


@contextmanager
def parent() -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A process in a group of its own that runs an engine until it is stopped, and the engine's URL."""
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        try:
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


@pytest.fixture(scope="module")
def model() -> Path:
    return asyncio.run(small_model(lambda _: None))


@pytest.mark.real_engine
@pytest.mark.timeout(300)
async def test_a_real_engine_serves_inside_the_block() -> None:
    """A launched llama.cpp is ready, has the slots, context and name it was asked for, and is gone after the block."""
    told: list[Progress] = []
    async with launch(LaunchOptions(slots=3, context=512, threads=1, progress=told.append)) as url:
        health, headers = await asyncio.to_thread(get, url + "/health", Origin="http://elsewhere.test")
        props, _ = await asyncio.to_thread(get, url + "/props")
        slots, _ = await asyncio.to_thread(get, url + "/slots")
        models, _ = await asyncio.to_thread(get, url + "/v1/models")
    gone = await asyncio.to_thread(is_gone, url)

    assert url.startswith("http://127.0.0.1:")
    assert health == {"status": "ok"}
    assert "Access-Control-Allow-Origin" not in headers
    assert props["total_slots"] == 3
    assert [slot["n_ctx"] for slot in slots] == [512] * 3
    assert models["data"][0]["id"] == SMOLLM2.alias
    assert f"loading {SMOLLM2.file}, 0 s" in [progress.what for progress in told]
    assert gone


@pytest.mark.real_engine
@pytest.mark.timeout(300)
async def test_an_engine_comes_back_where_it_was(model: Path) -> None:
    """ORCH-3600: an engine killed under a stream can be launched again on its port, at once."""
    options = LaunchOptions(model=model, slots=1, context=256, threads=1)
    async with launch(options) as url:
        body = json.dumps({"prompt": "Hello", "n_predict": 200, "stream": True}).encode()
        response = await asyncio.to_thread(urllib.request.urlopen, url + "/completion", body, 10)
    async with launch(msgspec.structs.replace(options, port=int(url.rpartition(":")[2]))) as again:
        health, _ = await asyncio.to_thread(get, again + "/health")
    response.close()

    assert again == url
    assert health == {"status": "ok"}


@pytest.mark.real_engine
@pytest.mark.timeout(300)
async def test_an_open_stream_does_not_delay_the_stop(model: Path) -> None:
    """Leaving the block ends an engine that is streaming in under a second; the model given is named by its file."""

    def stream(url: str) -> http.client.HTTPResponse:
        body = json.dumps({"prompt": "Hello", "n_predict": 400, "stream": True}).encode()
        response: http.client.HTTPResponse = urllib.request.urlopen(url + "/completion", body, timeout=10)
        return response

    async with launch(LaunchOptions(model=model, slots=1, context=512, threads=1)) as url:
        models, _ = await asyncio.to_thread(get, url + "/v1/models")
        response = await asyncio.to_thread(stream, url)
        first = await asyncio.to_thread(response.readline)
        began = time.monotonic()
    took = time.monotonic() - began
    response.close()

    assert models["data"][0]["id"] == model.stem
    assert first.startswith(b"data: ")
    assert took < 1


@pytest.mark.real_engine
@pytest.mark.timeout(300)
def test_the_engine_ends_with_a_killed_parent(model: Path) -> None:
    """The parent killed by SIGKILL, its engine is gone within five seconds."""
    with parent() as (process, url):
        before = is_gone(url)
        process.kill()
        process.wait()
        after = gone_within(url, 5)

    assert not before
    assert after


@pytest.mark.real_engine
@pytest.mark.timeout(300)
def test_ctrl_c_leaves_the_engine_to_its_parent(model: Path) -> None:
    """A Ctrl-C goes to the parent alone: the engine still answers while the block is left, and is gone after it."""
    with parent() as (process, url):
        os.killpg(process.pid, signal.SIGINT)
        said, _ = process.communicate(timeout=10)

    assert said == "200\n"
    assert process.returncode == -signal.SIGINT
    assert is_gone(url)


@pytest.mark.real_engine
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "how",
    [
        "terminate",
        pytest.param("stdin", marks=pytest.mark.skipif(sys.platform != "linux", reason="after loading elsewhere")),
    ],
)
def test_a_loading_engine_ends_at_once(model: Path, how: str) -> None:
    """While it loads, SIGTERM and the end of its stdin end the engine before it is ready."""
    command = embedded._command(LaunchOptions(slots=1, context=256, threads=1), model, "any")
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as engine:
        assert engine.stdin is not None
        assert engine.stdout is not None
        first = engine.stdout.readline()
        if how == "terminate":
            engine.terminate()
        else:
            engine.stdin.close()
        rest = engine.stdout.read()

    assert json.loads(first) == {"state": "loading"}
    assert rest == b""
    assert engine.returncode == -(signal.SIGTERM if how == "terminate" else signal.SIGIO)


@pytest.mark.real_engine
@pytest.mark.timeout(300)
def test_a_launch_leaves_no_process_and_no_warning(model: Path) -> None:
    """Cancelled while it loads or left when it is ready, a launch leaves no child, no zombie and no open transport."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", TWO_LAUNCHES, str(model)],
        check=True,
        capture_output=True,
        text=True,
    )

    assert done.stdout == "cancelled, no child\nready, no child\n"
    busy = "Executing <"  # of asyncio's debug mode, where the machine is
    assert [line for line in done.stderr.splitlines() if not line.startswith(busy)] == []


@pytest.mark.real_engine
async def test_a_model_that_cannot_be_loaded_is_told(tmp_path: Path) -> None:
    """A damaged GGUF file is a LaunchError with the engine's own reason, its exit code and the mend."""
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(LaunchError, match=r"could not load damaged\.gguf: .*gguf.* \(exit code 1\); .*--model PATH"):
        async with launch(LaunchOptions(model=damaged, slots=1, context=256)):
            pytest.fail("it was loaded")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("absent.gguf", "cannot be read: No such file or directory"),
        ("text.gguf/below", "cannot be read: Not a directory"),
        ("folder", "is not a GGUF file"),
        ("text.gguf", "is not a GGUF file"),
    ],
)
async def test_a_model_that_is_no_gguf_file_is_refused(tmp_path: Path, name: str, reason: str) -> None:
    """What is no GGUF file is refused before an engine is started, with the path, the reason and the mend."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.gguf").write_text("once upon a time")
    with pytest.raises(LaunchError, match=f"{name} {reason}; give the path of a GGUF file with --model PATH"):
        async with launch(LaunchOptions(model=tmp_path / name)):
            pytest.fail("it was started")


class WithoutEngine(importlib.abc.MetaPathFinder):
    """Finds what the path holds, but for xllamacpp: this environment without the extra."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        return None if fullname == "xllamacpp" else importlib.machinery.PathFinder.find_spec(fullname, path, target)


async def test_a_missing_engine_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without xllamacpp nothing is looked for or fetched: the message names the extra to install."""
    monkeypatch.setattr(sys, "meta_path", [WithoutEngine()])
    told: list[Progress] = []
    with pytest.raises(LaunchError, match=r"pip install 'llama-orch-adapter-llamacpp\[embedded\]'"):
        async with launch(LaunchOptions(progress=told.append)):
            pytest.fail("it was started")

    assert told == []


def test_importing_the_launcher_imports_no_engine() -> None:
    """`embedded` is imported without xllamacpp."""
    lines = "import llama_orch_adapter_llamacpp.embedded, sys; print('xllamacpp' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", lines], check=True, capture_output=True, text=True)

    assert done.stdout == "False\n"


@pytest.mark.parametrize(
    ("words", "message", "cause"),
    [
        (
            ["0.00.1 E common_fit_params: a trial", "0.00.2 W odd", "0.00.3 E load: bad tensor", "E x"],
            "m",
            "load: bad tensor",
        ),
        (["0.00.2 W odd", "Traceback"], "ImportError: no lib", "ImportError: no lib"),
        (["Killed"], "", "Killed"),
        ([], "", "it said nothing"),
    ],
    ids=["log", "python", "words", "silent"],
)
def test_the_cause_is_the_first_error(words: list[str], message: str, cause: str) -> None:
    """Of the engine's last words the first error of its log is told, else its own message, else the last line."""
    assert embedded._cause(words, message) == cause


@pytest.mark.parametrize(
    ("code", "ending"),
    [(3, "exit code 3"), (-11, "killed by signal 11"), (-9, "killed by signal 9, most often for want of memory")],
)
def test_an_ending_is_told(code: int, ending: str) -> None:
    """An exit code is told as it is, a signal by its number."""
    assert embedded._ending(code) == ending


@pytest.mark.parametrize("line", [b"hello\n", b"\xff\n", b'{"state":"asleep"}\n'])
def test_what_is_no_state_is_passed_over(line: bytes) -> None:
    """Other lines on the engine's stdout are no states."""
    assert embedded._state(line) is None
