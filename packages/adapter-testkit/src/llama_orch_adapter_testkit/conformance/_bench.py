"""Where an adapter meets scripted engines: it is built as a host builds it, with a key that must not be seen again."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_type_hints

import msgspec
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterSpec,
    Capabilities,
    Message,
    Secret,
    TaskRequest,
    Timeouts,
    WorkerAdapter,
)

from .._connection import Request
from .._cuts import splits
from .._dialect import Asked, Dialect, Finish, Load, Piece
from .._dialects import LAST_CHUNK, framed
from .._engine import LoopbackEngine, Script
from .._fake import Behaviour, FakeEngine
from .._live import LiveReply
from .._outcome import Outcome, outcome
from .._reply import Ending, Reply
from ._limit import within

PIECES = (Piece("Once "), Piece("upon 🦙"), Piece("a "), Piece("naïve"), Piece(" tïme.\n"))
"""An answer: of several tokens, and of characters of one to four bytes."""

PROMPT = "words that nobody else may read"

PATIENT = Timeouts(connect=60.0)
"""200 connections at once take a busy machine longer than the 2 s that a pool gives one. The limit of a check holds."""

CLOSE = 2.0
"""Seconds that an adapter may take to close."""

IDLE = Load(slots=4, running=0, waiting=0)


@dataclass
class Bench:
    """Builds adapters of one kind, and engines for them to meet. `told` is what they narrated."""

    spec: AdapterSpec
    dialect: Dialect
    config: Callable[[str], Mapping[str, Any]]
    facts: dict[str, float] = field(default_factory=dict)
    told: list[str] = field(default_factory=list)
    key: str = field(default_factory=lambda: "canary-" + secrets.token_hex(16))
    known: Capabilities | None = None

    # --- adapters

    def adapter(self, url: str, http: Mapping[str, Any] | None = None) -> WorkerAdapter:
        """An adapter for the engine at that url. Every field of its config that takes a secret holds the key."""
        config = msgspec.convert(self.settings(url), self.spec.config_type)
        return self.spec.factory(
            AdapterContext("pool", "r0", config, PATIENT, http or {}, time.monotonic, self.told.append)
        )

    def settings(self, url: str) -> dict[str, Any]:
        """The config as the author gives it, and the key in every field that takes a secret."""
        hints = get_type_hints(self.spec.config_type)
        keys = {name: Secret(self.key) for name, hint in hints.items() if Secret in getattr(hint, "__args__", (hint,))}
        return keys | dict(self.config(url))

    @asynccontextmanager
    async def meeting(self, script: Script) -> AsyncIterator[tuple[WorkerAdapter, LoopbackEngine]]:
        """An adapter and the engine that it is for; both are closed at the end."""
        async with LoopbackEngine(script) as engine:
            adapter = self.adapter(engine.url)
            try:
                yield adapter, engine
            finally:
                await _close(adapter)

    async def answered(self, reply: Reply | Callable[[Asked], Reply], task: TaskRequest | None = None) -> Outcome:
        """What a task comes to where an engine, otherwise well, gives it this reply."""
        async with self.meeting(self.script(reply)) as (adapter, _):
            return await outcome(adapter, task or self.task())

    async def capabilities(self) -> Capabilities:
        """What the adapter says of an engine that is well; asked once."""
        if self.known is None:
            async with self.meeting(self.script(Reply.silence())) as (adapter, _):
                self.known = (await adapter.props()).capabilities
        return self.known

    # --- engines

    def script(
        self, reply: Reply | Callable[[Asked], Reply], load: Load = IDLE
    ) -> Callable[[Request], Reply | LiveReply]:
        """An engine that is well, and gives this reply to every task."""

        def answer(request: Request) -> Reply:
            asked = self.dialect.asked(request)
            if asked is None:
                return self.dialect.look(request, load) or self.dialect.refusal(404, "Not Found")
            return reply(asked) if callable(reply) else reply

        return answer

    def fake(self, behaviour: Behaviour | None = None) -> FakeEngine:
        """A fake engine that generates, and keeps a record of who left when."""
        return FakeEngine(behaviour or Behaviour(), self.dialect)

    def events(self, asked: Asked, pieces: Iterable[Piece] = PIECES, finish: Finish = "stop") -> list[bytes]:
        """The events of an answer."""
        said = [self.dialect.token(asked, piece, number) for number, piece in enumerate(pieces, 1)]
        return [*said, *self.dialect.last(asked, finish, len(said))]

    def reply(self, pieces: Sequence[Piece] = PIECES, finish: Finish = "stop") -> Callable[[Asked], Reply]:
        """A whole answer, an event a chunk."""
        return lambda asked: self.stream(map(framed, self.events(asked, pieces, finish)), last=LAST_CHUNK)

    def body(self, data: bytes, cuts: Iterable[int] = (), then: Ending | None = None) -> Reply:
        """A stream of this body, in one chunk for each piece between the cuts."""
        return self.stream(map(framed, splits(data, cuts)), last=LAST_CHUNK, then=then)

    def stream(self, chunks: Iterable[bytes], *, last: bytes = b"", then: Ending | None = None) -> Reply:
        """A stream of these bytes after the dialect's head, each piece written by itself."""
        pieces = (self.dialect.head(), *chunks, *([last] if last else []))
        return Reply(pieces, then or ("keep" if self.dialect.keeps and last else "close"))

    # --- tasks

    def task(self, **wanted: Any) -> TaskRequest:  # noqa: ANN401  # the fields of a task
        """A prompt, or what is wanted otherwise."""
        given: dict[str, Any] = {"prompt": PROMPT, "seed": 7}
        return TaskRequest(**(given | wanted))

    def chat(self, **wanted: Any) -> TaskRequest:  # noqa: ANN401  # as above
        """A message of a user."""
        given: dict[str, Any] = {"messages": (Message("user", PROMPT),), "seed": 7}
        return TaskRequest(**(given | wanted))


async def _close(adapter: WorkerAdapter) -> None:
    timer = None
    try:
        async with within(CLOSE) as timer:
            await adapter.aclose()
    except TimeoutError:
        if timer is None or not timer.expired():
            raise
        raise TimeoutError(f"aclose() was not over after {CLOSE:g} s") from None


async def turns(count: int = 20) -> None:
    """Let the loop go round, so that what was sent has been read."""
    for _ in range(count):
        await asyncio.sleep(0)
