"""A host that is stopped under 500 streams of real sockets."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .conftest import quiet  # type: ignore[import-not-found]  # test folders are no packages
from .shutdown import DRAIN, SHORT, STREAMS, stop_under_streams

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.timeout(120)


def is_clean(found: dict[str, Any]) -> None:
    print(f"shutdown of {STREAMS} streams: {found['took']:.2f} s with a drain of {DRAIN} s; {found['names']}")
    assert found["took"] < DRAIN + 3
    assert found["names"] == {"WORKER_RESET drained": STREAMS, "length": SHORT}
    assert {int(count): streams for count, streams in found["endings"].items()} == {1: STREAMS + SHORT}
    assert (found["torn"], found["still_live"], found["left_open"]) == (0, 0, [0, 0, 0])
    assert found["complaints"] == []


async def test_shutdown_ends_every_stream_once():
    """Battery 30, ORCH-3600: a stop ends 500 streams within the drain and 3 s, each once, and leaves nothing open."""
    asyncio.get_running_loop().set_debug(False)  # the other test has it on
    is_clean(await stop_under_streams())


def test_shutdown_warns_of_nothing():
    """Battery 30, ORCH-3600: the same in development mode with warnings as errors says nothing on stderr."""
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.shutdown"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=100)

    assert (done.returncode, quiet(done.stderr.decode())) == (0, [])
    is_clean(json.loads(done.stdout))
