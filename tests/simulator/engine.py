"""A modelled engine: what it suffers, its streams suffer. It knows which task it works on, and for how long."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Literal

from llama_orch_adapter_api import (
    Capabilities,
    End,
    InternalError,
    PoolUnavailable,
    Started,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerHealth,
    WorkerProps,
    WorkerReset,
)

State = Literal["up", "gone", "loading", "hung"]

SLOTS = 4

STALE = 0.01
"""The share of requests that meet a stale connection on a quiet day."""


class Engine:
    """One engine. `speed` divides its pauses; `refuses`, `fails` and `resets` are shares of its requests.

    `stale` is the share that meets a kept connection which it had closed, so that it never saw them.
    """

    def __init__(self, name: str, rng: random.Random) -> None:
        self.name = name
        self.rng = rng
        self.state: State = "up"
        self.life = 1  # counts its processes
        self.speed = 1.0
        self.refuses = 0.0
        self.fails = 0.0
        self.resets = 0.0
        self.stale = STALE
        self.context = 8192
        self.running: Counter[str] = Counter()  # by task
        self.most = 0  # copies of one task at once
        self.requests: list[tuple[str, float]] = []
        self.killers: set[str] = set()  # tasks that end it
        self.deaths_by: Counter[str] = Counter()
        self.awake = asyncio.Event()
        self.awake.set()

    def die(self) -> None:
        """Its process ends, and with it all that it worked on."""
        self.life += 1
        self.state = "gone"
        self.awake.set()

    def hang(self) -> None:
        """It answers nothing any more."""
        self.state = "hung"
        self.awake.clear()

    def wake(self) -> None:
        """It goes on where it hung."""
        if self.state == "hung":
            self.state = "up"
        self.awake.set()

    def load(self) -> None:
        """A new process loads the model, which may be another one."""
        self.state = "loading"
        self.context = self.rng.choice((4096, 8192, 16384))

    def serve(self) -> None:
        """The model is loaded."""
        if self.state == "loading":
            self.state = "up"

    async def reached(self) -> None:
        """A connection is made. Raises what a client would see."""
        await asyncio.sleep(0.001)
        if self.state == "gone":
            raise PoolUnavailable(
                f"cannot connect · {self.name}", detail="unreachable", phase="connect", answered=False
            )
        await self.awake.wait()
        if self.state == "loading":
            raise PoolUnavailable(f"loading model · {self.name}", detail="loading", phase="first_token")


class SimulatedAdapter(WorkerAdapter):
    """Speaks to a modelled engine. `closed` counts how often each adapter was closed, this one under `number`."""

    def __init__(self, engine: Engine, number: int, closed: Counter[int]) -> None:
        self.engine = engine
        self._number = number
        self._closed = closed

    async def health(self) -> WorkerHealth:
        """As the engine is, in a millisecond; never while it hangs."""
        try:
            await self.engine.reached()
        except PoolUnavailable as error:
            return WorkerHealth.of(error)
        busy = sum(self.engine.running.values()) >= SLOTS
        return WorkerHealth(live=True, ready=True, state="busy" if busy else "ready")

    async def props(self) -> WorkerProps:
        """Its slots and context."""
        await self.engine.reached()
        free = max(0, SLOTS - sum(self.engine.running.values()))
        known = Capabilities(
            "simulated",
            str(self.engine.life),
            "model",
            datetime(2026, 1, 1, tzinfo=UTC),
            ctx_max=self.engine.context,
            slots=SLOTS,
        )
        return WorkerProps(SLOTS, free, known)

    async def engine_version(self) -> str:
        """The number of its process."""
        return str(self.engine.life)

    async def aclose(self) -> None:
        """Counted."""
        self._closed[self._number] += 1

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        """`max_tokens` tokens at the engine's speed, through whatever it suffers meanwhile."""
        engine, rng = self.engine, self.engine.rng
        await engine.reached()
        if rng.random() < engine.stale:
            raise WorkerReset(
                f"a kept connection was closed · {engine.name}", detail="reset", answered=False, stale_connection=True
            )
        engine.requests.append((task.task_id, asyncio.get_running_loop().time()))
        if rng.random() < engine.refuses:
            asked = rng.choice((None, rng.uniform(0.5, 5)))
            raise PoolUnavailable(f"queue full · {engine.name}", detail="overloaded", retry_after=asked)
        if rng.random() < engine.fails:
            raise InternalError(f"broke · {engine.name}", detail="engine")
        life = engine.life
        engine.running[task.task_id] += 1
        engine.most = max(engine.most, engine.running[task.task_id])
        try:
            yield Started("simulated", str(life), "model", engine.name)
            breaks_at = rng.randrange(task.max_tokens or 1) if rng.random() < engine.resets else None
            for i in range(task.max_tokens or 0):
                await self._work(task, life, rng.expovariate(20) if i else rng.expovariate(5))
                if i == breaks_at:
                    raise WorkerReset(f"the connection broke · {engine.name}", detail="reset", phase="decode")
                yield Token(f"{i} ", i)
            yield End(len(task.prompt or ""), task.max_tokens, "length")
        finally:
            engine.running[task.task_id] -= 1
            if not engine.running[task.task_id]:
                del engine.running[task.task_id]

    async def _work(self, task: TaskRequest, life: int, pause: float) -> None:
        engine = self.engine
        await asyncio.sleep(pause / engine.speed)
        if task.task_id in engine.killers and engine.life == life:
            engine.deaths_by[task.task_id] += 1
            engine.die()
            asyncio.get_running_loop().call_later(5, engine.load)
            asyncio.get_running_loop().call_later(15, engine.serve)
        await engine.awake.wait()
        if engine.life != life:
            raise WorkerReset(f"the connection broke · {engine.name}", detail="reset")
