"""What the tests of the client share: engines of one reply, failures told, and a measure of what they cost."""

import asyncio
import gc
import os
import resource
import secrets
import time
import zlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import Secret, WorkerError
from llama_orch_adapter_testkit import LoopbackEngine, Reply
from llama_orch_http_util import HttpClient

ANYTHING = msgspec.json.Decoder(Any)
POST = ("POST", "/tasks")
GET = ("GET", "/health")
MIB = 1 << 20
CANARY = secrets.token_hex(16)
KEY = Secret("key-" + CANARY)


class Health(msgspec.Struct, frozen=True):
    """What the engines here say of themselves."""

    status: str


HEALTH = msgspec.json.Decoder(Health)


def answering(reply: Reply) -> LoopbackEngine:
    """An engine that gives this reply to whatever is asked."""
    return LoopbackEngine(lambda _: reply)


def written(head: str, body: bytes = b"", *, hang: bool = False) -> Reply:
    """A reply of this status line and these headers, lines joined by LF."""
    return Reply.raw(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body, hang=hang)


async def failure(client: HttpClient, method: str = "GET", path: str = "/health", body: object = None) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await client.request(method, path, body)
    return caught.value


async def stream_failure(client: HttpClient) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await client.open_stream("/tasks", {"prompt": "a"}, ANYTHING)
    return caught.value


BOTH_WAYS = pytest.mark.parametrize(
    "fail",
    [failure, lambda client: failure(client, "POST", "/tasks", {}), stream_failure],
    ids=["GET", "POST", "stream"],
)
"""A whole answer without and with a body sent, and a stream."""


Fail = Callable[[HttpClient], Any]


def resident() -> int:
    """Bytes of the machine's memory that the process holds (RSS); its highest point is measured anew from here on."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@asynccontextmanager
async def measured() -> AsyncIterator[dict[str, float]]:
    """How far the process's memory (RSS) grew, and the longest time the loop was at one thing (of the CPU), at the end.

    The far end is in the same process, and counts.
    """
    seen = {"stall": 0.0}

    async def watch() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            seen["stall"] = max(seen["stall"], now - before)
            before = now

    gc.collect()  # what others left is not ours to pay for
    begun = resident()
    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        seen["peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - begun
        print(f"{seen['peak'] / MIB:+.1f} MiB, {seen['stall'] * 1000:.1f} ms")


def endless(head: str) -> Reply:
    """A gigabyte in chunks."""
    start = head.replace("\n", "\r\n").encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Reply((start, *[b"10000\r\n" + b"[" * 0x10000 + b"\r\n"] * 16_384), "close")


@cache
def bomb(coding: str) -> Reply:
    """A gigabyte of zeros, packed (gzip or deflate) into one megabyte; its last bytes, a checksum, never come."""
    packer = zlib.compressobj(9, wbits=31 if coding == "gzip" else 15)
    first, each = (packer.compress(bytes(MIB)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    packed = first + each * 1023
    head = f"HTTP/1.1 200 OK\nContent-Type: text/event-stream\nContent-Encoding: {coding}"
    return written(f"{head}\nContent-Length: {len(packed) + 8}", packed, hang=True)
