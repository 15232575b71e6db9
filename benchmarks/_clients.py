"""The clients that are compared, each run in a process of its own: `python _clients.py NAME URL JSON-OPTIONS`.

A client prints its CPU time (user and system, seconds) for the work alone, without import and warm-up, as JSON.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Awaitable, Callable

import aiohttp
import msgspec
from llama_orch_http_util import HttpClient
from llama_orch_http_util.openai import CHUNK, Answer

BODY = {"prompt": "Tokens wait in line", "stream": True}


def cpu() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def raw_session() -> aiohttp.ClientSession:
    """aiohttp as one would set it up for this: nothing decoded, no limit in the way."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
    )


async def raw_streams(url: str, streams: int, path: str) -> int:
    """Bytes alone, undecoded: what every other figure is a ratio to."""
    async with raw_session() as session:

        async def one() -> int:
            count = 0
            async with session.post(url + path, data=msgspec.json.encode(BODY)) as response:
                async for chunk in response.content.iter_any():
                    count += len(chunk)
            return count

        return sum(await asyncio.gather(*(one() for _ in range(streams))))


async def typed_streams(url: str, streams: int, path: str) -> int:
    """http-util's typed stream: every event a Struct."""
    async with HttpClient(url) as client:

        async def one() -> int:
            count = 0
            async with client.stream(path, BODY, CHUNK) as events:
                async for batch in events:
                    count += len(batch)
            return count

        return sum(await asyncio.gather(*(one() for _ in range(streams))))


async def token_streams(url: str, streams: int, path: str) -> int:
    """The typed stream read into tokens, as an adapter does."""
    async with HttpClient(url) as client:

        async def one() -> int:
            count = 0
            answer = Answer(client.where)
            async with client.stream(path, BODY, CHUNK) as events:
                async for batch in events:
                    for chunk in batch:
                        count += len(answer.take(chunk))
            return count

        return sum(await asyncio.gather(*(one() for _ in range(streams))))


async def raw_short(url: str, count: int, _: str) -> int:
    """Short requests one after the other with raw aiohttp."""
    async with raw_session() as session:
        for _number in range(count):
            async with session.get(f"{url}/short") as response:
                msgspec.json.decode(await response.read())
    return count


async def typed_short(url: str, count: int, _: str) -> int:
    """The same through http-util."""
    decoder = msgspec.json.Decoder()
    async with HttpClient(url) as client:
        for _number in range(count):
            (await client.request("GET", "/short")).decode(decoder, "/short")
    return count


CLIENTS: dict[str, Callable[[str, int, str], Awaitable[int]]] = {
    "raw_streams": raw_streams,
    "typed_streams": typed_streams,
    "token_streams": token_streams,
    "raw_short": raw_short,
    "typed_short": typed_short,
}


async def main(name: str, url: str, options: dict[str, object]) -> None:
    """Run one client: a warm-up, then the rounds that count."""
    client = CLIENTS[name]
    count, path = int(str(options["count"])), str(options.get("path", ""))
    for _ in range(int(str(options.get("warm_up", 1)))):
        await client(url, count, path)
    began, wall = cpu(), time.perf_counter()
    for _ in range(int(str(options.get("rounds", 1)))):
        await client(url, count, path)
    print(json.dumps({"cpu": cpu() - began, "wall": time.perf_counter() - wall}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
