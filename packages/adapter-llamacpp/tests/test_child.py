"""A child ends with its block, and what it said is kept."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from llama_orch_adapter_llamacpp._child import Child, child, shown

FOREVER = "import sys; sys.stdin.read()"
STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
while True: time.sleep(60)
"""


def is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_child_ends_with_its_block() -> None:
    """Leaving the block ends the child and reaps it."""
    async with child(sys.executable, "-c", FOREVER) as running:
        pid = running.pid
        alive = not is_gone(pid)

    assert alive
    assert is_gone(pid)


async def test_a_child_that_ignores_sigterm_is_killed() -> None:
    """A child that does not end when asked is killed after two seconds."""
    began = asyncio.get_running_loop().time()
    async with child(sys.executable, "-c", STUBBORN) as running:
        said = await running.line()
    took = asyncio.get_running_loop().time() - began

    assert said == b"deaf\n"
    assert is_gone(running.pid)
    assert 2 <= took < 4


async def test_a_second_cancellation_kills_at_once() -> None:
    """Cancelled while it waits for a stubborn child to end, the block kills it without the rest of the wait."""
    inside = asyncio.Event()
    started: list[Child] = []

    async def hold() -> None:
        async with child(sys.executable, "-c", STUBBORN) as running:
            await running.line()
            started.append(running)
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(hold())
    await inside.wait()
    task.cancel()
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    code = await asyncio.wait_for(started[0].ended(), 1)

    assert code == -9


async def test_the_exit_code_and_the_last_words_are_told() -> None:
    """A child that failed tells its exit code, and its last words without control characters and URLs."""
    said = r"first\n\nsee https://me:secret@127.0.0.1/simple \x1b[31mred\u202e\n"
    dying = f"import sys; sys.stderr.write('{said}'); sys.exit(7)"
    async with child(sys.executable, "-c", dying) as running:
        code = await running.ended()

    assert code == 7
    assert running.last_words == ["first", r"see [URL left out] \x1b[31mred\u202e"]


async def test_last_words_are_bounded() -> None:
    """Of a talkative child only the last 16 KiB are kept, in whole lines."""
    talkative = "import sys; [print('line', n, file=sys.stderr) for n in range(100_000)]"
    async with child(sys.executable, "-c", talkative) as running:
        await running.ended()
    words = running.last_words

    assert words[-1] == "line 99999"
    assert words == [f"line {n}" for n in range(100_000 - len(words), 100_000)]
    assert sum(map(len, words)) <= 16_384


async def test_a_child_has_a_session_of_its_own(tmp_path: Path) -> None:
    """What the terminal sends to our process group is not sent to the child."""
    async with child(sys.executable, "-c", FOREVER) as running:
        session = os.getsid(running.pid)

    assert session == running.pid != os.getsid(0)


def test_long_text_is_cut() -> None:
    """A line is shown up to 300 characters."""
    assert shown("x" * 300) == "x" * 300
    assert shown("x" * 301) == "x" * 299 + "…"
