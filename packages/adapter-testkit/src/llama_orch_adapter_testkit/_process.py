"""A fake engine in a process of its own: it can be killed, and what it sees does not wait for the one who tests."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Self, cast

from ._fake import Behaviour

_REPORT = 64 * 1024 * 1024
"""Bytes of a report at most."""

_START = 30.0
_FAREWELL = 5.0
"""Seconds that an engine may take to start, and to tell how it fared; one that was stopped does not."""


@dataclass(frozen=True)
class Seen:
    """A generation as the engine saw it; moments are on `time.monotonic()`, here as there.

    `tokens` were made and `sent` bytes written, to the socket's buffer. `ended` and `ending` (`left`, `answered`) are
    None while it streams.
    """

    subject: str
    tokens: int
    sent: int
    began: float
    ended: float | None
    ending: str | None


@dataclass(frozen=True)
class Report:
    """What an engine saw: the generations that run, those that ended since the last report, and counts.

    `failures` are exceptions of the engine's own, a line each.
    """

    live: tuple[Seen, ...]
    ended: tuple[Seen, ...]
    connections: int
    connections_made: int
    refused: int
    resets_of_reused: int
    failures: tuple[str, ...] = ()

    @classmethod
    def of(cls, line: bytes) -> Self:
        """From its line of JSON."""
        facts: dict[str, Any] = json.loads(line)
        for name in ("live", "ended"):
            facts[name] = tuple(Seen(*each) for each in facts[name])
        facts["failures"] = tuple(facts["failures"])
        return cls(**facts)


class EngineProcess:
    """A fake engine on 127.0.0.1 that lives as long as its `async with` block, and no longer than this process.

    An exception in it is told where the block ends, unless it was killed before.
    """

    def __init__(self, behaviour: Behaviour | None = None) -> None:
        self.behaviour = behaviour or Behaviour()
        self.url = ""
        self.pid = 0

    async def __aenter__(self) -> Self:
        options = json.dumps(self.behaviour.options())
        command = [sys.executable, "-P", "-m", __package__, options]
        process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE, limit=_REPORT)
        self._process: Process = process
        self._stdin = cast("asyncio.StreamWriter", process.stdin)
        self._stdout = cast("asyncio.StreamReader", process.stdout)
        self._asking = asyncio.Lock()
        try:
            async with asyncio.timeout(_START):
                hello: Mapping[str, str] = json.loads(await self._stdout.readline() or b"{}")
            if not hello:
                raise RuntimeError("a fake engine ended before it was ready; what it said stands on stderr")
        except BaseException:
            await self.kill()
            raise
        self.url, self.pid = hello["url"], process.pid
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        failures: tuple[str, ...] = ()
        try:
            with suppress(ConnectionError, TimeoutError):
                async with asyncio.timeout(_FAREWELL):
                    failures = (await self.report()).failures
        finally:
            await self.kill()
        if failures and error is None:
            raise RuntimeError(f"the fake engine failed: {failures[0]}")

    async def report(self) -> Report:
        """What it saw. Raises `ConnectionError` where it has ended."""
        async with self._asking:
            self._stdin.write(b"\n")
            await self._stdin.drain()
            line = await self._stdout.readline()
        if not line:
            raise ConnectionResetError("the fake engine has ended")
        return Report.of(line)

    async def ended(self) -> int:
        """Its exit code, negative for a signal, as soon as it has ended."""
        return await self._process.wait()

    async def kill(self) -> None:
        """SIGKILL, and wait until nothing of it is left. May be called again."""
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()
        self._stdin.close()
        with suppress(ConnectionError):
            await self._stdin.wait_closed()
        await self._stdout.read()
