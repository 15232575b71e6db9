"""Spans that a person would feel, on real sockets before engines in processes of their own (battery 9, 12, 27, 28).

The tests hold them to ten times their bars, on whatever machine; `benchmarks/host.py` prints them beside the bars.
"""

import asyncio
import contextlib
import random
import resource
import time
from collections.abc import Iterator
from typing import NamedTuple

from llama_orch_adapter_api import Token
from llama_orch_adapter_host import AdapterHost, TokenStream
from llama_orch_adapter_testkit import Behaviour, Seen

from .cancels import ROADS, drop
from .fleet import ENDLESS, fleet, left, quantile, resident, task

AT_ONCE = 4
OPENED_AT_ONCE = 100
PADDING = 1000


class Cancels(NamedTuple):
    """What the engine saw of cancelled tasks, after how many seconds, and how many tokens came after the answer."""

    seen: dict[str, Seen]
    spans: list[float]
    late: int


async def cancels(dialect: str, count: int, chance: random.Random) -> Cancels:
    """Cancel at any point by any road."""
    moments: dict[str, float] = {}
    late = 0

    async def some(host: AdapterHost, numbers: range) -> None:
        nonlocal late
        for number in numbers:
            request = task(str(number), prefill=chance.choice([0, 0.005]), pace=0.001)
            moments[str(number)], after = await chance.choice(ROADS)(host, request, chance.uniform(0, 0.02))
            late += after

    async with fleet(Behaviour.of({"dialect": dialect, "slots": ENDLESS})) as (host, [engine]):
        await asyncio.gather(*(some(host, range(first, count, AT_ONCE)) for first in range(AT_ONCE)))
        report = await engine.report()
        seen = {each.subject: each for each in report.ended} | await left(engine, {e.subject for e in report.live}, 5)
    return Cancels(seen, _since(moments, seen), late)


class Dropped(NamedTuple):
    """After how many seconds the engine saw each stream go that was forgotten, and how many it still works on."""

    spans: list[float]
    live: int


async def dropped(dialect: str, count: int, chance: random.Random) -> Dropped:
    """Read some events, and forget the stream."""
    moments: dict[str, float] = {}

    async def some(host: AdapterHost, numbers: range) -> None:
        for number in numbers:
            moments[str(number)] = await drop(host, str(number), chance.randint(0, 4))

    async with fleet(Behaviour.of({"dialect": dialect, "slots": ENDLESS})) as (host, [engine]):
        await asyncio.gather(*(some(host, range(first, count, AT_ONCE)) for first in range(AT_ONCE)))
        seen = await left(engine, set(moments), 5)
        live = (await engine.report()).live
    return Dropped(_since(moments, seen), len(live))


class Crowded(NamedTuple):
    """Beside so many connections: seconds that health took, and cancel, and how many of those the engine saw."""

    connections: int
    asked: list[float]
    cancelled: list[float]
    seen: int


async def crowded(dialect: str, count: int, asks: int) -> Crowded:
    """Ask for health and cancel a stream, with so many streams open."""
    asked: list[float] = []
    cancelled: list[float] = []
    async with fleet(Behaviour.of({"dialect": dialect, "slots": 2 * count, "pace": 5.0})) as (host, [engine]):
        streams = await _opened(host, count)
        connections = (await engine.report()).connections
        for stream in streams[:asks]:
            began = time.monotonic()
            health = await host.health("chat")
            asked.append(time.monotonic() - began)
            began = time.monotonic()
            receipt = await host.cancel("chat", stream.task_id)
            cancelled.append(time.monotonic() - began)
            assert (health["0"].ready, receipt.outcome) == (True, "cancelled")
        seen = await left(engine, {str(number) for number in range(asks)}, 5)
        await asyncio.gather(*(stream.aclose() for stream in streams))
    return Crowded(connections, asked, cancelled, len(seen))


class Stopped(NamedTuple):
    """Beside consumers that stopped: bytes in flight to each, memory that grew, and the other streams' p99 delays.

    `usual` is that delay without them, in seconds as `now` is; `read` are the texts that some of them read afterwards.
    """

    in_flight: list[int]
    grown: int
    usual: float
    now: float
    read: list[list[str]]


async def stopped(dialect: str, count: int, tokens: int, others: int = 10) -> Stopped:
    """Let so many consumers stop, while others read on."""
    frugal = Behaviour.of({"dialect": dialect, "slots": ENDLESS, "send_buffer": 64 * 1024})
    async with fleet(frugal) as (host, [engine]):
        alone = await asyncio.gather(*(_delays(host, f"alone-{number}", tokens) for number in range(others)))
        memory = resident()
        streams = await _opened(host, count, padding=PADDING)
        beside = await asyncio.gather(*(_delays(host, f"beside-{number}", tokens) for number in range(others)))
        grown = resident() - memory
        in_flight = [seen.sent for seen in (await engine.report()).live]
        events = [[await anext(stream) for _ in range(300)] for stream in streams[:3]]
        await asyncio.gather(*(stream.aclose() for stream in streams))
    usual, now = (quantile([span for spans in both for span in spans], 0.99) for both in (alone, beside))
    read = [[event.t.strip() for event in some if isinstance(event, Token)] for some in events]
    return Stopped(in_flight, grown, usual, now, read)


@contextlib.contextmanager
def many_descriptors() -> Iterator[None]:
    """As many descriptors as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def _opened(host: AdapterHost, count: int, **fake: object) -> list[TokenStream]:
    """So many streams, each past its first token."""
    streams: list[TokenStream] = []
    for first in range(0, count, OPENED_AT_ONCE):
        some = range(first, min(first + OPENED_AT_ONCE, count))
        streams += await asyncio.gather(*(host.submit("chat", task(str(number), **fake)) for number in some))
    return streams


async def _delays(host: AdapterHost, name: str, tokens: int) -> list[float]:
    """How late each token of a paced stream was delivered."""
    spans = []
    async with host.submit("chat", task(name, max_tokens=tokens, pace=0.01, stamped=True)) as stream:
        async for event in stream:
            if isinstance(event, Token):
                made = float(event.t.split("@")[1])
                spans.append(time.monotonic() - made)
    return spans


def _since(moments: dict[str, float], seen: dict[str, Seen]) -> list[float]:
    """Seconds from each moment until the engine saw the task's end."""
    return [each.ended - moments[subject] for subject, each in seen.items() if each.ended is not None]
