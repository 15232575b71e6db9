"""Limits of time on a machine that has other things to do."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import time

import pytest
from llama_orch_adapter_testkit.conformance import _limit

WORKS = """
import asyncio, os, signal
from llama_orch_adapter_testkit.conformance._limit import run, within

async def main():
    async with within(0.5):
        os.kill(os.getpid(), signal.SIGSTOP)
        for _ in range(100):
            await asyncio.sleep(0.001)

run(main())
print("done")
"""


def test_what_others_take_does_not_count():
    """A process that others stopped for longer than its limit has as much time left as before."""
    with subprocess.Popen([sys.executable, "-c", WORKS], stdout=-1, stderr=-1, text=True) as process:
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)
        time.sleep(0.6)
        process.send_signal(signal.SIGCONT)
        said, wrong = process.communicate(timeout=15)

    assert (said, wrong) == ("done\n", "")


@pytest.mark.parametrize("waits", [asyncio.sleep, None], ids=["waits", "computes"])
def test_a_limit_ends_what_goes_on(waits: object):
    """Who waits for what does not come is stopped at the limit, and so is who computes without end."""
    seen = []

    async def main() -> None:
        began = time.monotonic()
        try:
            async with _limit.within(0.05) as timer:
                while True:
                    await asyncio.sleep(60 if waits else 0)
        except TimeoutError:
            seen.append((timer.expired(), time.monotonic() - began))

    _limit.run(main())
    assert [expired for expired, _ in seen] == [True]
    assert seen[0][1] >= 0.05


def test_what_blocks_does_not_go_on_for_ever():
    """A loop that sleeps has no time that counts: ten times the limit by the clock is the end."""
    seen = []

    async def main() -> None:
        began = time.monotonic()
        try:
            async with _limit.within(0.02):
                while True:
                    select.select([], [], [], 0.01)  # it blocks
                    await asyncio.sleep(0)
        except TimeoutError:
            seen.append(time.monotonic() - began)

    _limit.run(main())
    assert seen[0] >= 0.2


def test_it_is_over_when_the_block_is():
    """A limit that was kept stops nothing afterwards, and outside such a loop the clock on the wall counts."""

    async def main() -> None:
        async with _limit.within(0.01) as timer:
            pass
        await asyncio.sleep(0.03)
        assert not timer.expired()

    _limit.run(main())
    asyncio.run(main())
