"""Whatever happens to tasks, in whatever order: each ends once, every slot comes back, and nothing is kept."""

import asyncio
import os
import random
from typing import Any

import pytest
from llama_orch_adapter_api import (
    DeadlineUnmet,
    End,
    InternalError,
    PoolUnavailable,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerError,
)
from llama_orch_adapter_host import AdapterHost, PoolPolicy
from llama_orch_orchestratord._job import Job
from llama_orch_orchestratord._jobs import Jobs
from llama_orch_orchestratord._refusal import Refusal

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Engine,
    Frame,
    frames,
    plugins_of,
    settings,
    shape,
    virtual,
)

TOML = """
[admission]
queue = 4
policy = "drop-lru"
[tasks]
limit = 12
keep = 50.0
[stream]
unread_events = 5
unread_expiry = 20.0
"""

SEEDS = 2000 if "NIGHTLY" in os.environ else 60


class Chance:
    """Scripts and acts drawn from a seed."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)

    def script(self, _: TaskRequest) -> list[TokenEvent | float | WorkerError]:
        dice = self.dice
        steps: list[TokenEvent | float | WorkerError] = [STARTED]
        count = dice.choice([0, 1, 3, 20])
        for i in range(count):
            steps += [dice.choice([0, 0, 0.1, 2.0]), Token("a", i)]
        ending = dice.choice(["end", "end", "end", "broken", "full", "full"])
        if ending == "broken":
            return [*steps, InternalError("broke", detail="engine")]
        if ending == "full":
            return [0.1, PoolUnavailable("full", detail="overloaded", retry_after=dice.choice([None, 0.0, 3.0]))]
        return [*steps, End(1, count, "stop")]


class Slow:
    """A reader that takes each frame after a while, and may be gone."""

    def __init__(self, job: Job, dice: random.Random) -> None:
        self.job = job
        self.dice = dice
        self.got = bytearray()
        self.gone = False

    async def write(self, frame: bytes) -> None:
        if self.gone:
            raise ConnectionResetError
        self.got += frame
        await asyncio.sleep(self.dice.choice([0, 0, 0.5]))

    async def read(self) -> None:
        """To the end, as a response does."""
        woken = asyncio.Event()
        self.job.outbox.on_change = woken.set
        while True:
            while self.job.outbox:
                await self.write(self.job.outbox.take(100))
            if self.job.outbox.closed:
                self.job.outbox.deliver()
                return
            self.job.reader = self
            await woken.wait()
            woken.clear()


class Story:
    """One run: tasks are sent, read, left and cancelled at random."""

    def __init__(self, seed: int) -> None:
        self.chance = Chance(seed)
        self.dice = self.chance.dice
        self.read: list[list[Frame]] = []
        self.jobs: list[Job] = []

    async def live(self) -> None:
        engine = Engine(self.chance.script, slots=self.dice.choice([1, 2, 4]))
        other = Engine(self.chance.script, slots=self.dice.choice([1, 2]))
        toml = TOML + f"cancel_on_disconnect = {self.dice.choice(['true', 'false'])}"
        async with AdapterHost(plugins=plugins_of(engine, other)) as host:
            policy = PoolPolicy(max_in_flight=self.dice.choice([None, 2]))
            for replica_id in self.dice.choice(["0", "01"]):
                host.bind("chat", "words", {}, replica_id=replica_id, policy=policy)
            jobs = Jobs(host, settings(toml), self.dice.random)
            forget = host.observe(jobs.dispatch)
            async with asyncio.TaskGroup() as clients:
                for _ in range(15):
                    clients.create_task(self._client(jobs))
                    await asyncio.sleep(self.dice.choice([0, 0.3, 2.0]))
            await asyncio.sleep(500)
            self._check(jobs, engine, other)
            await jobs.aclose(drain=0)
            forget()

    async def _client(self, jobs: Jobs) -> None:
        task = TaskRequest(
            prompt="a",
            priority=self.dice.choice(["interactive", "batch"]),
            deadline_ms=self.dice.choice([None, None, 3000]),
            replica_id=self.dice.choice([None, None, "0", "1"]),
            max_attempts=1,
        )
        try:
            jobs.admit("chat", task)
        except Refusal as refusal:
            assert refusal.status in {429, 503}  # what else it may be is the point
            return
        job = jobs.find(task.task_id)
        self.jobs.append(job)
        for act in self.dice.choices([self._read, self._look_in, self._cancel, self._wait], k=3):
            await act(jobs, job)

    async def _wait(self, jobs: Jobs, job: Job) -> None:
        await asyncio.sleep(self.dice.choice([0, 1.0, 30.0]))

    async def _cancel(self, jobs: Jobs, job: Job) -> None:
        if self.dice.random() < 0.3:
            await jobs.cancel(job)

    async def _read(self, jobs: Jobs, job: Job) -> None:
        """To the end, if it may be read."""
        try:
            jobs.take(job)
        except Refusal as refusal:
            assert refusal.status == 410  # as above
            return
        reader = Slow(job, self.dice)
        await reader.read()
        await jobs.leave(job)
        self.read.append(frames(reader.got.decode()))

    async def _look_in(self, jobs: Jobs, job: Job) -> None:
        """For a while."""
        try:
            jobs.take(job)
        except Refusal:
            return
        reader = Slow(job, self.dice)
        reading = asyncio.create_task(reader.read())
        await asyncio.wait([reading], timeout=self.dice.choice([0.0, 1.0, 5.0]))
        reader.gone = True
        reading.cancel()
        await asyncio.wait([reading])
        job.outbox.on_change = None
        await jobs.leave(job)

    def _check(self, jobs: Jobs, *engines: Engine) -> None:
        assert all(engine.running == 0 for engine in engines)
        assert len(jobs) == 0
        assert not jobs.dispatch._errands
        assert all(not lane.running and not lane.queue for lane in jobs.dispatch.lanes.values())
        assert all(job.state == "ended" and job.reader is None for job in self.jobs)
        for found in self.read:
            _check_whole(found)


def _check_whole(found: list[Frame]) -> None:
    """What was read has one end, and tokens without a gap (from wherever an earlier reader left)."""
    kinds = shape(found)
    assert kinds[-1] in {"end", "error"}
    assert not {"end", "error"} & set(kinds[:-1])
    numbers = [each.data["i"] for each in found if each.event == "token"]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else True
    ids: list[Any] = [each.id for each in found if each.event != "gap"]
    assert ids == sorted(set(ids))


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(SEEDS))
@virtual
async def test_every_task_ends_once_and_every_slot_comes_back(seed: int) -> None:
    """Sent, pushed back, read slowly, left, cancelled, dropped, late or never read: nothing hangs, nothing is lost."""
    await Story(seed).live()


@virtual
async def test_a_late_task_is_late_once() -> None:
    """A deadline that passes in the queue ends the task though its pool pushes back for longer."""
    engine = Engine(lambda _: [PoolUnavailable("full", detail="overloaded", retry_after=30.0)])
    async with AdapterHost(plugins=plugins_of(engine)) as host:
        host.bind("chat", "words", {})
        jobs = Jobs(host, settings(""))
        task = TaskRequest(prompt="a", deadline_ms=2000, max_attempts=1)
        jobs.admit("chat", task)
        await asyncio.sleep(3)
        found = frames(jobs.find(task.task_id).outbox.take(10_000).decode())
        await jobs.aclose(drain=0)

    assert shape(found) == ["error"]
    assert found[0].data["code"] == DeadlineUnmet.code


@virtual
async def test_a_task_that_is_cancelled_before_it_was_sent_is_not_sent() -> None:
    """That its turn has come already does not matter, as long as the host was not asked."""
    engine = Engine(lambda _: [STARTED, End(1, 0, "stop")])
    async with AdapterHost(plugins=plugins_of(engine)) as host:
        host.bind("chat", "words", {})
        jobs = Jobs(host, settings(""))
        task = TaskRequest(prompt="a")
        jobs.admit("chat", task)
        job = jobs.find(task.task_id)
        assert job.state == "running"
        await jobs.cancel(job)
        await asyncio.sleep(1)
        found = frames(job.outbox.take(10_000).decode())
        await jobs.aclose(drain=0)

    assert [each.data["finish_reason"] for each in found] == ["cancelled"]
    assert engine.begun == []
