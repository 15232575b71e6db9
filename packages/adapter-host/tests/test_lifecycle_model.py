"""Registry and lifecycle against an independent model, step by random step, on a virtual clock."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from llama_orch_adapter_api import (
    End,
    PoolEvent,
    PoolUnavailable,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    WorkerReset,
)
from llama_orch_adapter_host import AdapterHost, ConfigError, HostConfig, PoolConfig, ReloadError
from llama_orch_adapter_testkit import VirtualClockLoop

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    DOWN,
    STARTED,
    Engine,
    Yard,
    drained,
    end,
    task,
)
from .lifecycle_model import Model, Named, Place  # type: ignore[import-not-found]  # as above

T = TypeVar("T")

LIMITS = Timeouts(drain=10.0, preload=1.0, idle=80_000.0)
SICK = "http://sick"
PLACES = st.sampled_from([(pool, replica) for pool in ("a", "b") for replica in ("0", "1")])
VARIANTS = st.sampled_from(["http://x", "http://y"])
WANTED = st.dictionaries(PLACES, VARIANTS, min_size=1)
EXAMPLES, STEPS = (1000, 50) if os.environ.get("NIGHTLY") else (60, 40)


class Gated(Engine):
    """One token, and the end when its gate is opened."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.gates: dict[str, asyncio.Event] = {}
        if url == SICK:
            self.told = DOWN

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.begun += 1
        self.tasks.append(task.task_id)
        gate = self.gates[task.task_id] = asyncio.Event()
        try:
            yield STARTED
            yield Token("a", 0)
            await gate.wait()
            yield end(1)
        finally:
            self.freed += 1


class Lifecycle(RuleBasedStateMachine):
    """Every rule does to the host what it notes in the model; the invariants compare."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(debug=False, loop_factory=VirtualClockLoop)
        self.yard = Yard(Gated)
        self.model = Model(LIMITS.drain)
        self.expected: dict[Named, list[str]] = {}
        self.readers: dict[str, asyncio.Task[list[TokenEvent]]] = {}
        self.waiting: list[asyncio.Task[int]] = []
        self.host = AdapterHost(plugins=self.yard.plugins)

    # --- what the rules are made of

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do it, and let what follows from it happen."""

        async def settled() -> T:
            try:
                return await work
            finally:
                await asyncio.sleep(0.01)

        try:
            return self.runner.run(settled())
        finally:
            self.model.tick(self.now)

    @property
    def now(self) -> float:
        return self.runner.get_loop().time()

    def adapter(self, named: Named) -> Gated:
        """The adapter of a generation: the so-manieth that was built for its place."""
        place, generation = named
        some = [i for i, each in enumerate(self.yard.contexts) if (each.pool_id, each.replica_id) == place]
        adapter: Gated = self.yard.built[some[generation - 1]]
        return adapter

    def event(self, place: Place, variant: str) -> PoolEvent:
        return PoolEvent(
            pool_id=place[0], replica_id=place[1], engine="words", replica={"url": variant}, timeouts=LIMITS, http={}
        )

    def config(self, wanted: dict[Place, str]) -> HostConfig:
        pools: dict[str, list[dict[str, Any]]] = {}
        for (pool, replica), variant in wanted.items():
            pools.setdefault(pool, []).append({"id": replica, "url": variant})
        return HostConfig(
            {pool: PoolConfig(engine="words", replicas=tuple(some), timeouts=LIMITS) for pool, some in pools.items()}
        )

    async def background(self, work: Coroutine[Any, Any, int]) -> None:
        self.waiting.append(asyncio.create_task(work))

    # --- the rules

    @initialize()
    def enter(self) -> None:
        self.run(self.host.__aenter__())

    @rule(place=PLACES, variant=VARIANTS)
    def bind(self, place: Place, variant: str) -> None:
        async def work() -> int:
            info = self.host.bind(place[0], "words", {"url": variant}, replica_id=place[1], timeouts=LIMITS)
            return info.generation

        if place in self.model.current:
            with pytest.raises(ConfigError, match="is bound already"):
                self.run(work())
        else:
            named = self.model.build(place, variant)
            self.model.put(named, self.now)
            assert self.run(work()) == named[1]

    @rule(place=PLACES, variant=VARIANTS)
    def rebind(self, place: Place, variant: str) -> None:
        call = self.host.rebind(place[0], "words", {"url": variant}, replica_id=place[1])
        if place not in self.model.current:
            with pytest.raises(PoolUnavailable):
                self.run(call)
        else:
            named = self.model.next(place, variant)
            self.model.put(named, self.now)
            assert self.run(call).generation == named[1]

    @rule(place=PLACES, by_event=st.booleans())
    def rebind_that_fails(self, place: Place, by_event: bool) -> None:
        if not by_event and place not in self.model.current:
            return
        self.model.fail(self.model.next(place, SICK))
        by_call = self.host.rebind(place[0], "words", {"url": SICK}, replica_id=place[1]) if not by_event else None
        with pytest.raises(ReloadError, match="connection refused"):
            self.run(by_call or self.host.reload(self.event(place, SICK)))

    @rule(place=PLACES, variant=VARIANTS)
    def preload(self, place: Place, variant: str) -> None:
        named = self.model.next(place, variant)
        self.model.held[place] = named[1]
        assert self.run(self.host.preload(self.event(place, variant))).generation == named[1]

    @rule(place=PLACES, variant=VARIANTS)
    def reload_one(self, place: Place, variant: str) -> None:
        named = self.model.next(place, variant)
        self.model.put(named, self.now)
        report = self.run(self.host.reload(self.event(place, variant)))
        assert [info.generation for info in report.added + report.rebound] == [named[1]]

    @rule(wanted=WANTED)
    def reload_all(self, wanted: dict[Place, str]) -> None:
        now = self.now
        new = [place for place in wanted if place not in self.model.current]
        new += [place for place in wanted if place in self.model.current and not self.model.same(place, wanted[place])]
        gone = [place for place in self.model.current if place not in wanted]
        named = [self.model.next(place, wanted[place]) for place in new]
        for each in named:
            self.model.put(each, now)
        for place in gone:
            self.model.remove(place, now)
            self.model.drop(place)
        report = self.run(self.host.reload(self.config(wanted)))

        assert {info.replica_id for info in report.removed} == {replica for _, replica in gone}
        assert len(report.unchanged) == len(wanted) - len(new)

    @rule(wanted=WANTED, sick=PLACES)
    def reload_that_fails(self, wanted: dict[Place, str], sick: Place) -> None:
        wanted = {**wanted, sick: SICK}
        for place, variant in wanted.items():
            if not self.model.same(place, variant):
                self.model.fail(self.model.next(place, variant))
        with pytest.raises(ReloadError, match="connection refused"):
            self.run(self.host.reload(self.config(wanted)))

    @rule(place=PLACES)
    def drain(self, place: Place) -> None:
        if place in self.model.current:
            self.model.since.setdefault((place, self.model.current[place]), self.now)
            self.run(self.background(self.host.drain(*place)))

    @rule(place=PLACES)
    def unbind(self, place: Place) -> None:
        if place in self.model.current:
            self.model.remove(place, self.now)
            self.model.drop(place)
            self.run(self.background(self.host.unbind(*place)))

    @rule(place=PLACES, pinned=st.booleans())
    def submit(self, place: Place, pinned: bool) -> None:
        pool, replica = place
        request = task(task_id=str(uuid.UUID(int=len(self.readers))), replica_id=replica if pinned else None)
        some = [each for each in self.model.current if each[0] == pool and self.model.takes(each)]
        if not some or (pinned and place not in some):
            with pytest.raises(PoolUnavailable):
                self.run(self.host._submit(pool, request))
            return
        stream = self.run(self.host._submit(pool, request))
        attempt = stream.record.attempts[-1]
        served = pool, attempt.replica.split("/")[1]

        assert served in ([place] if pinned else some)
        assert attempt.generation == self.model.current[served]
        named = served, attempt.generation
        self.model.open[request.task_id] = named
        self.expected.setdefault(named, []).append(request.task_id)
        self.readers[request.task_id] = self.runner.get_loop().create_task(drained(stream))

    @precondition(lambda self: self.model.open)
    @rule(data=st.data(), cancelled=st.booleans())
    def end_a_stream(self, data: st.DataObject, cancelled: bool) -> None:
        task_id = data.draw(st.sampled_from(sorted(self.model.open)))
        named = self.model.open.pop(task_id)

        async def work() -> TokenEvent:
            if cancelled:
                await self.host.cancel(named[0][0], task_id)
            else:
                self.adapter(named).gates[task_id].set()
            return (await self.readers[task_id])[-1]

        last = self.run(work())
        assert isinstance(last, End)
        assert last.finish_reason == ("cancelled" if cancelled else "stop")

    @rule(seconds=st.sampled_from([0.3, 4.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds))

    # --- what holds after each

    @invariant()
    def one_current_generation_a_replica(self) -> None:
        """What is bound is what the model says, and takes tasks where the model says so."""
        bound = self.host._registry.all()
        takes = {(each.info.pool_id, each.info.replica_id): not each.gate.draining for each in bound}

        assert {(b.info.pool_id, b.info.replica_id): b.info.generation for b in bound} == self.model.current
        assert takes == {place: self.model.takes(place) for place in self.model.current}

    @invariant()
    def adapters_are_closed_once_and_empty(self) -> None:
        """An adapter is closed when it is gone and has no stream, exactly once, and never before."""
        closed = self.model.closed()
        for place, count in self.model.built.items():
            for generation in range(1, count + 1):
                adapter = self.adapter((place, generation))
                assert adapter.closed == ((place, generation) in closed), (place, generation)
                assert adapter.open_at_close == [0] * adapter.closed
        assert len(self.yard.built) == self.model.built.total()

    @invariant()
    def tasks_are_where_they_belong(self) -> None:
        """Each adapter was sent the tasks of its own generation, and leases are the streams that are open."""
        for named, tasks in self.expected.items():
            assert self.adapter(named).tasks == tasks
        assert sum(len(adapter.tasks) for adapter in self.yard.built) == len(self.readers)
        leases = sum(len(binding.leases) for binding in self.host._fleet.bindings())
        assert leases == len(self.model.open)

    @invariant()
    def streams_end_as_they_should(self) -> None:
        """A stream whose limit was over ended in WorkerReset (drained), and one that is open has not ended."""
        for task_id, reader in self.readers.items():
            assert reader.done() == (task_id not in self.model.open)
            if task_id in self.model.cut:
                error = reader.exception()
                assert isinstance(error, WorkerReset)
                assert error.detail == "drained"

    def teardown(self) -> None:
        open_streams = len(self.model.open)
        self.run(self.host.aclose(drain=0))
        ends = [reader.exception() for task_id, reader in self.readers.items() if task_id in self.model.open]
        self.runner.close()

        assert [end.detail for end in ends if isinstance(end, WorkerReset)] == open_streams * ["drained"]
        assert [adapter.closed for adapter in self.yard.built] == [1] * len(self.yard.built)
        assert [adapter.open_at_close for adapter in self.yard.built] == [[0]] * len(self.yard.built)
        assert not any(not waiter.done() for waiter in self.waiting)


@pytest.mark.nightly
@pytest.mark.timeout(1800 if os.environ.get("NIGHTLY") else 60)
def test_registry_and_lifecycle_against_a_model():
    """ORCH-3600: one current generation a replica, each adapter closed once and empty, no task where none may go.

    Random binds, rebinds, failing ones, preloads, reloads, drains, unbinds, tasks and ends, against a model.
    """
    run_state_machine_as_test(
        Lifecycle,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
