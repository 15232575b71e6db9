"""The clients that are compared, each run in a process of its own: `python _clients.py NAME URL JSON-OPTIONS`.

A client prints its CPU time (user and system, seconds) for the work alone, without import and warm-up, as JSON; with
the option `steady`, for the stretch in which all its streams run (`Work`).
"""

import asyncio
import json
import resource
import sys
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


class Work:
    """What the streams of a round take in, and the CPU time while all of them run.

    That stretch goes from the last stream's first event to the first stream's end: without connects, request heads and
    tear-down, which no pace has. Raw and typed clients count in the same way, in the same two additions a read.
    """

    def __init__(self, streams: int) -> None:
        self.taken = 0  # of what the client counts: bytes, events, tokens
        self.reads = 0
        self._waiting = streams
        self._edges: list[tuple[float, int, int]] = []

    def stream_began(self) -> None:
        """A stream has its first event."""
        self._waiting -= 1
        if not self._waiting:
            self._mark()

    def stream_ended(self) -> None:
        """A stream came to its end."""
        if len(self._edges) == 1:
            self._mark()

    def steady(self) -> dict[str, float]:
        """CPU seconds of the stretch, its share of all that was taken, and its reads."""
        (cpu_then, taken_then, reads_then), (cpu_now, taken_now, reads_now) = self._edges
        return {
            "cpu": cpu_now - cpu_then,
            "share": (taken_now - taken_then) / self.taken,
            "reads": reads_now - reads_then,
        }

    def _mark(self) -> None:
        self._edges.append((cpu(), self.taken, self.reads))


def raw_session() -> aiohttp.ClientSession:
    """aiohttp as one would set it up for this: nothing decoded, no limit in the way."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None), auto_decompress=False
    )


async def raw_streams(url: str, streams: int, path: str) -> Work:
    """Bytes alone, undecoded: what every other figure is a ratio to."""
    work = Work(streams)
    async with raw_session() as session:

        async def one() -> None:
            async with session.post(url + path, data=msgspec.json.encode(BODY)) as response:
                chunks = response.content.iter_any()
                work.taken += len(await anext(chunks))
                work.stream_began()
                async for chunk in chunks:
                    work.taken += len(chunk)
                    work.reads += 1
            work.stream_ended()

        await asyncio.gather(*(one() for _ in range(streams)))
    return work


async def typed_streams(url: str, streams: int, path: str) -> Work:
    """http-util's typed stream: every event a Struct."""
    work = Work(streams)
    async with HttpClient(url) as client:

        async def one() -> None:
            async with client.stream(path, BODY, CHUNK) as events:
                work.taken += len(await anext(events))
                work.stream_began()
                async for batch in events:
                    work.taken += len(batch)
                    work.reads += 1
            work.stream_ended()

        await asyncio.gather(*(one() for _ in range(streams)))
    return work


async def token_streams(url: str, streams: int, path: str) -> Work:
    """The typed stream read into tokens, as an adapter does."""
    work = Work(streams)
    async with HttpClient(url) as client:

        async def one() -> None:
            answer = Answer(client.where)
            async with client.stream(path, BODY, CHUNK) as events:
                work.taken += sum(len(answer.take(chunk)) for chunk in await anext(events))
                work.stream_began()
                async for batch in events:
                    work.reads += 1
                    for chunk in batch:
                        work.taken += len(answer.take(chunk))
            work.stream_ended()

        await asyncio.gather(*(one() for _ in range(streams)))
    return work


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


CLIENTS: dict[str, Callable[[str, int, str], Awaitable[int | Work]]] = {
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
    if options.get("steady"):
        work = await client(url, count, path)
        assert isinstance(work, Work)
        print(json.dumps(work.steady()))
        return
    began = cpu()
    for _ in range(int(str(options.get("rounds", 1)))):
        await client(url, count, path)
    print(json.dumps({"cpu": cpu() - began, "share": 1}))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3])))
