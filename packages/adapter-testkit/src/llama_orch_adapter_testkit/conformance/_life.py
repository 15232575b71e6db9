"""An adapter's life: many streams at once, being closed, and one event loop after the other."""

import asyncio
import gc
import warnings

from .._fake import Behaviour
from .._outcome import Outcome, outcome
from ._bench import Bench, turns
from ._check import Trial, check, meanwhile, require
from ._limit import run
from ._stream import whole

MANY = 200
TOKENS = 4


@check("life.many_streams")
async def many_streams(trial: Trial) -> None:
    """200 streams at once all run, and each gets its own answer."""
    bench = trial.bench
    fake = bench.fake(Behaviour(slots=MANY, prefill=0.05))
    async with bench.meeting(fake) as (adapter, _):
        asked = [bench.task(prompt=f"s{number}", max_tokens=TOKENS) for number in range(MANY)]
        running = [asyncio.create_task(outcome(adapter, task)) for task in asked]
        seen = await asyncio.gather(*running)
        at_once = _at_once([(each.began, each.ended or 0.0) for each in fake.generations])

    for number, one in enumerate(seen):
        whole(one, "".join(f"s{number}.{token} " for token in range(TOKENS)))
    require(at_once == MANY, f"of {MANY} tasks {at_once} ran at once; leave limits to the host (aiohttp: limit=0)")


@check("life.close_twice")
async def close_twice(trial: Trial) -> None:
    """`aclose()` may be called again, before any use and after, and lets go of every connection."""
    bench = trial.bench
    async with bench.meeting(bench.script(bench.reply())) as (adapter, engine):
        unused = bench.adapter(engine.url)
        await unused.aclose()
        await unused.aclose()
        await adapter.health()
        whole(await outcome(adapter, bench.task()))
        await adapter.aclose()
        await adapter.aclose()
        await engine.deserted()


@check("life.close_under_streams")
async def close_under_streams(trial: Trial) -> None:
    """`aclose()` while streams run ends or leaves them, hangs nobody, and lets go once they are over."""
    bench = trial.bench
    async with bench.meeting(bench.fake(Behaviour(tokens=1_000_000, pace=0.001))) as (adapter, engine):
        running = [asyncio.create_task(outcome(adapter, bench.task())) for _ in range(4)]
        await meanwhile(running[0], engine.request(3))
        await turns()
        await adapter.aclose()
        for each in running:
            each.cancel()
        seen = await asyncio.gather(*running, return_exceptions=True)
        await adapter.aclose()
        await engine.deserted()

    odd = [one for one in seen if not isinstance(one, Outcome | asyncio.CancelledError)]
    require(not odd, f"a stream whose adapter was closed ended in {odd[:1]}; raise a WorkerError")


@check("life.leaves_nothing")
async def leaves_nothing(trial: Trial) -> None:
    """After `aclose()` no task of the adapter's runs, and the collector finds nothing that was left open."""
    bench = trial.bench
    before = asyncio.all_tasks()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always", ResourceWarning)
        async with bench.meeting(bench.script(bench.reply())) as (adapter, _):
            whole(await outcome(adapter, bench.task()))
            await adapter.props()
        del adapter
        await turns(40)
        left = {task.get_name() for task in asyncio.all_tasks() - before}
        gc.collect()
        await turns()
    open_ones = [str(one.message) for one in seen if issubclass(one.category, ResourceWarning)]

    require(not left, f"after aclose() these tasks run: {sorted(left)}")
    require(not open_ones, f"after aclose() something is open: {open_ones[:1]}")


@check("life.loops")
async def loops(trial: Trial) -> None:
    """Nothing is kept from one event loop to the next: adapters on loops of their own work, in turn and at once."""
    in_turn = [await asyncio.to_thread(_on_a_loop, trial.bench) for _ in range(2)]
    at_once = await asyncio.gather(*(asyncio.to_thread(_on_a_loop, trial.bench) for _ in range(2)))
    for one in (*in_turn, *at_once):
        whole(one)


def _on_a_loop(bench: Bench) -> Outcome:
    return run(_once(bench))


async def _once(bench: Bench) -> Outcome:
    async with bench.meeting(bench.script(bench.reply())) as (adapter, _):
        await adapter.health()
        return await outcome(adapter, bench.task())


def _at_once(spans: list[tuple[float, float]]) -> int:
    """How many of these spans, in seconds, hold one moment at the most."""
    moments = sorted([(began, 1) for began, _ in spans] + [(ended, -1) for _, ended in spans])
    most = running = 0
    for _, step in moments:
        running += step
        most = max(most, running)
    return most
