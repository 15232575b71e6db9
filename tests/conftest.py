"""What the tests of the whole share: a real engine, and the command as a user's shell runs it."""

import asyncio
import os
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from llama_orch_adapter_api import LaunchOptions
from llama_orch_adapter_host import Plugins

SCRIPTS = Path(sysconfig.get_path("scripts"))
STRICT = {"PYTHONDEVMODE": "1", "PYTHONWARNINGS": "error", "PYTHONASYNCIODEBUG": "0"}


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
