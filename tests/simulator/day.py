"""One simulated day: a fleet, its tasks, its faults, and the rules that must hold through all of it."""

import asyncio
import hashlib
import random
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import msgspec
from llama_orch_adapter_api import AdapterSpec, DeadlineUnmet, End, TaskRequest, Token, WorkerError
from llama_orch_adapter_host import AdapterHost, FlightRecord, Plugins
from llama_orch_adapter_host.events import HostEvent

from .changes import Changes, changes
from .engine import Engine, SimulatedAdapter
from .fate import HOUR, Fate, faults
from .history import History
from .story import LONGEST, Story


class Config(msgspec.Struct):
    """The number of the engine, and what changes so that its replica is built anew."""

    url: str
    version: int = 0


@dataclass
class Report:
    """The day in figures; `broken` holds each rule that did not hold, by task."""

    seed: int
    tasks: int
    endings: dict[str, int]
    attempts: int
    retries_free: int
    faults: dict[str, int]
    changes: dict[str, int]
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
        self.built = 0
        self.closed: Counter[int] = Counter()
        self.history = History()
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
        plan = Changes(host, self.replicas, len(self.engines))
        await plan.begin()
        fate = Fate(self.engines)
        moments = [*self._arrivals()]
        for fault in faults(self.rng, len(self.engines), self.hours):
            fate.arm(fault)
            if self.rng.random() < 0.5:  # people try again when something fails
                moments += [fault.moment + self.rng.uniform(0, fault.lasts) for _ in range(self.rng.randrange(30))]
        for change in changes(self.rng, self.replicas, self.hours):
            plan.arm(change)
        await self._submit_all(host, sorted(moments))
        await plan.done()
        bound = host._registry.all()  # the rules look inside
        pools = host._registry.pools()
        await host.aclose(drain=0)
        await asyncio.sleep(60)  # every clean-up has its time
        stop()
        broken = [f"{rule} · {story}" for story in self.stories for rule in story.broken()]
        broken += [*plan.broken, *self.history.broken(self.stories), *self._left(host, bound, pools)]
        return self._report(fate, plan, broken)

    def _adapter(self, engine: int) -> SimulatedAdapter:
        adapter = SimulatedAdapter(self.engines[engine], self.built, self.closed)
        self.built += 1
        return adapter

    def _note(self, event: HostEvent) -> None:
        kind = type(event).__name__
        now = asyncio.get_running_loop().time()
        self.counted[kind] += 1
        self.history.note(event, now)
        self.trace.append(f"{now:.6f} {kind} {msgspec.json.encode(event).decode()}")

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

    def _left(self, host: AdapterHost, bound: list, pools: tuple) -> list[str]:  # type: ignore[type-arg]
        """What did not hold of the fleet at the end of the day."""
        killed = {task: sum(e.deaths_by[task] for e in self.engines) for e in self.engines for task in e.deaths_by}
        drained = sum(attempt.detail == "drained" for story in self.stories for attempt in story.attempts)
        fresh, asked = len(self.stories), sum(len(engine.requests) for engine in self.engines)
        rules = {
            "one live copy of a task": all(engine.most <= 1 for engine in self.engines),
            "engines are idle": all(not engine.running for engine in self.engines),
            "no lease is left": all(not binding.leases for binding in bound),
            "no task is left": not len(host._ledger) and all(not pool.live for pool in pools),
            "no generation is left": not host._fleet.bindings(),
            "adapters closed once": set(self.closed.values()) == {1} and len(self.closed) == self.built,
            "a killer ends two engines at most": all(deaths <= 2 for deaths in killed.values()),
            "retries within the budget": asked - drained <= 1.1 * fresh + 2 * 10,
        }
        return [name for name, holds in rules.items() if not holds]

    def _report(self, fate: Fate, plan: Changes, broken: list[str]) -> Report:
        attempts = [attempt for story in self.stories for attempt in story.attempts]
        return Report(
            seed=self.seed,
            tasks=len(self.stories),
            endings=dict(Counter(end for story in self.stories for end in story.ends).most_common()),
            attempts=len(attempts),
            retries_free=sum(attempt.outcome == "stale" for attempt in attempts),
            faults=dict(Counter(fate.happened)),
            changes=dict(Counter(plan.happened)),
            events=dict(self.counted.most_common()),
            trace=hashlib.sha256("\n".join(self.trace).encode()).hexdigest(),
            broken=broken,
        )
