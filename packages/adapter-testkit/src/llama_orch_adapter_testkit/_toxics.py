"""What a network does to an answer: seven ways to spoil it, one after the other, inside the engine."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Literal, Self

from ._live import Cut, Pieces

ToxicKind = Literal["latency", "bandwidth", "slow_close", "timeout", "reset", "slicer", "limit_data"]


@dataclass(frozen=True, kw_only=True)
class Toxic:
    """One way to spoil an answer. It begins after `after` bytes, framing and head included; spans are in seconds.

    - `latency`: each piece comes `seconds` late.
    - `bandwidth`: `rate` bytes a second.
    - `slow_close`: the end of the answer comes `seconds` late.
    - `timeout`: nothing comes any more, and the connection is closed `seconds` later, never if that is 0.
    - `reset`: a TCP reset, `seconds` later.
    - `slicer`: pieces of `size` bytes, `seconds` apart.
    - `limit_data`: the connection is closed.
    """

    kind: ToxicKind
    after: int = 0
    seconds: float = 0.0
    rate: int = 1 << 20
    size: int = 1

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From its fields by name, as JSON has them."""
        return cls(**options)


def spoilt(pieces: Pieces, toxics: Iterable[Toxic]) -> Pieces:
    """The pieces with every toxic applied, the first one nearest to the engine."""
    for toxic in toxics:
        pieces = _spoilt(pieces, toxic)
    return pieces


async def _spoilt(pieces: Pieces, toxic: Toxic) -> AsyncGenerator[bytes, None]:
    before = toxic.after  # bytes that are let through as they are
    apply = _WAYS[toxic.kind]
    async with aclosing(pieces):
        async for piece in pieces:
            if piece[:before]:
                yield piece[:before]
            rest, before = piece[before:], max(0, before - len(piece))
            if rest:
                async for part in apply(rest, toxic):
                    yield part
    if toxic.kind == "slow_close":
        await asyncio.sleep(toxic.seconds)


async def _late(piece: bytes, toxic: Toxic) -> AsyncGenerator[bytes, None]:
    await asyncio.sleep(toxic.seconds)
    yield piece


async def _slow(piece: bytes, toxic: Toxic) -> AsyncGenerator[bytes, None]:
    await asyncio.sleep(len(piece) / toxic.rate)
    yield piece


async def _as_it_is(piece: bytes, _: Toxic) -> AsyncGenerator[bytes, None]:
    yield piece


async def _nothing_more(_: bytes, toxic: Toxic) -> AsyncGenerator[bytes, None]:
    if not toxic.seconds:
        raise Cut("hang")
    await asyncio.sleep(toxic.seconds)
    raise Cut("close")
    yield b""


async def _reset(_: bytes, toxic: Toxic) -> AsyncGenerator[bytes, None]:
    await asyncio.sleep(toxic.seconds)
    raise Cut("reset")
    yield b""


async def _sliced(piece: bytes, toxic: Toxic) -> AsyncGenerator[bytes, None]:
    for start in range(0, len(piece), toxic.size):
        yield piece[start : start + toxic.size]
        await asyncio.sleep(toxic.seconds)


async def _no_more_data(_: bytes, __: Toxic) -> AsyncGenerator[bytes, None]:
    raise Cut("close")
    yield b""


_WAYS: dict[ToxicKind, Callable[[bytes, Toxic], AsyncGenerator[bytes, None]]] = {
    "latency": _late,
    "bandwidth": _slow,
    "slow_close": _as_it_is,
    "timeout": _nothing_more,
    "reset": _reset,
    "slicer": _sliced,
    "limit_data": _no_more_data,
}
