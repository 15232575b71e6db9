"""What the tests with real sockets share: a host before fake engines, one task's whole life, and a count of leaks."""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from llama_orch_adapter_api import End, TaskRequest, Timeouts, Token, TokenEvent, WorkerError
from llama_orch_adapter_host import AdapterHost, BreakerPolicy, PoolPolicy, RetryPolicy
from llama_orch_adapter_testkit import Behaviour, EngineProcess, Seen

ENDLESS = 1_000_000
"""Tokens that no engine here comes to the end of."""

NEVER_OPENS = BreakerPolicy(consecutive=ENDLESS, minimum=1000, window=1000, share=1.0)
NO_BUDGET = RetryPolicy(budget=0, earn=0)


class Census(NamedTuple):
    """What this process holds open."""

    descriptors: int
    sockets: int
    tasks: int


def census() -> Census:
    """A count, now."""
    places = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    return Census(len(places), sum(place.startswith("socket:") for place in places), len(asyncio.all_tasks()))


async def back_to(before: Census) -> Census:
    """The census as soon as it is as before, else as it is after a second."""
    for _ in range(100):
        if census() == before:
            break
        await asyncio.sleep(0.01)
    return census()


def resident() -> int:
    """Bytes of memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def quantile(values: list[float], share: float) -> float:
    """What that share of the values stays below."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def told(name: str, spans: list[float]) -> str:
    """A line of figures, in milliseconds."""
    figures = {"p50": quantile(spans, 0.5), "p99": quantile(spans, 0.99), "max": max(spans)}
    return f"{name}: " + ", ".join(f"{label} {1000 * value:.1f} ms" for label, value in figures.items())


@asynccontextmanager
async def fleet(
    *behaviours: Behaviour, policy: PoolPolicy | None = None, timeouts: Timeouts | None = None
) -> AsyncIterator[tuple[AdapterHost, list[EngineProcess]]]:
    """A host whose pool `chat` has a fake engine for each behaviour, replica "0" the first.

    The loop's debug mode is off from here on: with a traceback for every callback, that is what would be measured.
    """
    asyncio.get_running_loop().set_debug(False)
    engines = [EngineProcess(behaviour) for behaviour in behaviours]
    async with AsyncExitStack() as stack:
        await asyncio.gather(*(stack.enter_async_context(engine) for engine in engines))
        async with AdapterHost() as host:
            for number, engine in enumerate(engines):
                host.bind(
                    "chat",
                    engine.behaviour.dialect,
                    {"url": engine.url},
                    replica_id=str(number),
                    policy=policy,
                    timeouts=timeouts,
                )
            yield host, engines


@dataclass
class Life:
    """What became of a task: all that was delivered, how it failed, when it ended, and how often an engine was asked.

    `moment` is on `time.monotonic()`.
    """

    task: TaskRequest
    events: list[TokenEvent] = field(default_factory=list)
    error: WorkerError | None = None
    moment: float = 0.0

    @property
    def tokens(self) -> list[Token]:
        """In the order in which they came."""
        return [event for event in self.events if isinstance(event, Token)]

    @property
    def endings(self) -> int:
        """How many terminal events there were."""
        return sum(isinstance(event, End) for event in self.events) + (self.error is not None)

    @property
    def name(self) -> str:
        """Its ending in a word or two."""
        if self.error is not None:
            return f"{self.error.code} {self.error.detail}"
        last = self.events[-1] if self.events else None
        return last.finish_reason if isinstance(last, End) else "nothing"

    def is_whole(self) -> bool:
        """Whether its tokens are the engine's, from the first one on, each once and in order."""
        return [token.t.split("@")[0].strip() for token in self.tokens] == [
            f"{self.task.prompt}.{number}" for number in range(len(self.tokens))
        ]

    async def live(self, host: AdapterHost) -> "Life":
        """Submit the task and take in all that comes."""
        try:
            async with host.submit("chat", self.task) as stream:
                async for event in stream:
                    self.events.append(event)
        except WorkerError as error:
            self.error = error
        finally:
            self.moment = time.monotonic()
        return self


def task(prompt: str, max_tokens: int = ENDLESS, **fake: object) -> TaskRequest:
    """A task that tells the fake engine how to behave."""
    return TaskRequest(prompt=prompt, max_tokens=max_tokens, extra={"fake": fake} if fake else {})


async def left(engine: EngineProcess, subjects: set[str], limit: float) -> dict[str, Seen]:
    """The generations of these subjects, by subject, once the engine saw all of them end, or after `limit` seconds."""
    seen: dict[str, Seen] = {}
    until = time.monotonic() + limit
    while True:
        seen |= {each.subject: each for each in (await engine.report()).ended}
        if subjects <= seen.keys() or time.monotonic() > until:
            return {subject: each for subject, each in seen.items() if subject in subjects}
        await asyncio.sleep(0.01)
