import asyncio
import gc
import random
import weakref
from collections.abc import AsyncIterator

import pytest
from llama_orch_adapter_api import (
    DeadlineUnmet,
    DecodeTimeout,
    End,
    Metrics,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    WorkerError,
)
from llama_orch_adapter_host import AdapterHost, PoolPolicy
from llama_orch_adapter_host._watch import INTERVAL

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Scripted,
    Words,
    cancel_now,
    drained,
    end,
    host_of,
    moment,
    now,
    run_many,
    task,
    tokens,
    virtual,
)
from .replicas import left_behind  # type: ignore[import-not-found]  # as above
from .streams import turns  # type: ignore[import-not-found]  # as above

LIMITS = Timeouts(first_token=4, idle=2)


async def ending(adapter: Words, timeouts: Timeouts = LIMITS) -> tuple[str, float]:
    """How a call ends that is read as fast as it can be: the error's class and detail, or nothing; and when."""
    begun = now()
    async with host_of(adapter, timeouts=timeouts) as host:
        try:
            await drained(await host.submit("pool", task()))
        except WorkerError as error:
            assert adapter.freed == adapter.begun
            return f"{type(error).__name__} {error.detail}", now() - begun
    return "", now() - begun


@pytest.mark.parametrize(
    "script",
    [(99,), (STARTED, 99), (STARTED, 1, Metrics(), 1, Metrics(), 1, Metrics(), 99)],
    ids=["silent", "started", "metrics"],
)
@virtual
async def test_an_engine_that_never_begins(script: tuple[object, ...]):
    """Battery 25: with no token within its limit a call is DecodeTimeout (first_token), whatever else came."""
    what, at = await ending(Scripted(*script))

    assert what == "DecodeTimeout first_token"
    assert 4 - 1e-6 <= at <= 4 + 2 * INTERVAL


@virtual
async def test_an_engine_that_falls_silent():
    """Battery 25: with no event for longer than the limit a stream is DecodeTimeout (idle), a fault, not retriable."""
    adapter = Scripted(STARTED, 3, Token("a", 0), 1.9, Token("b", 1), 1.9, Metrics(), 99)
    async with host_of(adapter, timeouts=LIMITS) as host:
        stream = await host.submit("pool", task())
        events = [await anext(stream) for _ in range(4)]
        at = now()
        with pytest.raises(
            DecodeTimeout, match=r"the engine fell silent for 2 s · pool/0 · look at the engine"
        ) as caught:
            await anext(stream)

        assert adapter.freed == 1

    error = caught.value
    assert tokens(events) == ["a", "b"]
    assert at == moment(6.8)
    assert 2 - 1e-6 <= now() - at <= 2 + 2 * INTERVAL
    assert (error.detail, error.phase, error.engine_fault, error.retriable) == ("idle", "decode", True, False)


@virtual
async def test_a_slow_consumer_is_no_idle_engine():
    """Battery 25: a caller that takes its time, for longer than any limit, is not held against the engine."""
    async with host_of(Words(words=3, pause=1.9), timeouts=LIMITS) as host:
        events = []
        async for event in await host.submit("pool", task()):
            events.append(event)
            await asyncio.sleep(50)

    assert len(tokens(events)) == 3
    assert events[-1] == end(3)


@virtual
async def test_silence_counts_from_when_the_caller_waits():
    """Battery 25: after a pause of the caller the engine has its whole limit again, from the pull on."""
    async with host_of(Scripted(STARTED, Token("a", 0), 99), timeouts=LIMITS) as host:
        stream = await host.submit("pool", task())
        assert [await anext(stream), await anext(stream)] == [STARTED, Token("a", 0)]
        for pause in (10, 0.01):
            await asyncio.sleep(pause)
        pulled = now()
        with pytest.raises(DecodeTimeout):
            await anext(stream)

    assert 2 - 1e-6 <= now() - pulled <= 2 + 2 * INTERVAL


def test_limits_are_kept_at_random():
    """Battery 25: over 500 random limits and pauses, silence ends a stream within two looks of its limit."""

    async def one(seed: int) -> None:
        rng = random.Random(seed)
        limits = Timeouts(first_token=rng.uniform(0.01, 5), idle=rng.uniform(0.01, 5))
        first, then = rng.uniform(0, 5), rng.uniform(0, 5)
        what, at = await ending(Scripted(STARTED, first, Token("a", 0), then, end(1)), limits)
        grace = 2 * INTERVAL + 1e-6
        if what == "DecodeTimeout first_token":
            assert limits.first_token - 1e-6 <= at <= limits.first_token + grace, f"seed {seed}"
            assert first >= limits.first_token - 1e-6, f"seed {seed}"
        elif what == "DecodeTimeout idle":
            assert first + limits.idle - 1e-6 <= at <= first + limits.idle + grace, f"seed {seed}"
            assert then >= limits.idle - 1e-6, f"seed {seed}"
        else:
            assert what == "", f"seed {seed}"
            assert first <= limits.first_token + grace, f"seed {seed}"
            assert then <= limits.idle + grace, f"seed {seed}"

    async def all_of_them() -> None:
        for seed in range(500):
            await one(seed)

    run_many(all_of_them())


class Timed(Words):
    """Waits as each task asks it to: before its first token, and then before its end."""

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        yield STARTED
        await asyncio.sleep(task.extra["first"])
        yield Token("a", 0)
        await asyncio.sleep(task.extra["then"])
        yield end(1)


@pytest.mark.timeout(120)
def test_deadlines_are_kept_at_random():
    """Battery 24: of 10^4 random deadlines each is kept to the millisecond, in the phase that the task was in."""

    async def one(host: AdapterHost, seed: int) -> None:
        rng = random.Random(seed)
        first, then, deadline = rng.uniform(0, 3), rng.uniform(0, 3), rng.randrange(50, 6000) / 1000
        expected = "first_token" if first > deadline else "decode" if first + then > deadline else "in time"
        begun = now()
        extra = {"first": first, "then": then}
        try:
            await drained(await host.submit("pool", task(deadline_ms=round(deadline * 1000), extra=extra)))
            found = "in time"
        except DeadlineUnmet as error:
            found = error.detail
        assert found == expected, f"seed {seed}"
        assert now() - begun == pytest.approx(min(deadline, first + then), abs=0.001), f"seed {seed}"

    async def all_of_them() -> None:
        async with host_of(Timed()) as host:
            for part in range(0, 10_000, 500):
                await asyncio.gather(*(one(host, seed) for seed in range(part, part + 500)))

    run_many(all_of_them())


@virtual
async def test_a_deadline_passes_while_the_caller_pauses():
    """Battery 24: a deadline that passes between two pulls frees the engine then; the next pull tells it."""
    adapter = Words(words=99)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", task(deadline_ms=2500))
        await anext(stream)
        await asyncio.sleep(1.6)
        freed = adapter.freed
        with pytest.raises(
            DeadlineUnmet, match=r"of 2500 ms passed while the engine wrote · pool/0 · allow more"
        ) as caught:
            await drained(stream)

    assert freed == 1
    assert (caught.value.detail, caught.value.phase, caught.value.engine_fault) == ("decode", "decode", False)


@pytest.mark.parametrize("cancels", [False, True])
@virtual
async def test_a_deadline_of_a_task_that_is_over_is_forgotten(cancels: bool):
    """Battery 24: a deadline does nothing to a task that is over, and keeps nothing of it in memory."""
    async with host_of(Words(words=3)) as host:
        stream = await host.submit("pool", request := task(deadline_ms=3_600_000))
        flight = weakref.ref(stream._flight)
        if cancels:
            asyncio.get_running_loop().call_later(0.5, cancel_now, host, request)
        events = await drained(stream)
        del stream
        await asyncio.sleep(1)
        gc.collect()

        assert flight() is None

    assert isinstance(events[-1], End)


@virtual
async def test_the_watch_rests_when_nothing_flies():
    """The sweeper looks only while there is a stream; a new one wakes it."""
    async with host_of(Words(words=1), Scripted(STARTED, 99), timeouts=LIMITS) as host:
        assert host._watch._timer is None
        await drained(await host.submit("pool", task(replica_id="0")))
        assert host._watch._timer is not None
        await asyncio.sleep(3 * INTERVAL)
        assert host._watch._timer is None

        with pytest.raises(DecodeTimeout):
            await host.submit("pool", task(replica_id="1"))

    assert host._watch._timer is None


@virtual
async def test_a_stream_that_is_kept_after_its_end_holds_no_replica():
    """ORCH-3600: who took the End and pulls no more, but keeps the stream, holds no lease two turns of the loop later.

    Not at the End itself: the lease lasts as long as the adapter cleans up, for which no End is held back.
    """
    adapter = Words(words=1)
    async with host_of(adapter, policy=PoolPolicy(max_in_flight=1), timeouts=Timeouts(drain=30)) as host:
        kept = []
        for _ in range(3):
            kept.append(await host.submit("pool", task()))
            async for event in kept[-1]:
                if isinstance(event, End):
                    break
            came = now()
            await turns(2)
            assert left_behind(host) == []
            assert now() == came
            assert adapter.freed == adapter.begun
        at = now()
        cut = await host.drain("pool")

        assert (cut, now()) == (0, moment(at))
        assert [await drained(stream) for stream in kept] == [[], [], []]


@virtual
async def test_an_end_that_waits_to_be_pulled_is_not_lost():
    """ORCH-3600: a task that ended before anybody pulled is let go of too, and tells all that it had to tell."""
    adapter = Words(words=0)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", task())
        await asyncio.sleep(1)
        left, freed = left_behind(host), adapter.freed

        assert (left, freed) == ([], 1)
        assert await drained(stream) == [STARTED, end(0)]
