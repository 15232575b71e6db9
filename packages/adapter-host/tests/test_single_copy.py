"""One live copy of a task, and every token once (battery 15 and 16).

Many tasks at once are played on one pool; what each meets on each replica is drawn from the seed, so that one seed
gives one play, always the same.
"""

import asyncio
import collections
import random
from collections.abc import AsyncIterator

import pytest
from llama_orch_adapter_api import (
    End,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    WorkerError,
)
from llama_orch_adapter_host import AdapterHost, PoolPolicy, TokenStream
from llama_orch_adapter_host._retry import RetryPolicy

from .adapters import STARTED, Words, cancel_now, end, host_of, run_many, task  # type: ignore[import-not-found]  # no package
from .replicas import (  # type: ignore[import-not-found]  # as above
    NEVER_OPEN,
    broke,
    left_behind,
    loading,
    overloaded,
    praise,
    refused,
    reset,
)

POLICY = PoolPolicy(breaker=NEVER_OPEN, retry=RetryPolicy(attempts=4, base=0.02, cap=0.1, budget=1e6))
TIMEOUTS = Timeouts(first_token=0.3, idle=0.5)
AT_ONCE = 500


class Play:
    """What is known of the tasks by all replicas together."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.at_work: collections.Counter[str] = collections.Counter()
        self.twice: set[str] = set()
        self.begun = 0
        self.spoke: dict[str, int] = {}  # tokens that were taken from a replica
        self.late: set[str] = set()  # tasks that were sent again after a token


class Drawn(Words):
    """What becomes of a task here is drawn: how long it takes, how it fails, and how the adapter takes its end."""

    def __init__(self, play: Play) -> None:
        super().__init__()
        self.play = play

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        play, rng, name = self.play, self.play.rng, task.task_id
        play.begun += 1
        play.at_work[name] += 1
        if play.at_work[name] > 1:
            play.twice.add(name)
        if name in play.spoke:
            play.late.add(name)
        try:
            await self.rest()
            self.fail(0.4)
            yield STARTED
            await self.rest()
            self.fail(0.3)
            for i in range(rng.randrange(4)):
                yield Token(str(i), i)
                play.spoke[name] = i + 1  # the host came for more: this one it has passed on
                await self.rest()
                self.fail(0.1)
            yield end(0)
        finally:
            try:
                await self.clean_up()
            finally:
                play.at_work[name] -= 1

    async def rest(self) -> None:
        """Mostly a moment, sometimes longer than any limit; it may be deaf to being cancelled, for a while."""
        rng = self.play.rng
        seconds = rng.choice((None, 0, 0.01, 0.05, 0.1)) if rng.random() < 0.97 else 1.0
        if seconds is None:
            return
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            if rng.random() < 0.9:
                raise

    async def clean_up(self) -> None:
        """At once, or slowly, or so that it must be cancelled, more than once."""
        draw = self.play.rng.random()
        if draw < 0.2:
            await asyncio.sleep(0.2)
        elif draw < 0.21:
            for _ in range(self.play.rng.randrange(3)):
                try:
                    await asyncio.sleep(60)
                except asyncio.CancelledError:
                    continue

    def fail(self, chance: float) -> None:
        rng = self.play.rng
        if rng.random() < chance:
            kinds = (refused, overloaded, loading, broke, reset, lambda: reset(stale_connection=True))
            raise rng.choice(kinds)() if rng.random() < 0.97 else KeyError("a defect")


async def consume(host: AdapterHost, play: Play, request: TaskRequest) -> str:
    """Read a task to its end; the ending in a word. AssertionError where a token came twice or was lost."""
    given: list[int] = []
    ending = "cancelled from outside"
    try:
        stream = await host.submit("pool", request)
        ending = await read(stream, given)
    except WorkerError as error:
        ending = type(error).__name__
    except asyncio.CancelledError:
        pass
    assert given == list(range(len(given))), f"a token lost or repeated: {given}"
    if ending in ("WorkerReset", "PoolUnavailable", "InternalError", "AdapterError"):
        assert len(given) == play.spoke.get(request.task_id, 0), "a token lost before a fault"
    return ending


async def read(stream: TokenStream, given: list[int]) -> str:
    async for event in stream:
        if isinstance(event, Token):
            given.append(event.i)
        if isinstance(event, End):
            return event.finish_reason
    return "nothing"


async def one(host: AdapterHost, play: Play, endings: collections.Counter[str]) -> None:
    """One schedule: when it begins, who ends it and when, is drawn."""
    rng = play.rng
    await asyncio.sleep(rng.randrange(100) * 0.01)
    request = task(
        deadline_ms=rng.choice((None, None, None, 50, 200, 400)),
        session_id=rng.choice((None, "a", "b")),
        replica_id=rng.choice((None, None, None, None, "0")),
    )
    reader = asyncio.create_task(consume(host, play, request))
    who = rng.choice((None, None, None, None, "host", "caller"))
    if who is not None:
        await asyncio.sleep(rng.choice((0, 0.01, 0.05, 0.1, 0.2, 0.3, 0.31)))
        if who == "host":
            cancel_now(host, request)
        else:
            reader.cancel()
    endings[await reader] += 1
    record = host.explain(request.task_id)
    if record is not None:
        assert all(each.first_token is None for each in record.attempts[:-1]), "sent again after a token"


async def heal(host: AdapterHost) -> None:
    """End every pause soon, and keep breakers closed, so that tasks meet more than refusals."""
    while True:
        await asyncio.sleep(0.01)
        praise(host)
        for binding in host._registry.all():
            binding.gate.paused_until = 0.0
            binding.gate.health._believe("ready", "")


async def play(seed: int, schedules: int) -> tuple[Play, collections.Counter[str]]:
    """Play so many, some at once; what was seen, and how they ended."""
    seen = Play(seed)
    random.seed(seed)
    endings: collections.Counter[str] = collections.Counter()
    replicas = [Drawn(seen) for _ in range(4)]
    async with host_of(*replicas, policy=POLICY, timeouts=TIMEOUTS) as host:
        healing = asyncio.create_task(heal(host))
        for _ in range(schedules // AT_ONCE):
            await asyncio.gather(*(one(host, seen, endings) for _ in range(AT_ONCE)))
        healing.cancel()
        await asyncio.sleep(5)
        assert left_behind(host) == []
    return seen, endings


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", range(8))
def test_one_live_copy(part: int):
    """Battery 16: over 10^5 schedules no task is ever on two replicas at once, however its adapters let go of it."""
    seed = random.randrange(2**32)
    seen, endings = run_many(play(seed, 12_500))
    print(f"seed {seed}: {sum(endings.values())} tasks, {seen.begun} attempts, {dict(endings)}")

    assert seen.twice == set()
    assert seen.late == set()
    assert +seen.at_work == collections.Counter()
    assert seen.begun > 12_500
    assert {"stop", "cancelled", "cancelled from outside", "WorkerReset", "DeadlineUnmet"} <= set(endings)


def test_a_seed_replays_its_play():
    """Battery 23: two plays of one seed are the same to the last draw: nothing in the host goes by address."""
    seed = random.randrange(2**32)
    first, second = (run_many(play(seed, AT_ONCE)) for _ in range(2))
    print(f"seed {seed}")

    assert (first[0].begun, first[1]) == (second[0].begun, second[1])
    assert first[0].rng.getstate() == second[0].rng.getstate()
