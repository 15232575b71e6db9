import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from llama_orch_adapter_api import (
    AdapterError,
    End,
    Metrics,
    PoolUnavailable,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_host import AdapterHost, CancelReceipt, TokenStream
from llama_orch_adapter_host._events import AdapterBroke
from llama_orch_adapter_host._flight import CLOSE_LIMIT, STOP_LIMIT
from llama_orch_adapter_host._watch import INTERVAL
from llama_orch_adapter_host.observe import captured
from llama_orch_adapter_testkit import VirtualClockLoop, run_virtual

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Bare,
    Clinging,
    Fussy,
    Iterating,
    Mistaken,
    Scripted,
    SelfCancelling,
    Swallowing,
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

CANCELLED = End(None, None, "cancelled")


class EndOfTheWorld(BaseException):
    """What no adapter may be blamed for, and nobody may hold up."""


async def failure_of(stream: TokenStream) -> tuple[list[TokenEvent], WorkerError]:
    """What a stream gave, and the error it ended in; after that it must have nothing more to tell."""
    events: list[TokenEvent] = []
    with pytest.raises(WorkerError) as caught:  # what came before it counts
        async for event in stream:
            events.append(event)  # noqa: PERF401  # as above

    assert await drained(stream) == []
    return events, caught.value


async def cancel_after(seconds: float, host: AdapterHost, request: TaskRequest) -> CancelReceipt:
    await asyncio.sleep(seconds)
    return await host.cancel("pool", request.task_id)


async def drained_up_to(stream: TokenStream, count: int) -> list[TokenEvent]:
    return [await anext(stream) for _ in range(count)]


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


# --- adapters that break their contract


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        (Scripted(KeyError("secret")), "raised KeyError, which is no WorkerError"),
        (Scripted(STARTED, KeyError("secret")), "raised KeyError, which is no WorkerError"),
        (Scripted(STARTED, TimeoutError()), "raised TimeoutError, which is no WorkerError"),
        (Scripted(), "ended its stream without an End"),
        (Scripted(STARTED), "ended its stream without an End"),
        (Mistaken(), "gave a coroutine from submit(), not an async iterator"),
    ],
    ids=["at once", "after started", "its own timeout", "yields nothing", "only started", "async def submit"],
)
@virtual
async def test_a_broken_adapter_is_told_before_the_commit(adapter: WorkerAdapter, told: str):
    """Whatever an adapter raises but a WorkerError is its own defect: AdapterError (plugin), a fault, never retried."""
    async with host_of(adapter) as host:
        with pytest.raises(AdapterError) as caught:
            await host.submit("pool", task())

    error = caught.value
    assert error.message == f"the adapter for words {told} · pool/0 · report it to the adapter's author"
    assert (error.detail, error.engine_fault, error.retriable) == ("plugin", True, False)


@pytest.mark.parametrize(
    ("ending", "told"), [(KeyError("secret"), "raised KeyError"), (0, "ended its stream without an End")]
)
@virtual
async def test_a_broken_adapter_is_told_after_the_commit(ending: Any, told: str):
    """In mid-stream too: the tokens, then AdapterError (plugin) with its cause; an end without End is no success."""
    async with host_of(Scripted(STARTED, Token("a", 0), ending)) as host:
        events, error = await failure_of(await host.submit("pool", task()))

    assert tokens(events) == ["a"]
    assert error.detail == "plugin"
    assert told in error.message
    assert error.__cause__ is (ending or None)


class Refusing(Words):
    """`submit` raises before there is any iterator."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def submit(self, task: object) -> Any:
        raise self.error


class Listing(Words):
    """`submit` gives a list."""

    def submit(self, task: object) -> Any:
        return [STARTED]


@virtual
async def test_a_submit_that_raises():
    """A WorkerError out of `submit` itself is raised with its place; all else, or a list, is the adapter's defect."""
    reset = WorkerReset("gone", detail="reset")
    async with host_of(Refusing(reset), Refusing(OSError("x")), Listing()) as host:
        with pytest.raises(WorkerReset) as known:
            await host.submit("pool", task(replica_id="0"))
        with pytest.raises(AdapterError, match=r"words raised OSError in submit\(\) · pool/1") as foreign:
            await host.submit("pool", task(replica_id="1"))
        with pytest.raises(AdapterError, match=r"gave a list from submit\(\), not an async iterator"):
            await host.submit("pool", task(replica_id="2"))
        leases = [len(binding.leases) for binding in host._registry.all()]

    assert known.value is reset
    assert (reset.engine, reset.pool, reset.replica) == ("words", "pool", "0")
    assert isinstance(foreign.value.__cause__, OSError)
    assert leases == [0, 0, 0]


@pytest.mark.parametrize("adapter_type", [Words, Iterating, Bare, Swallowing])
@virtual
async def test_an_iterator_of_any_make(adapter_type: type[Words]):
    """An async generator, an iterator of a class, one without `aclose`, one that swallows cancellations: all serve."""
    adapter = adapter_type()
    async with host_of(adapter) as host:
        whole = await drained(await host.submit("pool", task()))
        stream = await host.submit("pool", task())
        await host.cancel("pool", stream.task_id)
        ended = await drained(stream)

    assert len(tokens(whole)) == 3
    assert whole[-1] == end(3)
    assert ended == [CANCELLED]
    assert adapter.freed == (0 if adapter_type is Bare else 2)


@virtual
async def test_a_fault_in_the_clean_up_is_no_fault_of_the_task(caplog: pytest.LogCaptureFixture):
    """What an adapter raises when it is closed is an event with its class alone and the mend, and changes no ending."""
    async with host_of(Fussy(words=1)) as host:
        with captured(host) as told:
            stream = await host.submit("pool", task())
            await host.cancel("pool", stream.task_id)
            events = await drained(stream)

    assert events == [CANCELLED]
    assert caplog.messages == [
        "pool/0 has a fault in its adapter, in closing a stream: OSError · report it to its author"
    ]
    assert "stuck" not in caplog.text
    assert [(e.replica_id, e.what, e.error, e.mend) for e in told.of(AdapterBroke)] == [
        ("0", "closing a stream", "OSError", "report it to its author")
    ]


# --- cancel


@pytest.mark.parametrize(
    ("script", "phase"),
    [((9, STARTED, end(0)), "connect"), ((STARTED, 9, end(0)), "first_token")],
    ids=["silent", "started"],
)
@virtual
async def test_cancelled_before_the_first_token(script: tuple[Any, ...], phase: str):
    """Battery 11: cancelled before the first token, submit returns at once, with a stream of `End(cancelled)` alone."""
    adapter = Scripted(*script)
    async with host_of(adapter) as host:
        waiting = asyncio.create_task(host.submit("pool", request := task()).__aenter__())
        await asyncio.sleep(1)
        receipt = await host.cancel("pool", request.task_id)
        stream = await waiting
        at = now()
        events = await drained(stream)

        assert adapter.freed == 1

    assert (receipt.outcome, receipt.phase) == ("cancelled", phase)
    assert at == moment(1)
    assert events == [CANCELLED]
    assert waiting.cancelling() == 0


@virtual
async def test_cancelled_while_the_caller_waits_for_a_token():
    """Battery 11: a cancel in mid-stream wakes the caller at once with `End(cancelled)`, and frees the engine."""
    adapter = Words(words=99)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", request := task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(3.5)
        receipt = await host.cancel("pool", request.task_id)
        at = now()
        events = await reader

        assert now() == at
        assert adapter.freed == 1

    assert (receipt.outcome, receipt.phase) == ("cancelled", "decode")
    assert len(tokens(events)) == 4
    assert events[-1] == CANCELLED
    assert reader.cancelling() == 0


@virtual
async def test_what_was_kept_is_not_delivered_after_a_cancel():
    """Battery 11: after a cancel is answered not one token comes, those that were there already included."""
    async with host_of(Words()) as host:
        stream = await host.submit("pool", request := task())
        receipt = await host.cancel("pool", request.task_id)
        events = await drained(stream)

    assert receipt.outcome == "cancelled"
    assert events == [CANCELLED]


@virtual
async def test_cancelling_again_or_too_late_or_something_unknown():
    """Battery 11: a second cancel and one after the end find `already_done`, others `unknown`; none ever raises."""
    async with host_of(Words(words=1, pause=None)) as host:
        stream = await host.submit("pool", request := task())
        first = await host.cancel("pool", request.task_id)
        second = await host.cancel("pool", request.task_id)
        await drained(stream)
        third = await host.cancel("pool", request.task_id)
        await drained(await host.submit("pool", done := task()))
        late = await host.cancel("pool", done.task_id)
        unknown = await host.cancel("pool", task().task_id)
        odd = await host.cancel("no such pool", "no uuid")

    assert [receipt.outcome for receipt in (first, second, third, late)] == ["cancelled"] + 3 * ["already_done"]
    assert second.phase is None
    assert (unknown.outcome, odd.outcome) == ("unknown", "unknown")


@virtual
async def test_a_cancel_reaches_its_own_pool_alone():
    """A running task is unknown to a pool that does not run it, and goes on."""
    async with host_of(Words()) as host:
        stream = await host.submit("pool", request := task())
        receipt = await host.cancel("other", request.task_id)
        events = await drained(stream)

    assert receipt.outcome == "unknown"
    assert events[-1] == end(3)


@virtual
async def test_an_id_that_is_running_is_refused():
    """Battery 11: a task under a running one's id is AdapterError (duplicate_task); the running one is untouched."""
    adapter = Words()
    async with host_of(adapter) as host:
        stream = await host.submit("pool", request := task())
        with pytest.raises(AdapterError, match="is running already") as caught:
            await host.submit("pool", request)
        events = await drained(stream)
        again = await drained(await host.submit("pool", request))

    assert (caught.value.detail, caught.value.phase, caught.value.retriable) == ("duplicate_task", "queue", False)
    assert len(tokens(events)) == len(tokens(again)) == 3
    assert adapter.begun == 2


@pytest.mark.parametrize("waits", [False, True])
@virtual
async def test_the_canceller_is_the_waiting_task_itself(waits: bool):
    """Battery 11, lesson (a): an adapter that cancels its own task ends it cleanly, whether it goes on or hangs."""
    adapter = SelfCancelling()
    adapter.waits = waits
    async with host_of(adapter) as host:
        adapter.host = host
        stream = await host.submit("pool", task())
        events = await drained(stream)
        for _ in range(3):  # a stray cancellation would come out here
            await asyncio.sleep(0)

        assert adapter.freed == 1

    me = asyncio.current_task()
    assert me is not None
    assert me.cancelling() == 0
    assert tokens(events) == ["before"]
    assert events[-1] == CANCELLED


@virtual
async def test_the_canceller_is_the_adapter_before_its_first_token():
    """Battery 11, lesson (a): an adapter that cancels its own task at once ends in `End(cancelled)` alone."""

    async def cancels_itself(running: TaskRequest) -> None:
        await host.cancel("pool", running.task_id)

    async with host_of(Scripted(STARTED, cancels_itself, Token("a", 0), end(1))) as host:
        events = await drained(await host.submit("pool", task()))

    assert events == [CANCELLED]


@virtual
async def test_an_adapter_that_swallows_cancellations():
    """Lesson (d): once a task is cancelled, the tokens and exceptions its adapter still comes with are dropped."""
    speaks_on = Swallowing(words=5)
    async with host_of(speaks_on) as host:
        stream = await host.submit("pool", request := task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        await host.cancel("pool", request.task_id)
        events = await reader

        assert speaks_on.freed == 1

    assert tokens(events) == ["0 "]
    assert events[-1] == CANCELLED
    assert reader.cancelling() == 0


async def turns_into_an_error(_: object) -> None:
    try:
        await asyncio.sleep(9)
    except asyncio.CancelledError:
        raise KeyError("cancelled?") from None


@virtual
async def test_an_adapter_that_turns_a_cancellation_into_an_error():
    """Lesson (d): a cancelled task ends in `End(cancelled)`, whatever its adapter makes of being interrupted."""
    async with host_of(Scripted(STARTED, Token("a", 0), turns_into_an_error)) as host:
        stream = await host.submit("pool", request := task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        await host.cancel("pool", request.task_id)
        events = await reader

    assert events[-1] == CANCELLED


@virtual
async def test_a_cancellation_that_an_adapter_turns_into_an_error_stays_one():
    """A cancellation from outside is raised to the caller even where the adapter made a KeyError of it."""
    async with host_of(Scripted(STARTED, Token("a", 0), turns_into_an_error)) as host:
        stream = await host.submit("pool", task())
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(0.5)
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

    assert reader.cancelled()


# --- cancellation from outside


@pytest.mark.parametrize("script", [(9, STARTED, end(0)), (STARTED, Token("a", 0), 9, end(1))], ids=["before", "after"])
@virtual
async def test_cancelling_the_callers_task_stops_the_engine(script: tuple[Any, ...]):
    """A cancelled caller sees its CancelledError at once, before or after the commit, and the engine is freed."""
    adapter = Scripted(*script)
    async with host_of(adapter) as host:

        async def call() -> None:
            await drained(await host.submit("pool", request))

        request = task()
        caller = asyncio.create_task(call())
        await asyncio.sleep(1)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        await asyncio.sleep(0)

        assert adapter.freed == 1
        assert now() == moment(1)

        receipt = await host.cancel("pool", request.task_id)

    assert receipt.outcome == "already_done"


@virtual
async def test_both_cancelled_at_once():
    """Lesson (c): where the host's cancel and one from outside meet, the one from outside is not lost."""
    async with host_of(Words(words=9)) as host:
        for host_first in (True, False):
            stream = await host.submit("pool", request := task())
            reader = asyncio.create_task(drained(stream))
            await asyncio.sleep(0.5)
            if host_first:
                await host.cancel("pool", request.task_id)
                reader.cancel()
            else:
                reader.cancel()
                await host.cancel("pool", request.task_id)
            with pytest.raises(asyncio.CancelledError):
                await reader
            events = await drained(stream)

            assert reader.cancelling() == 1
            assert events == [CANCELLED]


@virtual
async def test_a_cancellation_of_long_ago_is_none_of_ours():
    """Lesson (c): a caller that once caught a cancellation and kept it is cancelled by the host as cleanly."""
    me = asyncio.current_task()
    assert me is not None
    me.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.sleep(0)
    async with host_of(Words(words=9)) as host:
        stream = await host.submit("pool", request := task())
        canceller = asyncio.create_task(cancel_after(0.5, host, request))
        events = await drained(stream)
        receipt = await canceller

    assert receipt.outcome == "cancelled"
    assert events[-1] == CANCELLED
    assert me.cancelling() == 1
    me.uncancel()


@virtual
async def test_a_timeout_around_the_loop():
    """`asyncio.timeout` around a stream works as around anything: TimeoutError, the engine freed, nothing left."""
    adapter = Words(words=9)
    async with host_of(adapter) as host:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await drained(await host.submit("pool", task()))
        at = now()
        await asyncio.sleep(0)

        assert adapter.freed == 1

    me = asyncio.current_task()
    assert at == moment(2.5)
    assert me is not None
    assert me.cancelling() == 0


@virtual
async def test_each_pull_in_a_task_of_its_own():
    """A caller may pull through `asyncio.wait_for`, which makes a task for each pull, and be told of a cancel there."""
    async with host_of(Words(words=3)) as host:
        stream = await host.submit("pool", task())
        whole = [await asyncio.wait_for(anext(stream), 9) for _ in range(5)]
        with pytest.raises(StopAsyncIteration):
            await asyncio.wait_for(anext(stream), 9)

        stream = await host.submit("pool", request := task())
        kept = [await asyncio.wait_for(anext(stream), 9) for _ in range(2)]
        canceller = asyncio.create_task(cancel_after(0.5, host, request))
        ended = await asyncio.wait_for(anext(stream), 9)
        await canceller

    assert len(tokens(whole)) == 3
    assert len(tokens(kept)) == 1
    assert ended == CANCELLED


@virtual
async def test_a_pull_that_takes_too_long():
    """A pull given up by `asyncio.wait_for` ends the stream, as it would end any generator, and frees the engine."""
    adapter = Words(words=3)
    async with host_of(adapter) as host:
        stream = await host.submit("pool", task())
        await drained_up_to(stream, 2)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(anext(stream), 0.5)
        events = await drained(stream)

        assert adapter.freed == 1

    assert events == [CANCELLED]


@virtual
async def test_an_adapter_that_was_cancelled_itself():
    """A CancelledError out of the adapter's own workings passes as what it is, and ends the task."""

    async def cancelled_inside(_: object) -> None:
        future = asyncio.get_running_loop().create_future()
        future.cancel()
        await future

    async with host_of(Scripted(STARTED, Token("a", 0), cancelled_inside)) as host:
        stream = await host.submit("pool", task())
        reader = asyncio.create_task(drained(stream))
        with pytest.raises(asyncio.CancelledError):
            await reader

    assert reader.cancelled()


# --- the end of the world


@virtual
async def test_what_is_no_exception_passes():
    """A KeyboardInterrupt or its like that comes out of an adapter is raised as it is, and the task is over."""
    async with host_of(Scripted(STARTED, Token("a", 0), 1, EndOfTheWorld())) as host:
        stream = await host.submit("pool", task())
        with pytest.raises(EndOfTheWorld):
            await drained(stream)
        events = await drained(stream)

    assert events == [CANCELLED]


@virtual
async def test_what_is_no_exception_passes_while_cancelled():
    """A KeyboardInterrupt or its like is not held up because the task was being cancelled, nor while it is closed."""

    async def last_word(_: object) -> None:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise EndOfTheWorld from None

    class Ending(Words):
        async def clean_up(self) -> None:
            raise EndOfTheWorld

    async with host_of(Scripted(STARTED, Token("a", 0), last_word), Ending(words=1, pause=None)) as host:
        stream = await host.submit("pool", request := task(replica_id="0"))
        reader = asyncio.create_task(drained(stream))
        await asyncio.sleep(1)
        await host.cancel("pool", request.task_id)
        with pytest.raises(EndOfTheWorld):
            await reader
        stream = await host.submit("pool", task(replica_id="1"))
        with pytest.raises(EndOfTheWorld):
            await drained(stream)
        leases = [len(binding.leases) for binding in host._registry.all()]

    assert reader.cancelling() == 0
    assert leases == [0, 0]


def test_ctrl_c_reaches_the_one_who_pressed_it():
    """A KeyboardInterrupt inside an adapter ends the program's loop."""

    async def main() -> None:
        async with host_of(Scripted(STARTED, KeyboardInterrupt())) as host:
            await host.submit("pool", task())

    with pytest.raises(KeyboardInterrupt):
        run_virtual(main())


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
