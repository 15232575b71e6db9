import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from llama_orch_adapter_api import (
    Metrics,
    PoolUnavailable,
    Token,
    WorkerReset,
)
from llama_orch_adapter_host._flight import CLOSE_LIMIT, STOP_LIMIT
from llama_orch_adapter_host._watch import INTERVAL
from llama_orch_adapter_testkit import VirtualClockLoop

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Clinging,
    Scripted,
    Tidy,
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
from .schedules import play  # type: ignore[import-not-found]  # as above
from .streams import CANCELLED, drained_up_to, failure_of  # type: ignore[import-not-found]  # as above

# --- the commit


@virtual
async def test_submit_returns_at_the_first_token():
    """The commit: `Started` and `Metrics` are kept, the first token is waited for, and all come in their order."""
    progress = Metrics(prompt_progress=0.5)
    adapter = Scripted(1, STARTED, 1, progress, 1, Token("a", 0), 1, Token("b", 1), 1, end(2))
    async with host_of(adapter) as host, host.submit("pool", task()) as stream:
        committed = now()
        events = await drained(stream)

    assert committed == moment(3)
    assert events == [STARTED, progress, Token("a", 0), Token("b", 1), end(2)]


@pytest.mark.parametrize("channel", ["content", "reasoning", "tool_call"])
@virtual
async def test_a_token_of_any_channel_commits(channel: Any):
    """The commit: a token commits whatever its channel, so that nothing is retried once a model has begun to think."""
    adapter = Scripted(STARTED, 1, Token("a", 0, channel), 9, end(1))
    async with host_of(adapter) as host, host.submit("pool", task()):
        committed = now()

    assert committed == moment(1)


@virtual
async def test_an_end_commits():
    """The commit: an answer without a token is handed over at its end."""
    async with host_of(Scripted(STARTED, 1, end(0))) as host:
        events = await drained(await host.submit("pool", task()))

    assert events == [STARTED, end(0)]


@virtual
async def test_what_fails_before_the_commit_is_raised_by_submit():
    """The commit: everything that could be retried is raised by the await, with pool, replica, engine and phase."""
    failing = Scripted(STARTED, WorkerReset("the engine went away", detail="reset"))
    async with host_of(failing) as host:
        with pytest.raises(WorkerReset) as caught:
            await host.submit("pool", task())

        assert failing.freed == 1

    error = caught.value
    assert (error.engine, error.pool, error.replica, error.phase) == ("words", "pool", "0", "first_token")
    assert error.attempts == 1


@virtual
async def test_what_fails_after_the_commit_is_raised_by_the_stream():
    """Battery 15: after the first token the tokens that came are given, then the fault, then nothing."""
    adapter = Scripted(STARTED, Token("a", 0), 1, Token("b", 1), WorkerReset("gone", detail="reset"))
    async with host_of(adapter) as host:
        events, error = await failure_of(await host.submit("pool", task()))

    assert tokens(events) == ["a", "b"]
    assert (error.detail, error.phase, error.replica) == ("reset", "decode", "0")
    assert adapter.begun == 1


@virtual
async def test_an_error_keeps_the_facts_it_came_with():
    """What the adapter knew of a failure, its phase and place, is not overwritten."""
    known = PoolUnavailable("refused", detail="unreachable", phase="connect", engine="theirs")
    async with host_of(Scripted(known)) as host:
        with pytest.raises(PoolUnavailable) as caught:
            await host.submit("pool", task())

    assert caught.value is known
    assert (known.phase, known.engine, known.pool) == ("connect", "theirs", "pool")


# --- adapters that do not let go


@pytest.mark.parametrize("deaf", [0, 2])
@virtual
async def test_an_adapter_that_hangs_in_its_clean_up(deaf: int, caplog: pytest.LogCaptureFixture):
    """A caller gets its ending soon after the limit for letting go, even where it takes more than one cancellation."""
    adapter = Clinging(words=9, deaf=deaf)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", request := task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        begun = now()
        await host.cancel("pool", request.task_id)
        events = await reader
        took = now() - begun

        assert not host._registry.all()[0].leases

    assert events[-1] == CANCELLED
    assert (deaf + 1) * CLOSE_LIMIT <= took <= (deaf + 1) * (CLOSE_LIMIT + 2 * INTERVAL)
    assert reader.cancelling() == 0


@virtual
async def test_an_adapter_that_hangs_after_its_end(caplog: pytest.LogCaptureFixture):
    """The end of a stream is told at once; reading on waits no longer than the limit for letting go."""
    async with host_of(Clinging(words=1)) as host:
        stream = await host.submit("pool", task())
        events = await drained_up_to(stream, 3)
        told = now()
        rest = await drained(stream)
        took = now() - told

    me = asyncio.current_task()
    assert events[-1] == end(1)
    assert told == moment(1)
    assert rest == []
    assert CLOSE_LIMIT <= took <= CLOSE_LIMIT + 2 * INTERVAL
    assert caplog.messages == [
        "pool/0 has a fault in its adapter, in closing a stream: CancelledError · report it to its author"
    ]
    assert me is not None
    assert me.cancelling() == 0


@virtual
async def test_stopping_waits_no_longer_than_its_limit():
    """`aclose` is back within its limit though the adapter hangs on for longer, and the next pull does not wait."""
    adapter = Clinging(words=9, deaf=2)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", task())
        begun = now()
        await stream.aclose()
        took = now() - begun
        events = await drained(stream)

        assert now() == begun + took

        await asyncio.sleep(3 * CLOSE_LIMIT + 1)

    assert took == moment(STOP_LIMIT)
    assert events == [CANCELLED]


@virtual
async def test_a_clean_up_that_takes_its_time_is_let_be():
    """An adapter's clean-up within the limit is not cut short, whenever its stream was interrupted."""
    adapter = Tidy(words=9, seconds=CLOSE_LIMIT - 0.01)
    async with host_of(adapter) as host:
        for seconds in (1.0, 0.5):  # as a token arrives, and between two
            stream = await host.submit("pool", request := task())
            reader = asyncio.create_task(drained(stream))
            await asyncio.sleep(0)
            asyncio.get_running_loop().call_later(seconds, cancel_now, host, request)
            events = await reader

            assert events[-1] == CANCELLED

    assert adapter.tidied == 2


@virtual
async def test_a_cancellation_from_outside_while_the_adapter_cleans_up():
    """A caller that is cancelled while it waits for the clean-up is let go at once, and sees a CancelledError."""
    async with host_of(Clinging(words=1, pause=None)) as host:
        stream = await host.submit("pool", task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.1)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

        assert now() == moment(0.1)
        assert not host._registry.all()[0].leases


# --- two who meddle


@virtual
async def test_two_tasks_that_read_one_stream_are_told():
    """A second reader is refused at once with the mend; the first goes on unharmed."""
    async with host_of(Words()) as host:
        stream = await host.submit("pool", task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        with pytest.raises(RuntimeError, match="two tasks read one stream; let one of them read it"):
            await anext(stream)
        events = await reader

    assert len(tokens(events)) == 3
    assert events[-1] == end(3)


@virtual
async def test_a_second_reader_does_not_take_the_ending():
    """The ending of a cancelled task goes to the reader that waits, not to another that asks before that one woke."""
    adapter = Words()
    async with host_of(adapter) as host:
        stream = await host.submit("pool", request := task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        await host.cancel("pool", request.task_id)
        with pytest.raises(RuntimeError, match="two tasks read one stream"):
            await anext(stream)
        events = await reader

    assert events[-1] == CANCELLED
    assert adapter.freed == 1


@virtual
async def test_a_stream_dropped_while_it_is_cancelled(caplog: pytest.LogCaptureFixture):
    """A stream that is dropped while its adapter cleans up for a reader is closed once, in peace."""
    adapter = Tidy()
    async with host_of(adapter) as host:
        stream = await host.submit("pool", request := task())
        await drained_up_to(stream, 2)
        pull = asyncio.create_task(anext(stream))
        await asyncio.sleep(0.5)
        await host.cancel("pool", request.task_id)
        del stream
        await asyncio.sleep(0.1)

        assert len(host._registry.all()[0].leases) == 1

        event = await pull

    assert event == CANCELLED
    assert (adapter.tidied, adapter.freed) == (1, 1)
    assert caplog.messages == []


@virtual
async def test_a_stream_closed_by_another_task():
    """Closing a stream that somebody reads ends his reading with `End(cancelled)`."""
    async with host_of(Words()) as host:
        stream = await host.submit("pool", task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        await stream.aclose()
        events = await reader

    assert events[-1] == CANCELLED


# --- battery 10 and 41


@pytest.mark.timeout(120)
@pytest.mark.parametrize("part", range(5))
def test_any_order_of_endings(part: int, caplog: pytest.LogCaptureFixture):
    """Battery 10: in 10^5 random schedules each task has one ending, and no cancellation is lost or invented."""
    caplog.set_level(logging.ERROR)  # closings that fail are part of it

    played, endings = run_many(play(range(part * 20_000, (part + 1) * 20_000)))

    assert played == 20_000
    assert set(endings) == {
        "cancelled",
        "cancelled from outside",
        "left early",
        "stop",
        "AdapterError",
        "DeadlineUnmet",
        "WorkerReset",
    }
    assert min(endings.values()) > 500


class CountingLoop(VirtualClockLoop):
    """Counts the timers and tasks that are made on it."""

    def __init__(self) -> None:
        super().__init__()
        self.made = 0

    def call_at(self, when: float, callback: Callable[..., object], *args: Any, **facts: Any) -> asyncio.TimerHandle:
        self.made += 1
        return super().call_at(when, callback, *args, **facts)

    def call_soon(self, callback: Callable[..., object], *args: Any, **facts: Any) -> asyncio.Handle:
        self.made += 1
        return super().call_soon(callback, *args, **facts)

    def create_task(self, coro: Coroutine[Any, Any, Any], **facts: Any) -> asyncio.Task[Any]:
        self.made += 1
        return super().create_task(coro, **facts)


def things_made_for(words: int) -> int:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, CountingLoop)
        async with host_of(Words(words, pause=None)) as host:
            before = loop.made
            async with host.submit("pool", task(deadline_ms=60_000)) as stream:
                async for _ in stream:
                    pass
            return loop.made - before

    with asyncio.Runner(loop_factory=CountingLoop) as runner:
        return runner.run(main())


def test_a_token_costs_no_timer_task_or_turn():
    """Battery 41: all that a call makes on the loop is deadline, watch and a look at its end, for 1 token or 10,000."""
    assert things_made_for(1) == things_made_for(10_000) == 3
