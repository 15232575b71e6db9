"""What the host adds to an adapter: `python _hosted.py CALLS TOKENS REPLICAS STREAMS ROUNDS`.

The adapters yield from memory, so that all that differs is the host. Used directly and through the host by turns, in
one process, `STREAMS` at a time, with each of the `REPLICAS` (as `2,10,100`) by turns too; as many adapters are used
directly, drawn by chance as the host draws them, since to reach a thousand of anything costs more than to reach one.
Printed is, as JSON and for each number of replicas, what each round's host added to a call, in microseconds, and the
ratio of both to the adapters alone.
"""

import asyncio
import gc
import json
import random
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import msgspec
from llama_orch_adapter_api import (
    AdapterSpec,
    End,
    Started,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_adapter_host import AdapterHost, Plugins, PoolPolicy

STARTED = Started("words", "1", "model", "pool/0")

WARM_UP = 30
"""Calls that each replica gets first: with 20 its breaker knows it, and a call costs less from then on."""


class Config(msgspec.Struct):
    """Nothing to configure."""

    url: str = ""


class Words(WorkerAdapter):
    """Yields so many tokens, each after a turn of the loop where streams run side by side."""

    def __init__(self, tokens: int, *, turns: bool) -> None:
        self.events = [STARTED, *(Token("word", i) for i in range(tokens))]
        self.end = End(1, tokens, "stop")
        self.turns = turns

    async def health(self) -> WorkerHealth:
        """Always ready."""
        return WorkerHealth(live=True, ready=True, state="ready")

    async def props(self) -> WorkerProps:
        """Nothing is counted."""
        raise NotImplementedError

    async def engine_version(self) -> str:
        """There is one."""
        return "1"

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        """All of them."""
        for event in self.events:
            if self.turns:
                await asyncio.sleep(0)
            yield event
        yield self.end


class Bench:
    """A host with so many replicas, and the same adapters without it."""

    def __init__(self, host: AdapterHost, replicas: int, tokens: int, *, turns: bool) -> None:
        self.host = host
        self.replicas = replicas
        self.alone = [Words(tokens, turns=turns) for _ in range(replicas)]
        self.added: list[float] = []
        self.ratios: list[float] = []
        for number in range(replicas):
            host.bind("pool", "words", {}, replica_id=str(number), policy=PoolPolicy())

    async def direct(self, request: TaskRequest) -> None:
        """Without the host."""
        async for _ in self.alone[int(random.random() * self.replicas)].submit(request):
            pass

    async def hosted(self, request: TaskRequest) -> None:
        """Through it."""
        async with self.host.submit("pool", request) as stream:
            async for _ in stream:
                pass

    async def round(self, calls: int, streams: int) -> None:
        """Both, once."""
        requests = [TaskRequest(prompt="p") for _ in range(calls)]
        plain = await cost(self.direct, requests, streams)
        whole = await cost(self.hosted, requests, streams)
        self.added.append((whole - plain) / calls * 1e6)
        self.ratios.append(whole / plain)


async def cost(one: Callable[[TaskRequest], Awaitable[None]], requests: list[TaskRequest], streams: int) -> float:
    """CPU seconds for all of them, so many side by side."""
    gc.collect()
    began = time.process_time()
    for first in range(0, len(requests), streams):
        if streams == 1:
            await one(requests[first])
        else:
            await asyncio.gather(*(one(request) for request in requests[first : first + streams]))
    return time.process_time() - began


async def main(calls: int, tokens: int, replicas: list[int], streams: int, rounds: int) -> None:
    """Take turns."""
    turns = streams > 1
    plugins = Plugins()
    plugins.register(AdapterSpec("words", 1, Config, lambda _: Words(tokens, turns=turns)))
    async with AsyncExitStack() as stack:
        hosts = [await stack.enter_async_context(AdapterHost(plugins=plugins)) for _ in replicas]
        benches = [Bench(host, count, tokens, turns=turns) for host, count in zip(hosts, replicas, strict=True)]
        await asyncio.sleep(0.5)  # each was asked how it is
        for bench in benches:
            await bench.round(max(calls, WARM_UP * bench.replicas), streams)
            bench.added, bench.ratios = [], []
        for _ in range(rounds):
            for bench in benches:
                await bench.round(calls, streams)
        print(json.dumps([[bench.added, bench.ratios] for bench in benches]))


if __name__ == "__main__":
    calls, tokens, replicas, streams, rounds = sys.argv[1:]
    asyncio.run(main(int(calls), int(tokens), [*map(int, replicas.split(","))], int(streams), int(rounds)))
