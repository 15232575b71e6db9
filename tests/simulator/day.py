"""One simulated day: a fleet, its tasks, its faults, and the rules that must hold through all of it."""

import asyncio
import hashlib
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import msgspec
from llama_orch_adapter_api import AdapterSpec, DeadlineUnmet, End, TaskRequest, Timeouts, Token, WorkerError
from llama_orch_adapter_host import AdapterHost, FlightRecord, HealthPolicy, Plugins, PoolPolicy
from llama_orch_adapter_host.events import HostEvent

from .engine import Engine, SimulatedAdapter
from .fate import HOUR, Fate, faults

TIMEOUTS = Timeouts(first_token=20.0, idle=10.0, drain=30.0)
LONGEST = 400.0
"""Seconds after which a task that was not cancelled counts as hung: all attempts, waits and limits together."""


class Config(msgspec.Struct):
    """The number of the engine."""

    url: str


@dataclass
class Story:
    """What one task was seen to do, from outside."""

    request: TaskRequest
    tokens: list[int] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)
    late: int = 0
    cancelled: bool = False
    began: float = 0.0
    took: float = 0.0
    record: FlightRecord | None = None


@dataclass
class Report:
    """The day in figures; `broken` holds each rule that did not hold, by task."""

    seed: int
    tasks: int
    endings: dict[str, int]
    attempts: int
    retries_free: int
    faults: dict[str, int]
    events: dict[str, int]
    trace: str
    broken: list[str]


class Day:
    """The day of one seed. The same seed gives the same day, to the last event."""

    def __init__(self, seed: int, hours: float = 24.0, replicas: int = 6, every: float = 60.0) -> None:
        self.seed = seed
        self.hours = hours
        self.every = every
        self.rng = random.Random(seed)
        self.engines = [Engine(f"engine {i}", random.Random(seed * 1000 + i)) for i in range(replicas + 2)]
        self.replicas = replicas
        self.closed: Counter[str] = Counter()
        self.trace: list[str] = []
        self.stories: list[Story] = []
        self.counted: Counter[str] = Counter()

    async def run(self) -> Report:
        """Live through it."""
        random.seed(self.seed)  # jitter draws from it
        plugins = Plugins()
        plugins.register(AdapterSpec("simulated", 1, Config, lambda c: self._adapter(int(c.config.url))))
        host = AdapterHost(plugins=plugins)
        stop = host.observe(self._note)
        calm = HealthPolicy(interval=30.0)
        for i in range(len(self.engines)):
            spare = i >= self.replicas
            policy = PoolPolicy(health=calm, fallback=() if spare else ("spare",))
            pool = "spare" if spare else "chat"
            host.bind(pool, "simulated", {"url": str(i)}, replica_id=str(i), timeouts=TIMEOUTS, policy=policy)
        fate = Fate(self.engines)
        moments = [*self._arrivals()]
        for fault in faults(self.rng, len(self.engines), self.hours):
            fate.arm(fault)
            if self.rng.random() < 0.5:  # people try again when something fails
                moments += [fault.moment + self.rng.uniform(0, fault.lasts) for _ in range(self.rng.randrange(30))]
        await self._submit_all(host, sorted(moments))
        bound = host._registry.all()  # the rules look inside
        pools = host._registry.pools()
        await host.aclose(drain=0)
        await asyncio.sleep(60)  # every clean-up has its time
        stop()
        broken = [*self._judged(), *self._left(host, bound, pools)]
        return self._report(fate, broken)

    def _adapter(self, number: int) -> SimulatedAdapter:
        return SimulatedAdapter(self.engines[number], self.closed)

    def _note(self, event: HostEvent) -> None:
        kind = type(event).__name__
        self.counted[kind] += 1
        self.trace.append(f"{asyncio.get_running_loop().time():.6f} {kind} {msgspec.json.encode(event).decode()}")

    def _arrivals(self) -> Iterator[float]:
        """When tasks come in quiet times, in seconds of the day: alone or a few together."""
        moment = 0.0
        while (moment := moment + self.rng.expovariate(1 / self.every)) < self.hours * HOUR:
            yield from [moment] * self.rng.choice((1, 1, 1, 2, 8))

    async def _submit_all(self, host: AdapterHost, moments: list[float]) -> None:
        loop = asyncio.get_running_loop()
        running: set[asyncio.Task[None]] = set()
        began = loop.time()
        for moment in moments:
            await asyncio.sleep(began + moment - loop.time())
            story = Story(self._request())
            self.stories.append(story)
            caller = loop.create_task(self._live(host, story, random.Random(self.rng.random())))
            running.add(caller)
            caller.add_done_callback(running.discard)
        if running:
            await asyncio.wait(running, timeout=LONGEST)
        for caller in tuple(running):
            caller.cancel()

    def _request(self) -> TaskRequest:
        rng = self.rng
        task_id = str(uuid.UUID(int=rng.getrandbits(128), version=4))
        if rng.random() < 0.002:
            for engine in self.engines:
                engine.killers.add(task_id)
        return TaskRequest(
            task_id=task_id,
            prompt="simulated",
            max_tokens=rng.randrange(1, 9),
            session_id=rng.choice((None, None, f"session {rng.randrange(20)}")),
            deadline_ms=rng.choice((None, None, None, rng.randrange(60, 60_000))),
            replica_id=str(rng.randrange(self.replicas)) if rng.random() < 0.03 else None,
        )

    async def _live(self, host: AdapterHost, story: Story, rng: random.Random) -> None:
        loop = asyncio.get_running_loop()
        story.began = loop.time()
        leaves_after = rng.choice((None, None, None, None, None, rng.randrange(4)))
        if rng.random() < 0.1:
            loop.call_later(rng.expovariate(0.3), self._cancel, host, story)
        try:
            async with host.submit("chat", story.request) as stream:
                story.record = stream.record
                await self._read(stream, story, leaves_after)
        except WorkerError as error:
            story.ends.append("deadline" if isinstance(error, DeadlineUnmet) else f"{error.code} {error.detail}")
            story.record = error.record if isinstance(error.record, FlightRecord) else None
        story.took = loop.time() - story.began

    async def _read(self, stream: AsyncIterator[object], story: Story, leaves_after: int | None) -> None:
        async for event in stream:
            story.late += story.cancelled and not isinstance(event, End)
            if isinstance(event, Token):
                story.tokens.append(event.i)
                if len(story.tokens) == leaves_after:
                    story.ends.append("left")
                    return
            elif isinstance(event, End):
                story.ends.append(event.finish_reason)

    def _cancel(self, host: AdapterHost, story: Story) -> None:
        cancelling = host.cancel("chat", story.request.task_id)
        try:
            cancelling.send(None)
        except StopIteration as answer:
            story.cancelled = answer.value.outcome == "cancelled"

    def _judged(self) -> list[str]:
        """What did not hold of single tasks, as seen from outside."""
        broken: list[str] = []
        for story in self.stories:
            deadline = story.request.deadline_ms
            rules = {
                "one ending": len(story.ends) == 1,
                "tokens in order, none lost": story.tokens == list(range(len(story.tokens))),
                "no token after a cancel": story.late == 0,
                "the whole answer": story.ends != ["length"] or len(story.tokens) == story.request.max_tokens,
                "not hung": story.took < LONGEST,
                "deadline kept": deadline is None or story.took <= deadline / 1000 + 0.005 + 2.0 * (not story.ends),
                "no retry after a token": story.record is None or _never_after_a_token(story.record),
                "attempts within the policy": story.record is None or _within_policy(story.record),
            }
            broken += [f"{name} · {story}" for name, holds in rules.items() if not holds]
        return broken

    def _left(self, host: AdapterHost, bound: list, pools: tuple) -> list[str]:  # type: ignore[type-arg]
        """What did not hold of the fleet at the end of the day."""
        killed = {task: sum(e.deaths_by[task] for e in self.engines) for e in self.engines for task in e.deaths_by}
        fresh, asked = len(self.stories), sum(len(engine.requests) for engine in self.engines)
        rules = {
            "one live copy of a task": all(engine.most <= 1 for engine in self.engines) and not self._copies(),
            "engines are idle": all(not engine.running for engine in self.engines),
            "no lease is left": all(not binding.leases for binding in bound),
            "no task is left": not len(host._ledger) and all(not pool.live for pool in pools),
            "adapters closed once": set(self.closed.values()) == {1} and len(self.closed) == len(self.engines),
            "a killer ends two engines at most": all(deaths <= 2 for deaths in killed.values()),
            "retries within the budget": asked <= 1.1 * fresh + 2 * 10,
        }
        return [name for name, holds in rules.items() if not holds]

    def _copies(self) -> int:
        """Tasks that two engines had at once, by the records."""
        copies = 0
        for story in self.stories:
            attempts = story.record.attempts if story.record else []
            for one, next_one in pairwise(attempts):
                copies += one.began_after + (one.duration or 0) > next_one.began_after + 1e-6
        return copies

    def _report(self, fate: Fate, broken: list[str]) -> Report:
        records = [story.record for story in self.stories if story.record is not None]
        stale = sum(attempt.outcome == "stale" for record in records for attempt in record.attempts)
        return Report(
            seed=self.seed,
            tasks=len(self.stories),
            endings=dict(Counter(end for story in self.stories for end in story.ends).most_common()),
            attempts=sum(len(record.attempts) for record in records),
            retries_free=stale,
            faults=dict(Counter(fate.happened)),
            events=dict(self.counted.most_common()),
            trace=hashlib.sha256("\n".join(self.trace).encode()).hexdigest(),
            broken=broken,
        )


def _never_after_a_token(record: FlightRecord) -> bool:
    return all(attempt.first_token is None for attempt in record.attempts[:-1])


def _within_policy(record: FlightRecord) -> bool:
    return sum(attempt.outcome != "stale" for attempt in record.attempts) <= 3
