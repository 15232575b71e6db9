"""What the host adds to an adapter: `python _hosted.py CALLS TOKENS REPLICAS STREAMS ROUNDS`.

The adapter yields from memory, so that all that differs is the host. Used directly and through the host by turns, in
one process, `STREAMS` at a time; printed is, as JSON, what each round's host added to a call, in microseconds, and the
ratio of both to the adapter alone.
"""

import asyncio
import gc
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable

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


async def direct(adapter: WorkerAdapter, request: TaskRequest) -> None:
    """Without a host."""
    async for _ in adapter.submit(request):
        pass


async def hosted(host: AdapterHost, request: TaskRequest) -> None:
    """Through it."""
    async with host.submit("pool", request) as stream:
        async for _ in stream:
            pass


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


async def main(calls: int, tokens: int, replicas: int, streams: int, rounds: int) -> None:
    """Take turns."""
    plugins = Plugins()
    adapter = Words(tokens, turns=streams > 1)
    plugins.register(AdapterSpec("words", 1, Config, lambda _: Words(tokens, turns=streams > 1)))
    async with AdapterHost(plugins=plugins) as host:
        for number in range(replicas):
            host.bind("pool", "words", {}, replica_id=str(number), policy=PoolPolicy())
        await asyncio.sleep(0.5)  # each was asked how it is
        added: list[float] = []
        ratios: list[float] = []
        for number in range(rounds + 1):
            requests = [TaskRequest(prompt="p") for _ in range(calls)]
            plain = await cost(lambda request: direct(adapter, request), requests, streams)
            whole = await cost(lambda request: hosted(host, request), requests, streams)
            if number:  # the first is a warm-up
                added.append((whole - plain) / calls * 1e6)
                ratios.append(whole / plain)
        print(json.dumps([added, ratios]))


if __name__ == "__main__":
    asyncio.run(main(*map(int, sys.argv[1:])))
