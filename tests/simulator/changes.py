"""What an operator does in a day, drawn by seed: rebinds and reloads while tasks run, some of which must fail."""

import asyncio
import random
from collections.abc import Iterator
from typing import NamedTuple

from llama_orch_adapter_api import PoolEvent, Timeouts
from llama_orch_adapter_host import AdapterHost, HealthPolicy, HostConfig, PoolConfig, ReloadError

from .fate import HOUR

DRAIN = 30.0
"""Seconds that a stream may go on after its replica's next generation took over."""

TIMEOUTS = Timeouts(first_token=20.0, idle=10.0, drain=DRAIN, preload=60.0)

_KINDS = ("rebind", "rebind", "preload", "config", "absence", "nonsense")


class Change(NamedTuple):
    """At `moment` (seconds of the day) a change of `kind` begins, of the replica of that 0-based number.

    `lasts` is how long a generation is kept ready, or a replica is away.
    """

    moment: float
    replica: int
    kind: str
    lasts: float


def changes(rng: random.Random, replicas: int, hours: float, mean: float = HOUR / 4) -> Iterator[Change]:
    """The day's changes in order: on average one in each `mean` seconds."""
    moment = 0.0
    while (moment := moment + rng.expovariate(1 / mean)) < hours * HOUR:
        yield Change(moment, rng.randrange(replicas), rng.choice(_KINDS), rng.uniform(1, 300))


class Changes:
    """Makes the changes happen on a running loop, and judges the host's answers; `broken` holds what was wrong."""

    def __init__(self, host: AdapterHost, replicas: int, engines: int) -> None:
        self.broken: list[str] = []
        self.happened: list[str] = []
        self._host = host
        self._versions = dict.fromkeys(range(replicas), 0)  # by replica; one that is away is not in there
        self._spares = range(replicas, engines)
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._at_work: set[asyncio.Task[None]] = set()

    async def begin(self) -> None:
        """Bind the fleet."""
        await self._host.reload(self._config())

    def arm(self, change: Change) -> None:
        """Let it happen at its moment."""
        self._loop.call_at(self._began + change.moment, self._start, change)

    async def done(self) -> None:
        """Wait for those that have begun."""
        while self._at_work:
            await asyncio.wait(self._at_work)

    def _start(self, change: Change) -> None:
        task = self._loop.create_task(self._tried(change))
        self._at_work.add(task)
        task.add_done_callback(self._at_work.discard)

    async def _tried(self, change: Change) -> None:
        try:
            await self._make(change)
        except ReloadError:
            self.happened.append(f"{change.kind}, refused")
        else:
            self.happened.append(change.kind)

    async def _make(self, change: Change) -> None:
        host, name = self._host, str(change.replica)
        if change.replica not in self._versions:  # it is away
            return
        table = {"url": name, "version": self._versions[change.replica]}
        event = PoolEvent(pool_id="chat", engine="simulated", replica=table, replica_id=name)
        match change.kind:
            case "rebind":
                before = self._generation(name)
                info = await host.rebind("chat", "simulated", table, replica_id=name)
                self._expect(info.generation > before, "a rebind gives a new generation", change)
            case "preload":
                info = await host.preload(event)
                await asyncio.sleep(change.lasts)
                await host.reload(event)
                self._expect(self._generation(name) >= info.generation, "what was preloaded takes over", change)
            case "config":
                self._versions[change.replica] += 1
                report = await host.reload(self._config())
                places = {place.replica_id for place in report.rebound}
                self._expect(name in places or not places, "a reload rebinds what changed", change)
            case "absence":
                version = self._versions.pop(change.replica)
                await host.reload(self._config())
                await asyncio.sleep(change.lasts)
                self._versions[change.replica] = version
                await host.reload(self._config())
            case "nonsense":
                before, at = self._bound(), self._loop.time()
                try:
                    await host.reload(PoolEvent(pool_id="chat", engine="simulated", replica={}, replica_id=name))
                finally:
                    same = self._bound() == before or self._loop.time() > at
                    self._expect(same, "a reload that fails changes nothing", change)

    def _config(self) -> HostConfig:
        """The fleet as it shall be now."""
        calm = HealthPolicy(interval=30.0)
        chat = tuple({"id": str(i), "url": str(i), "version": version} for i, version in sorted(self._versions.items()))
        spare = tuple({"id": str(i), "url": str(i)} for i in self._spares)
        return HostConfig(
            {
                "chat": PoolConfig(
                    engine="simulated", replicas=chat, timeouts=TIMEOUTS, health=calm, fallback=("spare",)
                ),
                "spare": PoolConfig(engine="simulated", replicas=spare, timeouts=TIMEOUTS, health=calm),
            }
        )

    def _bound(self) -> list[tuple[str, str, int]]:
        """What serves now."""
        return [(b.info.pool_id, b.info.replica_id, b.info.generation) for b in self._host._registry.all()]

    def _generation(self, name: str) -> int:
        """The one that serves, 0 while the replica is away."""
        return max((number for *place, number in self._bound() if place == ["chat", name]), default=0)

    def _expect(self, holds: bool, rule: str, change: Change) -> None:
        if not holds:
            self.broken.append(f"{rule} · {change}")
