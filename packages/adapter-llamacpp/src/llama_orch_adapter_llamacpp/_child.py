"""A child process: leaving its block ends it, by any road, and what it said last is kept."""

import asyncio
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import cast

STOP = 2.0
"""Seconds between asking a child to stop and killing it."""

_TAIL = 16_384
_URL = re.compile(r"\S{0,200}://\S+")


class Child:
    """A running child. It holds the read end of a pipe as its stdin, which ends when this process does."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._stdin = cast("asyncio.StreamWriter", process.stdin)
        self._stdout = cast("asyncio.StreamReader", process.stdout)
        self._stderr = cast("asyncio.StreamReader", process.stderr)
        self._tail = b""
        self._listening = asyncio.ensure_future(self._listen())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def last_words(self) -> list[str]:
        """The last lines of its stderr, oldest first, safe to show: on one line each, and without any URL."""
        whole = self._tail if len(self._tail) < _TAIL else self._tail.partition(b"\n")[2]
        return [shown(line) for line in whole.decode(errors="replace").splitlines() if line.strip()]

    async def line(self) -> bytes:
        """The next line of its stdout; empty once that has ended."""
        return await self._stdout.readline()

    async def ended(self) -> int:
        """Its exit code, negative for a signal, when its last words are in as well."""
        await asyncio.wait({self._listening})
        return await self._process.wait()

    async def stop(self) -> None:
        """End it: ask, wait for 2 s, kill. Cancelled meanwhile, kill at once."""
        try:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    self._process.terminate()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._process.wait(), STOP)
        finally:
            if self._process.returncode is None:
                with suppress(ProcessLookupError):
                    self._process.kill()
            self._stdin.close()
        await self._process.wait()
        await asyncio.wait({self._listening}, timeout=STOP)
        self._listening.cancel()

    async def _listen(self) -> None:
        while said := await self._stderr.read(4096):
            self._tail = (self._tail + said)[-_TAIL:]


@asynccontextmanager
async def child(*command: str, environment: Mapping[str, str] | None = None) -> AsyncIterator[Child]:
    """Start a command in a session of its own, so that a Ctrl-C in the terminal is not sent to it as well."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        *command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment, start_new_session=True
    )
    running = Child(process)
    try:
        yield running
    finally:
        await running.stop()


def shown(text: str) -> str:
    """Foreign text as a person may see it: URLs left out, what does not print escaped, cut at 300 characters."""
    without = _URL.sub("[URL left out]", text.strip())
    printable = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in without)
    return printable if len(printable) <= 300 else printable[:299] + "…"
