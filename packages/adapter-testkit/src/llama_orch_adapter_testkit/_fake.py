"""A fake engine: it answers as llama.cpp or vLLM would, at the pace and with the faults that it is told.

The text of a token says whose and which it is: token 3 of the prompt "a" is "a.3 ". A request may bring behaviour of
its own in its body, under `fake`.
"""

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from ._connection import Request
from ._dialect import Asked, Dialect, Load, Piece
from ._dialects import DIALECTS, LAST_CHUNK, DialectName, framed
from ._live import LiveReply, Pieces
from ._reply import Reply
from ._toxics import Toxic, spoilt


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """What a fake engine is like; spans in seconds.

    `slots` work at once, further requests wait in it. `tokens` are given where a request names no number, the first
    after `prefill`, then one every `pace`; each is `padding` characters long at least and, if `stamped`, tells its
    moment after an "@". For `loading` after its start it answers 503. `refuse` is by status the share of generations
    refused, with `retry_after`; chance has `seed`.

    It drops a kept connection after `idle`, closes any after `per_connection` requests, and answers each
    `reset_reused`-th request on a kept one by a reset. After `die_after` bytes of all that it writes, SIGKILL ends its
    process. `send_buffer` bounds, in bytes, what the system takes of an answer that nobody reads. It listens at `port`,
    0 being any free one: with that of one that died, it comes back in its place.
    """

    dialect: DialectName = "llamacpp"
    slots: int = 4
    tokens: int = 16
    pace: float = 0.0
    prefill: float = 0.0
    padding: int = 0
    stamped: bool = False
    loading: float = 0.0
    refuse: Mapping[int, float] = field(default_factory=dict)
    retry_after: float | None = None
    seed: int = 0
    idle: float | None = 5.0
    per_connection: int = 0
    reset_reused: int = 0
    die_after: int | None = None
    send_buffer: int | None = None
    port: int = 0
    toxics: tuple[Toxic, ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """From its fields by name, as JSON has them."""
        given = dict(options)
        given["toxics"] = tuple(Toxic.of(each) for each in given.get("toxics", ()))
        given["refuse"] = {int(status): share for status, share in given.get("refuse", {}).items()}
        return cls(**given)

    def for_request(self, body: Mapping[str, Any]) -> Self:
        """This behaviour with what the request wants otherwise."""
        own = body.get("fake")
        return self.of(self.options() | own) if own else self

    def options(self) -> dict[str, Any]:
        """Its fields by name, for JSON; `of` is the way back."""
        return {each.name: getattr(self, each.name) for each in fields(self)} | {
            "toxics": [asdict(toxic) for toxic in self.toxics]
        }


@dataclass(eq=False)
class Generation:
    """A stream of tokens as the engine saw it; moments on `time.monotonic()`, which all processes of a machine share.

    `subject` is what was asked, its first 60 characters. `ending` is that of `Request`.
    """

    request: Request = field(repr=False)
    subject: str = ""
    tokens: int = 0

    @property
    def began(self) -> float:
        """When the request was in."""
        return self.request.received_at

    @property
    def ended(self) -> float | None:
        """When the answer was out, or the client gone; None while it streams."""
        return self.request.ended_at

    @property
    def ending(self) -> str | None:
        """How it ended, None while it streams."""
        return self.request.ending


class FakeEngine:
    """A script for `LoopbackEngine`, or, through `EngineProcess`, for one in a process of its own.

    It speaks the dialect that its behaviour names, or `dialect` instead.
    """

    def __init__(self, behaviour: Behaviour, dialect: Dialect | None = None) -> None:
        self.behaviour = behaviour
        self._dialect = dialect or DIALECTS[behaviour.dialect]
        self.generations: list[Generation] = []
        self.refused = 0
        self.resets_of_reused = 0
        self._reused = 0
        self._chance = random.Random(behaviour.seed)
        self._ready_at = time.monotonic() + behaviour.loading
        self._free = asyncio.Semaphore(behaviour.slots)
        self._waiting = 0  # tasks that no slot is free for
        self._running: dict[Generation, int | None] = {}  # with their seeds
        self._left = behaviour.die_after

    def __call__(self, request: Request) -> Reply | LiveReply:
        """What the request gets."""
        behaviour = self.behaviour
        if behaviour.reset_reused and request.number:
            self._reused += 1
            if self._reused % behaviour.reset_reused == 0:
                self.resets_of_reused += 1
                return Reply((), "reset")
        reply = self._answer(request)
        last_one = behaviour.per_connection and request.number + 1 >= behaviour.per_connection
        if last_one and reply.then == "keep":
            reply = replace(reply, then="close")
        return self._metered(reply)

    def _answer(self, request: Request) -> Reply | LiveReply:
        dialect = self._dialect
        if time.monotonic() < self._ready_at:
            return dialect.refusal(503, "Loading model")
        asked = dialect.asked(request)
        if asked is None or asked.workload != "completion":
            seeds = tuple(self._running.values())
            load = Load(self.behaviour.slots, len(seeds), self._waiting, seeds)
            return dialect.look(request, load) or dialect.refusal(404, "Not Found")
        behaviour = self.behaviour.for_request(asked.body)
        for status, share in behaviour.refuse.items():
            if self._chance.random() < share:
                self.refused += 1
                return dialect.refusal(status, "refused by chance", behaviour.retry_after)
        generation = Generation(request, asked.subject[:60])
        self.generations.append(generation)
        pieces = spoilt(self._stream(generation, asked, behaviour), behaviour.toxics)
        return LiveReply(pieces, "keep" if dialect.keeps else "close")

    async def _stream(self, generation: Generation, asked: Asked, behaviour: Behaviour) -> AsyncGenerator[bytes, None]:
        dialect = self._dialect
        yield dialect.head()
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        self._running[generation] = asked.body.get("seed")
        try:
            await asyncio.sleep(behaviour.prefill)
            tokens = behaviour.tokens if asked.tokens is None else asked.tokens
            for number in range(tokens):
                stamp = f"@{time.monotonic():.6f}" if behaviour.stamped else ""
                text = f"{generation.subject}.{number}{stamp} ".ljust(behaviour.padding)
                generation.tokens += 1
                yield framed(dialect.token(asked, Piece(text), number + 1))
                await asyncio.sleep(behaviour.pace)
            yield b"".join(map(framed, dialect.last(asked, "length", tokens))) + LAST_CHUNK
        finally:
            del self._running[generation]
            self._free.release()

    # --- its own death

    def _metered(self, reply: Reply | LiveReply) -> Reply | LiveReply:
        if self._left is None:
            return reply
        pieces = _given(reply.pieces) if isinstance(reply, Reply) else reply.pieces
        return LiveReply(self._until_death(pieces), reply.then)

    async def _until_death(self, pieces: Pieces) -> AsyncGenerator[bytes, None]:
        async for piece in pieces:
            assert self._left is not None  # noqa: S101  # else it is not metered
            if len(piece) < self._left:
                self._left -= len(piece)
                yield piece
                continue
            last_bytes, self._left = piece[: self._left], 0
            if last_bytes:  # they are written before the loop goes on
                asyncio.get_running_loop().call_soon(os.kill, os.getpid(), signal.SIGKILL)
                yield last_bytes
            await asyncio.Event().wait()


async def _given(pieces: tuple[bytes, ...]) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece
