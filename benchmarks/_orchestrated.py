"""The process that is measured: `python _orchestrated.py host|orchestratord JSON-OPTIONS`.

Its adapter speaks from memory, so that all that differs is who stands before it: `streams` loops that read the host's
streams in this process, or orchestratord and its clients in another one. With `rate` a stream gives so many tokens a
second, `burst` of them at once, woken by a timer of its own, as a socket would wake it; without, all begin at the
command `go`, and give as fast as they are let. A token's text is the moment at which it was due (ns, monotonic), at
least `width` characters.

It writes its port, then, for each line that comes on stdin, what it has come to (`facts`), and ends with stdin.
"""

import asyncio
import contextlib
import json
import os
import resource
import socket
import sys
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterSpec,
    Capabilities,
    End,
    Started,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_adapter_host import AdapterHost, Plugins
from llama_orch_orchestratord import create_app, parse_config

SLOTS = 100_000
GOLDEN = 0.618034
"""Streams begin at moments that are spread over a token's time by it."""

SETTINGS = b"""
[admission]
queue = 10000
[tasks]
limit = 20000
[stream]
unread_expiry = 3600.0
"""


class Config(msgspec.Struct):
    """Nothing to configure."""

    url: str = ""


class Paced(WorkerAdapter):
    """Speaks from memory; counts its tokens and who listens."""

    def __init__(self, rate: float, burst: int, width: int) -> None:
        self.rate = rate
        self.burst = burst
        self.width = width
        self.go = asyncio.Event()
        self.begun = self.live = self.tokens = 0

    async def health(self) -> WorkerHealth:
        """Always ready."""
        return WorkerHealth(live=True, ready=True, state="ready")

    async def props(self) -> WorkerProps:
        """It has room for all."""
        return WorkerProps(SLOTS, None, Capabilities("paced", "1", "model", datetime.now(UTC), slots=SLOTS))

    async def engine_version(self) -> str:
        """There is one."""
        return "1"

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        """As many as are asked for."""
        self.begun += 1
        self.live += 1
        try:
            yield Started("paced", "1", "model", "pool/0")
            async for event in self._paced(self.begun) if self.rate else self._eager():
                self.tokens += 1
                yield event
        finally:
            self.live -= 1
        yield End(1, 0, "stop")

    async def _paced(self, number: int) -> AsyncIterator[Token]:
        loop = asyncio.get_running_loop()
        began = loop.time() + number * GOLDEN % 1 / self.rate
        i = 0
        while True:
            due = began + i / self.rate
            rung = loop.create_future()
            loop.call_at(due, _ring, rung)
            await rung
            for _ in range(self.burst):
                yield self._token(i, due)
                i += 1

    async def _eager(self) -> AsyncIterator[Token]:
        await self.go.wait()
        i = 0
        while True:
            yield self._token(i, time.monotonic())
            i += 1
            await asyncio.sleep(0)  # the others are as eager

    def _token(self, i: int, moment: float) -> Token:
        return Token(str(int(moment * 1e9)).rjust(self.width), i)


def _ring(rung: "asyncio.Future[None]") -> None:
    if not rung.done():
        rung.set_result(None)


class Alone:
    """The host without anything before it: `delays` (ns) are of one stream in sixteen, so that they cost little."""

    def __init__(self) -> None:
        self.delays: list[int] = []

    async def read(self, host: AdapterHost, number: int) -> None:
        """A stream, until it is cancelled."""
        clock = time.monotonic_ns
        async with host.submit("pool", TaskRequest(prompt="p")) as stream:
            if number % 16:
                async for _ in stream:
                    pass
            else:
                async for event in stream:
                    if type(event) is Token:
                        self.delays.append(clock() - int(event.t))


@contextlib.asynccontextmanager
async def alone(host: AdapterHost, streams: int, read: Alone) -> AsyncIterator[int]:
    """So many streams in this process; there is no port."""
    async with host:
        await asyncio.sleep(0.3)  # it was asked what it can do
        readers = [asyncio.create_task(read.read(host, number)) for number in range(streams)]
        yield 0
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


@contextlib.asynccontextmanager
async def orchestrated(host: AdapterHost) -> AsyncIterator[int]:
    """orchestratord on a free port."""
    config = parse_config(SETTINGS + b"[server]\nshutdown = 0.0\n")
    runner = web.AppRunner(create_app(host, config), handler_cancellation=True, shutdown_timeout=1.0)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0), backlog=4096)
    await web.SockSite(runner, listener, backlog=4096).start()
    await asyncio.sleep(0.3)  # as above
    try:
        yield listener.getsockname()[1]
    finally:
        await runner.cleanup()


def facts(adapter: Paced, delays: list[int]) -> dict[str, Any]:
    """CPU seconds, tokens and bytes of memory so far, streams that run, the moment (s), and delays since last asked."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    told = {
        "cpu": used.ru_utime + used.ru_stime,
        "tokens": adapter.tokens,
        "live": adapter.live,
        "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        "moment": time.monotonic(),
        "delays": delays[:],
    }
    delays.clear()
    return told


async def main(who: str, options: dict[str, Any]) -> None:
    """Serve until stdin ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    adapter, read = Paced(options.get("rate", 0.0), options.get("burst", 1), options.get("width", 0)), Alone()
    plugins = Plugins()
    plugins.register(AdapterSpec("paced", API_VERSION, Config, lambda _: adapter))
    host = AdapterHost(plugins=plugins)
    host.bind("pool", "paced", {})
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    before = alone(host, options["streams"], read) if who == "host" else orchestrated(host)
    base = facts(adapter, [])
    async with before as port:
        print(json.dumps({"port": port, "base": base}), flush=True)
        while line := await lines.readline():
            if line == b"go\n":
                adapter.go.set()
            print(json.dumps(facts(adapter, read.delays)), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], json.loads(sys.argv[2])))
