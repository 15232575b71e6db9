"""Cancelling, in each phase and by each road: the engine is to see it, in its own record."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

from llama_orch_adapter_api import Token, TokenEvent, WorkerAdapter

from .._connection import Request
from .._dialect import Asked
from .._dialects import framed
from .._engine import LoopbackEngine
from .._fake import Behaviour, FakeEngine
from .._outcome import outcome
from .._reply import Reply
from ._bench import Bench, turns
from ._check import Broken, Trial, check, meanwhile, require
from ._limit import within

ENDLESS = Behaviour(tokens=1_000_000, pace=0.001, slots=2)
SEEN = 5.0
"""Seconds in which an engine is to see that its client has left; it takes milliseconds."""


@check("cancel.phases")
async def phases(trial: Trial) -> None:
    """A task cancelled before the head, after it, in an event, between two: the engine sees its client leave."""
    bench = trial.bench
    head = bench.dialect.head()

    def first(asked: Asked) -> bytes:
        return framed(bench.events(asked)[0])

    pieces: dict[str, Callable[[Asked], tuple[bytes, ...]]] = {
        "before the head": lambda _: (),
        "after the head": lambda _: (head,),
        "in an event": lambda asked: (head, first(asked)[:20]),
        "after an event": lambda asked: (head, first(asked)),
    }
    for phase, sent in pieces.items():
        script = bench.script(lambda asked, s=sent: Reply(s(asked), "hang"))  # type: ignore[misc]
        async with bench.meeting(script) as (adapter, engine):
            waiting = asyncio.create_task(outcome(adapter, bench.task()))
            request = await meanwhile(waiting, _task_of(bench, engine))
            await turns()
            waiting.cancel()
            await asyncio.wait([waiting])
            require(waiting.cancelled(), f"cancelled {phase}, the task went on: let CancelledError pass")
            await _has_left(request, f"cancelled {phase}")


@check("cancel.decode")
async def decode(trial: Trial) -> None:
    """A task cancelled while it generates stops the engine, by the engine's own record."""
    async with _generating(trial.bench) as (adapter, fake):
        waiting = asyncio.create_task(outcome(adapter, trial.bench.task()))
        await meanwhile(waiting, _until(lambda: any(each.tokens >= 5 for each in fake.generations)))
        waiting.cancel()
        await asyncio.wait([waiting])
        await _stopped(fake, "cancelling the task")


@check("cancel.close")
async def close(trial: Trial) -> None:
    """Closing the iterator after a token stops the engine, by its own record; closing it again does nothing."""
    async with _generating(trial.bench) as (adapter, fake):
        stream = _closable(adapter.submit(trial.bench.task()))
        async for event in stream:
            if isinstance(event, Token):
                break
        await stream.aclose()
        await stream.aclose()
        await _stopped(fake, "closing the iterator")


@check("cancel.unread")
async def unread(trial: Trial) -> None:
    """An iterator that is closed before anything was read leaves nothing running."""
    async with _generating(trial.bench) as (adapter, fake):
        stream = _closable(adapter.submit(trial.bench.task()))
        await stream.aclose()
        await turns()
        running = [each for each in fake.generations if each.ended is None]

    require(not running, "a stream that was never read, and closed, generates")


@check("cancel.call")
async def call(trial: Trial) -> None:
    """`cancel(task_id)` never raises: for a task that runs, for one that is over, for one that nobody knows."""
    bench = trial.bench
    async with _generating(trial.bench) as (adapter, fake):
        task = bench.task()
        waiting = asyncio.create_task(outcome(adapter, task))
        await meanwhile(waiting, _until(lambda: any(each.tokens for each in fake.generations)))
        await _never_raises(adapter, bench.task().task_id, "of a task that nobody knows")
        waiting.cancel()
        await asyncio.wait([waiting])
        await _never_raises(adapter, task.task_id, "of a task whose stream is closed")
        await _stopped(fake, "cancel()")
        await _never_raises(adapter, task.task_id, "of a task that is over")


@check("cancel.neighbours")
async def neighbours(trial: Trial) -> None:
    """A task that is cancelled takes no other one with it."""
    bench = trial.bench
    async with bench.meeting(bench.fake(Behaviour(tokens=30, pace=0.001, slots=8))) as (adapter, _):
        tasks = [asyncio.create_task(outcome(adapter, bench.task(prompt=f"n{n}", max_tokens=30))) for n in range(6)]
        await turns(60)
        tasks[2].cancel()
        seen = await asyncio.gather(*tasks, return_exceptions=True)

    for number, one in enumerate(seen):
        if number != 2:
            _is_whole(one, f"n{number}", 30)


@check("confirms_cancel.idle", "confirms_cancel")
async def confirms(trial: Trial) -> None:
    """`cancel()` returns when the engine is idle again, and not before."""
    async with _generating(trial.bench) as (adapter, fake):
        task = trial.bench.task()
        waiting = asyncio.create_task(outcome(adapter, task))
        await meanwhile(waiting, _until(lambda: any(each.tokens for each in fake.generations)))
        waiting.cancel()
        await asyncio.wait([waiting])
        await _never_raises(adapter, task.task_id, "of a task whose stream is closed")
        busy = [each for each in fake.generations if each.ended is None]

    require(not busy, "cancel() returned while the engine still worked on the task")


@asynccontextmanager
async def _generating(bench: Bench) -> AsyncIterator[tuple[WorkerAdapter, FakeEngine]]:
    """An adapter and a fake engine that generates without end."""
    fake = bench.fake(ENDLESS)
    async with bench.meeting(fake) as (adapter, _):
        yield adapter, fake


def _closable(stream: AsyncIterator[TokenEvent]) -> Any:  # noqa: ANN401  # an iterator that can be closed
    require(hasattr(stream, "aclose"), "what submit() gives has no aclose(); an async generator is all it takes")
    return cast(Any, stream)


async def _task_of(bench: Bench, engine: LoopbackEngine) -> Request:
    """The request that holds the task, as soon as it is in."""
    index = 0
    while bench.dialect.asked(request := await engine.request(index)) is None:
        index += 1
    return request


async def _has_left(request: Request, what: str) -> None:
    try:
        async with within(SEEN):
            await request.disconnected()
    except TimeoutError:
        raise Broken(f"{what}: the engine's client is still there; close the connection") from None


async def _stopped(fake: FakeEngine, what: str) -> None:
    try:
        async with within(SEEN):
            await _until(lambda: all(each.ending is not None for each in fake.generations))
    except TimeoutError:
        raise Broken(f"after {what} the engine still generates; close the connection") from None
    endings = {each.ending for each in fake.generations}
    require(endings == {"left"}, f"after {what} the engine's record says {endings}; its client was to leave")


async def _until(holds: Callable[[], bool]) -> None:
    while not holds():  # noqa: ASYNC110  # the engine's record has no event to wait for
        await asyncio.sleep(0.001)


async def _never_raises(adapter: WorkerAdapter, task_id: str, what: str) -> None:
    cancelling: Awaitable[None] = adapter.cancel(task_id)
    try:
        await cancelling
    except Exception as error:  # noqa: BLE001  # an adapter may raise anything
        raise Broken(f"cancel() {what} raises {error!r}; it never raises") from None


def _is_whole(one: object, subject: str, count: int) -> None:
    text = "".join(f"{subject}.{number} " for number in range(count))
    seen = getattr(one, "text", one)
    require(seen == text, f"the answer to {subject!r} is {seen!r}, it is to be {text[:40]!r}…")
