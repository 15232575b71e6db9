"""The event loop belongs to everybody: an adapter neither blocks it nor holds what it may not hold across a `yield`."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from .._dialect import Asked, Piece
from .._outcome import outcome
from .._reply import Reply
from ._bench import Bench
from ._check import Trial, check, require
from ._stream import whole
from ._watch import watched

STREAMS = 32
TOKENS = 256
REFUSED = "no"


@check("loop.not_blocked")
async def not_blocked(trial: Trial) -> None:
    """No call of the adapter's blocks the event loop: no sleep, no look-up of a name, no file, no socket waited for."""
    bench = trial.bench
    tasks = [bench.task(), *([bench.chat()] if "chat" in (await bench.capabilities()).features else [])]

    def reply(asked: Asked) -> Reply:
        return bench.dialect.refusal(503, "busy") if asked.subject == REFUSED else bench.reply()(asked)

    async with bench.meeting(bench.script(reply)) as (adapter, _):
        with watched() as seen:
            await adapter.health()
            await adapter.props()
            await adapter.engine_version()
            for task in tasks:
                whole(await outcome(adapter, task))
            await outcome(adapter, bench.task(prompt=REFUSED))
            await adapter.cancel(tasks[0].task_id)
            await adapter.aclose()

    require(not seen, f"{seen[:1]} blocks the event loop; await it, or hand it to a thread")


@check("loop.yields_bare")
async def yields_bare(trial: Trial) -> None:
    """No `asyncio.timeout` and no `TaskGroup` is held across a `yield`: they would cancel whoever reads."""
    bench = trial.bench
    held: list[str] = []
    async with bench.meeting(bench.script(bench.reply())) as (adapter, _):
        with _entered() as entered:
            async for event in adapter.submit(bench.task()):
                held += [f"{type(one).__name__} at {type(event).__name__}" for one in entered()]

    require(not held, f"across a yield is held: {held[:1]}; leave it before each yield")


@check("loop.cpu")
async def cpu(trial: Trial) -> None:
    """What a token costs is told in the certificate: microseconds of CPU, the scripted engine's share included."""
    bench = trial.bench
    events = [bench.task(prompt=f"c{n}", max_tokens=TOKENS) for n in range(STREAMS)]

    async with bench.meeting(bench.script(lambda asked: bench.body(_backlog(bench, asked)))) as (adapter, _):
        whole(await outcome(adapter, events[0]), "tok " * TOKENS)
        began = time.process_time()
        seen = await asyncio.gather(*(outcome(adapter, task) for task in events))
        spent = time.process_time() - began
    for one in seen:
        whole(one, "tok " * TOKENS)
    bench.facts["cpu_us_per_token"] = round(spent / (STREAMS * TOKENS) * 1e6, 2)


def _backlog(bench: Bench, asked: Asked) -> bytes:
    return b"".join(bench.events(asked, [Piece("tok ")] * TOKENS))


# --- what is entered and not left

Scope = asyncio.Timeout | asyncio.TaskGroup


@contextmanager
def _entered() -> Iterator[Callable[[], list[Scope]]]:
    """Gives what this task has entered, of timeouts and task groups, and not left. The classes are put back after."""
    me = asyncio.current_task()
    live: list[Scope] = []
    kinds: tuple[Any, ...] = (asyncio.Timeout, asyncio.TaskGroup)
    originals = [(kind, kind.__aenter__, kind.__aexit__) for kind in kinds]

    def patched(kind: Any, enter: Any, leave: Any) -> None:  # noqa: ANN401  # methods of either class
        async def entering(scope: Any) -> Any:  # noqa: ANN401
            if asyncio.current_task() is me:
                live.append(scope)
            return await enter(scope)

        async def leaving(scope: Any, *failure: Any) -> Any:  # noqa: ANN401
            if scope in live:
                live.remove(scope)
            return await leave(scope, *failure)

        kind.__aenter__, kind.__aexit__ = entering, leaving

    for original in originals:
        patched(*original)
    try:
        yield lambda: list(live)
    finally:
        for kind, enter, leave in originals:
            kind.__aenter__, kind.__aexit__ = enter, leave
