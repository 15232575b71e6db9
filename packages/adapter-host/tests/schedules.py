"""Random interleavings of everything that can end a stream, each judged by the same rules.

Time is cut into few moments, so that much falls into the same one; within a moment, who comes first is drawn by turns
of the loop. One seed gives one schedule, always the same.
"""

import asyncio
import contextlib
import gc
import random
import sys
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

from llama_orch_adapter_api import (
    DeadlineUnmet,
    End,
    InternalError,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_host import AdapterHost, PoolPolicy, TokenStream
from llama_orch_adapter_host._breaker import BreakerPolicy

from .adapters import STARTED, Words, cancel_now, host_of, now  # type: ignore[import-not-found]  # test folders are no packages

UNIT = 0.1
"""Seconds between two moments."""

LAST = 12
"""The moment at which whatever still runs is cancelled."""

PATIENCE = 1.0
"""Seconds after which a stream that was ended is over, however its adapter takes it."""


NEVER_OPEN = PoolPolicy(breaker=BreakerPolicy(consecutive=10**9, share=1.0, window=1000, minimum=1000))
"""The schedules are of one task each: what they do to the breaker stands elsewhere."""


@dataclass
class Story:
    """What happened to one task."""

    seed: int
    events: list[TokenEvent] = field(default_factory=list)
    error: BaseException | None = None
    late: int = 0  # events after a cancel was answered
    over: bool = False  # the stream told all it had to tell
    waits: bool = False  # the consumer pulls through `asyncio.wait_for`
    outside: int = 0  # cancellations of the consumer by others
    receipts: list[str] = field(default_factory=list)
    ended_at: float = 0.0
    ending: str = ""


class Actor(Words):
    """An adapter whose stream is drawn: pauses, tokens, an ending, and how it takes being cancelled and closed."""

    def __init__(self) -> None:
        super().__init__()
        self.rng = random.Random()
        self.host: AdapterHost
        self.swallowed = 0

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        stream = self.speak(task)
        return stream if self.rng.random() < 0.7 else _Wrapped(stream)

    async def speak(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        rng = self.rng
        deaf = rng.random() < 0.2
        self.begun += 1
        try:
            await self.rest(deaf)
            yield STARTED
            for i in range(rng.choice((0, 1, 2, 5))):
                await self.rest(deaf)
                if rng.random() < 0.03:
                    await self.host.cancel("pool", task.task_id)
                yield Token("t", i)
            await self.rest(deaf)
            ending = rng.choice(("end", "end", "fails", "breaks", "stops", "hangs"))
            if ending == "end":
                yield End(1, 1, "stop")
            elif ending == "fails":
                raise WorkerReset("the engine went away", detail="reset")
            elif ending == "breaks":
                raise KeyError("oh")
            elif ending == "hangs":
                await asyncio.Event().wait()
        finally:
            self.freed += 1
            if rng.random() < 0.2:
                await self.rest(deaf=False)
            if rng.random() < 0.05:
                raise OSError("cannot close")

    async def rest(self, deaf: bool) -> None:
        """Wait for a drawn time, or not at all."""
        pause = self.rng.choice((None, None, 0, UNIT, UNIT, 2 * UNIT))
        if pause is None:
            return
        try:
            await asyncio.sleep(pause)
        except asyncio.CancelledError:
            if not deaf:
                raise
            self.swallowed += 1


class _Wrapped:
    """An iterator that is no generator."""

    def __init__(self, stream: AsyncIterator[TokenEvent]) -> None:
        self.stream = stream

    def __aiter__(self) -> "_Wrapped":
        return self

    async def __anext__(self) -> TokenEvent:
        return await anext(self.stream)

    async def aclose(self) -> None:
        await self.stream.aclose()  # type: ignore[attr-defined]  # it is an async generator


class Stage:
    """One host with one adapter, on which schedules are played one after the other."""

    def __init__(self) -> None:
        self.actor = Actor()
        self.host = host_of(self.actor, policy=NEVER_OPEN)
        self.actor.host = self.host
        self.loop = asyncio.get_running_loop()

    async def play(self, seed: int) -> Story:
        """Play the schedule of a seed, and raise AssertionError where a rule is broken."""
        rng = random.Random(seed)
        self.actor.rng = rng
        self.actor.swallowed = 0
        story = Story(seed)
        deadline = rng.choice((None, None, None, rng.randrange(1, LAST)))
        request = TaskRequest(prompt="p", deadline_ms=deadline and int(deadline * UNIT * 1000))
        stale = rng.random() < 0.1
        began = now()
        consumer = asyncio.create_task(self.consume(request, story, rng, stale=stale))
        for _ in range(2 * stale):  # until that one is behind it
            await asyncio.sleep(0)
        timers = [
            self.loop.call_at(began + rng.randrange(LAST) * UNIT, self.hop, rng.choice((0, 0, 1, 2, 3)), act)
            for act in rng.choices(self.acts(request, story, consumer), k=rng.choice((0, 1, 1, 2, 3)))
        ]
        timers.append(self.loop.call_at(began + LAST * UNIT, self.act_cancel, request, story))
        await asyncio.wait({consumer})
        for timer in timers:
            timer.cancel()
        story.ended_at = now() - began
        self.judge(story, consumer, deadline, stale=stale)
        story.ending = ending_of(story, consumer)
        del consumer, timers, timer  # a cancelled task keeps its frames, and so the stream
        await self.settled(story)
        return story

    def hop(self, turns: int, act: Callable[[], None]) -> None:
        """Act after some turns of the loop."""
        if turns:
            self.loop.call_soon(self.hop, turns - 1, act)
        else:
            act()

    def acts(self, request: TaskRequest, story: Story, consumer: asyncio.Task[None]) -> list[Callable[[], None]]:
        def cancel() -> None:
            self.act_cancel(request, story)

        def cancel_twice() -> None:
            cancel()
            cancel()

        def from_outside() -> None:
            story.outside += consumer.cancel("outside")

        def both() -> None:
            from_outside()
            cancel()

        def both_the_other_way() -> None:
            cancel()
            from_outside()

        return [cancel, cancel, cancel_twice, from_outside, both, both_the_other_way]

    def act_cancel(self, request: TaskRequest, story: Story) -> None:
        story.receipts.append(cancel_now(self.host, request).outcome)

    async def consume(self, request: TaskRequest, story: Story, rng: random.Random, *, stale: bool) -> None:
        if stale:  # a cancellation that was caught long ago and never taken back
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.current_task().cancel()  # type: ignore[union-attr]  # a coroutine runs in a task
                await asyncio.sleep(0)
        leaves_after = rng.choice((None, None, None, None, None, None, 0, 1, 2))
        try:
            if rng.random() < 0.5:
                async with self.host.submit("pool", request) as stream:
                    await self.read(stream, story, rng, leaves_after)
            else:
                await self.read(await self.host.submit("pool", request), story, rng, leaves_after)
        except WorkerError as error:
            story.error = error.with_traceback(None)
        for _ in range(3):  # a cancellation gone astray would come out here
            await asyncio.sleep(0)

    async def read(self, stream: TokenStream, story: Story, rng: random.Random, leaves_after: int | None) -> None:
        story.waits = waits = rng.random() < 0.1
        while leaves_after is None or len(story.events) < leaves_after:
            try:
                event = await (asyncio.wait_for(anext(stream), 1000) if waits else anext(stream))
            except StopAsyncIteration:
                story.over = True
                return
            except WorkerError as error:
                story.error = error.with_traceback(None)
                story.over = await self.is_silent(stream)
                raise
            if not waits:  # else it may have been handed to wait_for's own task before
                story.late += "cancelled" in story.receipts and not isinstance(event, End)
            story.events.append(event)
            pause = rng.choice((None, None, None, 0, UNIT, 2 * UNIT))
            if pause is not None:
                await asyncio.sleep(pause)

    async def is_silent(self, stream: TokenStream) -> bool:
        """Whether there is nothing more to be had."""
        async for _ in stream:
            return False
        return True

    def judge(self, story: Story, consumer: asyncio.Task[None], deadline: int | None, *, stale: bool) -> None:
        """The rules that hold for whoever reads a stream."""
        ends = [event for event in story.events if isinstance(event, End)]
        given = [event.i for event in story.events if isinstance(event, Token)]
        told = f"seed {story.seed}: {story}"
        assert len(ends) + (story.error is not None) <= 1, f"more than one ending · {told}"
        assert not ends or story.events[-1] is ends[0], f"something after the end · {told}"
        assert given == list(range(len(given))), f"a token lost or repeated · {told}"
        assert story.late == 0, f"a token after the cancel was answered · {told}"
        assert story.receipts.count("cancelled") <= 1, f"cancelled twice · {told}"
        if story.over:
            assert len(ends) + (story.error is not None) == 1, f"no ending · {told}"
        if story.outside:
            loses = sys.version_info < (3, 12) and story.waits  # wait_for forgot cancellations until then
            heeded = consumer.cancelled() or self.actor.swallowed or loses
            assert heeded, f"a cancellation from outside was lost · {told}"
        else:
            assert not consumer.cancelled(), f"a cancellation nobody sent · {told}"
            assert consumer.cancelling() == stale, f"a cancellation not taken back · {told}"
        if not consumer.cancelled():
            assert consumer.exception() is None, f"{consumer.exception()!r} · {told}"
        if isinstance(story.error, DeadlineUnmet):
            assert deadline is not None, told
            assert story.ended_at >= deadline * UNIT - 1e-6, f"too early · {told}"
            assert "cancelled" not in story.receipts, f"cancelled, but told of the deadline · {told}"
        elif "cancelled" in story.receipts and story.over:
            assert ends, f"cancelled, but told {story.error} · {told}"
            assert ends[0].finish_reason == "cancelled", told
        assert not isinstance(story.error, InternalError), told

    async def settled(self, story: Story) -> None:
        """Everybody has let go within the time that is theirs."""
        binding = self.host._registry.all()[0]
        for _ in range(round(2 * PATIENCE / UNIT)):
            if binding.leases:
                await asyncio.sleep(UNIT / 2)
        assert not binding.leases, f"seed {story.seed}: a lease is left"
        assert not self.host._ledger.calls(), f"seed {story.seed}: a flight is left"
        assert self.actor.begun == self.actor.freed, f"seed {story.seed}: the engine works on"


def ending_of(story: Story, consumer: asyncio.Task[None]) -> str:
    """In one word."""
    if consumer.cancelled():
        return "cancelled from outside"
    if story.error is not None:
        return type(story.error).__name__
    last = story.events[-1] if story.events else None
    return last.finish_reason if isinstance(last, End) else "left early"


async def play(seeds: range) -> tuple[int, dict[str, int]]:
    """Play these schedules; how many there were, and how often each ending came."""
    stage = Stage()
    endings: dict[str, int] = {}
    for seed in seeds:
        story = await stage.play(seed)
        endings[story.ending] = endings.get(story.ending, 0) + 1
    await stage.host.aclose(drain=0)
    gc.collect()
    return len(seeds), endings
