"""What the tests of the whole share: a real engine, and the command as a user's shell runs it."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import NamedTuple

import pytest
from llama_orch_adapter_api import LaunchOptions
from llama_orch_adapter_host import Plugins

SCRIPTS = Path(sysconfig.get_path("scripts"))
STRICT = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error"}


def quiet(stderr: str) -> list[str]:
    """The lines, without those in which development mode, through asyncio's debug mode, tells of a busy machine."""
    return [line for line in stderr.splitlines() if not line.startswith("Executing <")]


@pytest.fixture(scope="session")
def engine() -> Iterator[str]:
    """The base URL of a real llama.cpp with the small model and two slots, started through its adapter's launch."""
    launch = Plugins.installed().spec("llamacpp").launch
    assert launch is not None
    ready: Future[str] = Future()
    loop = asyncio.new_event_loop()
    done = asyncio.Event()

    async def serve() -> None:
        async with launch(LaunchOptions(threads=1)) as url:
            ready.set_result(url)
            await done.wait()

    def live() -> None:
        try:
            loop.run_until_complete(serve())
        except Exception as error:  # noqa: BLE001  # told to those who wait for the engine
            ready.set_exception(error)
        finally:
            loop.close()

    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield ready.result(timeout=300)
    finally:
        if not loop.is_closed():
            loop.call_soon_threadsafe(done.set)
        thread.join()


class Serving(NamedTuple):
    """`orchestratord serve` in a process of its own, and where it listens."""

    process: "subprocess.Popen[str]"
    url: str

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        """Send a signal and wait for the end: the exit code and what was said on stderr."""
        self.process.send_signal(number)
        return self.ended()

    def ended(self) -> tuple[int, str]:
        """Wait for the end."""
        _, notes = self.process.communicate(timeout=60)
        return self.process.returncode, notes


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    """Start `orchestratord serve --json` on a free port, as strictly as `start` does, and wait until it listens."""
    processes: list[subprocess.Popen[str]] = []

    def _serve(*arguments: str, listen: str = "127.0.0.1:0", **environment: str) -> Serving:
        process = subprocess.Popen(
            [sys.executable, "-P", SCRIPTS / "orchestratord", "serve", "--json", "--listen", listen, *arguments],
            cwd=tmp_path,
            env={**os.environ, **STRICT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        processes.append(process)
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()[1]
        return Serving(process, json.loads(line).get("url", line))

    yield _serve
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., "subprocess.Popen[bytes]"]:
    """Start `adapter-host` in an empty folder, in development mode with warnings as errors."""

    def _start(*arguments: str | bytes, **environment: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [sys.executable, "-P", SCRIPTS / "adapter-host", *arguments],
            cwd=tmp_path,
            env={**os.environ, **STRICT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    return _start


@pytest.fixture
def run(start: Callable[..., "subprocess.Popen[bytes]"]) -> Callable[..., tuple[int, str, str]]:
    """Run `adapter-host` to its end: exit code, stdout, stderr."""

    def _run(*arguments: str | bytes, **environment: str) -> tuple[int, str, str]:
        with start(*arguments, **environment) as process:
            out, err = process.communicate(timeout=120)
        return process.returncode, out.decode(), err.decode()

    return _run
