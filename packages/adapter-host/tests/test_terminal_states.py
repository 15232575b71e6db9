"""Everything that can end a task, in any order and in one moment, as a machine whose failures shrink."""

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test
from llama_orch_adapter_api import (
    DeadlineUnmet,
    End,
    PoolUnavailable,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_host import AdapterHost, PoolPolicy, RetryPolicy
from llama_orch_adapter_testkit import VirtualClockLoop, cases

from .adapters import STARTED, Engine, Yard, cancel_now, end, task  # type: ignore[import-not-found]  # as elsewhere
from .replicas import NEVER_OPEN  # type: ignore[import-not-found]  # as above

DRAIN = 2.0
GRACE = 0.05
"""Seconds after which what was bound to happen has happened."""

LIMITS = Timeouts(first_token=80_000, idle=80_000, drain=DRAIN, min_useful=0)
POLICY = PoolPolicy(retry=RetryPolicy(attempts=1), breaker=NEVER_OPEN)
TURNS = st.integers(0, 3)
ENDINGS = {"end": "stop", "fail": "reset", "drained": "drained", "cancel": "cancelled", "stopped": "drained"}


@dataclass
class Story:
    """One task: what could have ended it so far, and what its reader was told."""

    request: TaskRequest
    began: float
    causes: set[str] = field(default_factory=set)
    orders: asyncio.Queue[End | WorkerError | None] = field(default_factory=asyncio.Queue)  # None: one more token
    goes_on: asyncio.Event = field(default_factory=asyncio.Event)
    events: list[TokenEvent] = field(default_factory=list)
    receipts: list[str] = field(default_factory=list)
    error: WorkerError | None = None
    late: int = 0  # events told after the first ending
    drained_at: float | None = None
    reader: asyncio.Task[None] | None = None


class Led(Engine):
    """Does with each task what it is ordered to, and numbers its tokens as the boundary has them."""

    def __init__(self, stories: dict[str, Story]) -> None:
        super().__init__()
        self.stories = stories

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        self.begun += 1
        try:
            yield STARTED
            for i in itertools.count():
                order = await self.stories[task.task_id].orders.get()
                if isinstance(order, WorkerError):
                    raise order
                yield Token("t", i) if order is None else order
                if order is not None:
                    return
        finally:
            self.freed += 1


class Terminals(RuleBasedStateMachine):
    """What the rules do is queued, and then done within few turns of the loop, so that much falls into one moment."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner(debug=False, loop_factory=VirtualClockLoop)
        self.stories: dict[str, Story] = {}
        self.yard = Yard(lambda _: Led(self.stories))
        self.host = AdapterHost(plugins=self.yard.plugins)
        self.agenda: list[tuple[Callable[[], object], int]] = []
        self.stopped = False

    @property
    def now(self) -> float:
        return self.runner.get_loop().time()

    def run(self, work: Coroutine[Any, Any, object], seconds: float = 0.0) -> None:
        """Do what is queued, then this, and let what follows from it happen."""

        async def all_of_it() -> None:
            for act, turns in self.agenda:
                act()
                for _ in range(turns):
                    await asyncio.sleep(0)
            self.agenda.clear()
            await work
            await asyncio.sleep(seconds)

        self.runner.run(all_of_it())

    def live(self) -> list[Story]:
        return [story for story in self.stories.values() if not self.over(story)]

    def over(self, story: Story) -> bool:
        """Whether the host has its outcome."""
        record = self.host.explain(story.request.task_id)
        return record is not None and record.phase is not None

    def pick(self, data: st.DataObject) -> Story:
        return data.draw(st.sampled_from(list(self.stories.values())))

    # --- the rules

    @initialize()
    def enter(self) -> None:
        async def work() -> None:
            await self.host.__aenter__()
            self.host.bind("pool", "words", {}, timeouts=LIMITS, policy=POLICY)

        self.run(work(), 1.0)

    @precondition(lambda self: not self.stopped)
    @rule(deadline=st.sampled_from([None, None, 500, 1000]), turns=TURNS, words=st.integers(0, 2), holds=st.booleans())
    def submit(self, deadline: int | None, turns: int, words: int, holds: bool) -> None:
        story = Story(task(deadline_ms=deadline), self.now)
        for _ in range(words):
            story.orders.put_nowait(None)
        if not holds:
            story.goes_on.set()
        self.stories[story.request.task_id] = story

        def begin() -> None:
            story.reader = asyncio.create_task(self.read(story))

        self.agenda.append((begin, turns + 1))  # so that it is submitted before the next thing happens

    @precondition(lambda self: self.stories)
    @rule(data=st.data(), turns=TURNS)
    def the_engine_writes(self, data: st.DataObject, turns: int) -> None:
        story = self.pick(data)
        self.agenda.append((lambda: story.orders.put_nowait(None), turns))

    @precondition(lambda self: self.stories)
    @rule(data=st.data(), turns=TURNS, fails=st.booleans())
    def the_engine_ends(self, data: st.DataObject, turns: int, fails: bool) -> None:
        story = self.pick(data)
        order = WorkerReset("reset by peer", detail="reset") if fails else end(1)
        story.causes.add("fail" if fails else "end")
        self.agenda.append((lambda: story.orders.put_nowait(order), turns))

    @precondition(lambda self: self.stories)
    @rule(data=st.data(), turns=TURNS)
    def cancel(self, data: st.DataObject, turns: int) -> None:
        story = self.pick(data)
        story.causes.add("cancel")
        self.agenda.append((lambda: story.receipts.append(cancel_now(self.host, story.request).outcome), turns))

    @precondition(lambda self: self.stories)
    @rule(data=st.data(), turns=TURNS)
    def the_caller_leaves(self, data: st.DataObject, turns: int) -> None:
        story = self.pick(data)

        def leave() -> None:
            if story.reader is not None and story.reader.cancel():
                story.causes.add("left")

        self.agenda.append((leave, turns))

    @precondition(lambda self: self.stories)
    @rule(data=st.data(), holds=st.booleans())
    def the_caller_stops_or_goes_on(self, data: st.DataObject, holds: bool) -> None:
        story = self.pick(data)
        self.agenda.append((story.goes_on.clear if holds else story.goes_on.set, 0))

    @precondition(lambda self: not self.stopped)
    @rule()
    def the_replica_is_replaced(self) -> None:
        self.run(asyncio.sleep(0))
        for story in self.live():
            story.drained_at = self.now if story.drained_at is None else story.drained_at
        self.run(self.host.rebind("pool", "words", {}), 0.0)

    @rule(seconds=st.sampled_from([0.0, 0.5, 1.0, DRAIN]))
    def time_passes(self, seconds: float) -> None:
        self.run(asyncio.sleep(seconds), GRACE)
        self.judge()

    @precondition(lambda self: self.stories and not self.stopped)
    @rule()
    def the_host_stops(self) -> None:
        self.stopped = True
        for story in self.stories.values():
            story.causes.add("stopped")
        self.run(self.host.aclose(drain=0), GRACE)
        self.judge()

    # --- what holds

    async def read(self, story: Story) -> None:
        try:
            async with self.host.submit("pool", story.request) as stream:
                async for event in stream:
                    story.late += bool(story.events) and isinstance(story.events[-1], End)
                    story.late += "cancelled" in story.receipts and not isinstance(event, End)
                    story.events.append(event)
                    await story.goes_on.wait()
                async for _ in stream:
                    story.late += 1
        except WorkerError as error:
            story.error = error.with_traceback(None)

    def judge(self) -> None:
        """After what was bound to happen."""
        for story in self.stories.values():
            self.note_time(story)
            ends = [event for event in story.events if isinstance(event, End)]
            told = f"{story}"
            assert len(ends) + (story.error is not None) <= 1, told
            assert story.late == 0, told
            assert story.receipts.count("cancelled") <= 1, told
            assert story.reader is not None
            if self.must_be_over(story):
                assert self.over(story), told
            if not story.causes:
                assert not self.over(story), told
                assert not story.reader.done(), told
            if self.over(story) and (story.goes_on.is_set() or "left" in story.causes):
                assert story.reader.done(), told
            if story.reader.done():
                self.judge_ending(story, ends[0] if ends else None)
        most = len(self.live()) + sum(map(self.unread, self.stories.values()))
        assert len(self.live()) <= sum(len(binding.leases) for binding in self.host._fleet.bindings()) <= most
        assert len(self.live()) <= sum(each.begun - each.freed for each in self.yard.built) <= most

    def unread(self, story: Story) -> bool:
        """Whether the engine ended it, and its caller, who holds the stream open, was not told yet."""
        record = self.host.explain(story.request.task_id)
        return record is not None and record.ending == "ok" and story.reader is not None and not story.reader.done()

    def judge_ending(self, story: Story, end: End | None) -> None:
        """A reader is told of something that happened, and of nothing else."""
        assert story.reader is not None
        if story.reader.cancelled():
            assert "left" in story.causes, story
            return
        assert story.reader.exception() is None
        assert story.reader.cancelling() == ("left" in story.causes)
        if isinstance(story.error, DeadlineUnmet):
            assert "deadline" in story.causes, story
            return
        if isinstance(story.error, PoolUnavailable):
            assert (story.error.detail, self.stopped) == ("draining", True), story
            return
        ending = story.error.detail if story.error is not None else end and end.finish_reason
        assert ending in {ENDINGS[cause] for cause in story.causes if cause in ENDINGS}, story
        if "cancelled" in story.receipts:
            assert ending == "cancelled", story

    def note_time(self, story: Story) -> None:
        deadline = story.request.deadline_ms
        if deadline is not None and self.now >= story.began + deadline / 1000:
            story.causes.add("deadline")
        if story.drained_at is not None and self.now >= story.drained_at + DRAIN:
            story.causes.add("drained")

    def must_be_over(self, story: Story) -> bool:
        """An engine's ending needs a caller that reads on; all else ends a task whatever its caller does."""
        return bool(story.causes - ({"end", "fail"} if not story.goes_on.is_set() else set()))

    def teardown(self) -> None:
        for story in self.stories.values():
            story.goes_on.set()
            story.causes.add("stopped")
        self.stopped = True
        try:
            self.run(self.host.aclose(drain=0), 1.0)
            self.judge()
            assert not self.live()
            assert not self.host._ledger.calls()
        finally:
            self.runner.close()  # also where it failed: hypothesis goes on with other machines


@pytest.mark.nightly
@pytest.mark.timeout(1800 if os.environ.get("NIGHTLY") else 60)
def test_terminal_states():
    """Battery 10: of all that can end a task one thing does, nothing is told after it, and no lease is left.

    Submits, tokens, the engine's end and failure, cancels, deadlines, callers that leave or do not read, replaced
    replicas whose streams are cut, and stops of the host.
    """
    run_state_machine_as_test(
        Terminals,
        settings=settings(
            max_examples=cases(100, nightly=5000),
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        ),
    )
