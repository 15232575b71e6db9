"""The clients of the HTTP/2 suite, each run in a process of its own: `python _http2_clients.py NAME URL JSON-OPTIONS`.

A client, warmed up by one request, opens its streams, and only when the first event of every one is here its time
begins. It prints, as JSON, CPU seconds and events of the time that counts, CPU seconds for the opening, and the memory
of the process with all streams open.
"""

import asyncio
import json
import ssl
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec
from _clients import BODY, cpu  # noqa: PLC2701  # scripts that are not started by hand
from llama_orch_http_util import HttpClient, HttpConfig
from llama_orch_http_util.openai import CHUNK

Version = Literal["1.1", "2"]
Client = Callable[[str, str, int, str], Awaitable[dict[str, float]]]

PAGE = 4096


def resident() -> int:
    """Bytes of this process that are in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE


class Gauge:
    """Waits until every stream is open, then takes the time of the rest."""

    def __init__(self, streams: int) -> None:
        self._missing = streams
        self._open = asyncio.Event()
        self._began = cpu()
        self.events = 0
        self.figures: dict[str, float] = {}

    async def opened(self) -> None:
        """One more stream has its first event; returns when all have."""
        self._missing -= 1
        if not self._missing:
            self.figures = {"opening": cpu() - self._began, "rss": resident()}
            self._began, self._wall = cpu(), time.perf_counter()
            self._open.set()
        await self._open.wait()

    def done(self) -> dict[str, float]:
        """All figures."""
        wall = time.perf_counter() - self._wall
        return {**self.figures, "cpu": cpu() - self._began, "wall": wall, "units": self.events}


def session(ca: str) -> aiohttp.ClientSession:
    """aiohttp as one would set it up for this: nothing decoded, no limit in the way."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, ssl=ssl.create_default_context(cafile=ca)),
        timeout=aiohttp.ClientTimeout(total=None),
        auto_decompress=False,
    )


def config(ca: str, version: Version, *, direct: bool = True) -> HttpConfig:
    """Connecting may take as long as it takes aiohttp: a thousand handshakes at once are many."""
    return HttpConfig(ca_file=Path(ca), http_version=version, connect=60, http2_direct_data=direct)


async def aiohttp_streams(url: str, ca: str, streams: int, path: str) -> dict[str, float]:
    """Raw aiohttp over TLS, undecoded, a connection a stream."""
    async with session(ca) as raw:
        await (await raw.get(f"{url}/short")).read()
        gauge = Gauge(streams)

        async def one() -> None:
            async with raw.post(url + path, data=msgspec.json.encode(BODY)) as response:
                chunks = response.content.iter_any()
                await anext(chunks)
                await gauge.opened()
                async for chunk in chunks:
                    gauge.events += chunk.count(b"data: {")

        await asyncio.gather(*(one() for _ in range(streams)))
        return gauge.done()


def typed_streams(
    version: Version, *, direct: bool = True
) -> Callable[[str, str, int, str], Awaitable[dict[str, float]]]:
    """http-util's typed streams over one version of HTTP."""

    async def run(url: str, ca: str, streams: int, path: str) -> dict[str, float]:
        async with HttpClient(url, config(ca, version, direct=direct)) as client:
            await client.request("GET", "/short")
            gauge = Gauge(streams)

            async def one() -> None:
                async with client.stream(path, BODY, CHUNK) as events:
                    await anext(events)
                    await gauge.opened()
                    async for batch in events:
                        gauge.events += len(batch)

            await asyncio.gather(*(one() for _ in range(streams)))
            return gauge.done()

    return run


async def aiohttp_short(url: str, ca: str, count: int, _: str) -> dict[str, float]:
    """Short requests one after the other with raw aiohttp, on a kept connection."""
    async with session(ca) as raw:

        async def one() -> None:
            async with raw.get(f"{url}/short") as response:
                msgspec.json.decode(await response.read())

        return await short(one, count)


def typed_short(version: Version) -> Client:
    """The same through http-util."""

    async def run(url: str, ca: str, count: int, _: str) -> dict[str, float]:
        decoder = msgspec.json.Decoder()
        async with HttpClient(url, config(ca, version)) as client:

            async def one() -> None:
                (await client.request("GET", "/short")).decode(decoder, "/short")

            return await short(one, count)

    return run


async def short(one: Callable[[], Awaitable[None]], count: int) -> dict[str, float]:
    """The figures of `count` requests, after some that do not count."""
    for _ in range(50):
        await one()
    began = cpu()
    for _ in range(count):
        await one()
    return {"cpu": cpu() - began, "units": count}


CLIENTS = {
    "aiohttp_streams": aiohttp_streams,
    "typed_1.1_streams": typed_streams("1.1"),
    "typed_2_streams": typed_streams("2"),
    "typed_2_through_h2": typed_streams("2", direct=False),
    "aiohttp_short": aiohttp_short,
    "typed_1.1_short": typed_short("1.1"),
    "typed_2_short": typed_short("2"),
}


async def main(name: str, url: str, options: dict[str, Any]) -> None:
    """Run one client."""
    print(json.dumps(await CLIENTS[name](url, options["ca"], options["count"], options["path"])))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
