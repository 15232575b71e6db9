"""What is left when all is over: nothing (ORCH-3602, battery 30)."""

import asyncio
import gc
import weakref

import pytest
from llama_orch_adapter_api import WorkerHealth, WorkerProps, WorkerReset
from llama_orch_adapter_host import PoolPolicy
from llama_orch_adapter_host._retry import RetryPolicy

from .adapters import PROPS, host_of, now, run_many, task, virtual  # type: ignore[import-not-found]  # no packages
from .replicas import (  # type: ignore[import-not-found]  # as above
    READY,
    Replica,
    left_behind,
    outcome_of,
    overloaded,
    refused,
)


class Slow(Replica):
    """Takes its time for everything that is asked beside its tasks; `deaf` to the first cancellation."""

    deaf = False

    async def health(self) -> WorkerHealth:
        await self.dawdle()
        return READY

    async def props(self) -> WorkerProps:
        await self.dawdle()
        return PROPS

    async def cancel(self, task_id: str) -> None:
        await self.dawdle()

    async def dawdle(self) -> None:
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            if not self.deaf:
                raise
            await asyncio.sleep(0.5)


@pytest.mark.parametrize("deaf", [False, True])
@pytest.mark.parametrize("pause", [0.01, 0.06, 1.5, 3.0])
@virtual
async def test_a_stopped_host_has_no_task_left(pause: float, deaf: bool):
    """Battery 30: when `aclose` is back, whoever asked health, capabilities or a confirmation is gone too."""
    replica = Slow((99,))
    replica.deaf = deaf
    host = host_of(replica)
    request = task()
    reader = asyncio.create_task(outcome_of(host, request))
    await asyncio.sleep(pause)
    await host.cancel("pool", request.task_id)
    await reader
    await host.aclose()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    began = now()

    assert left == set()
    assert left_behind(host) == []
    assert (host._fleet.lookout.probers, host._fleet._by_key, host._fleet._errands) == ({}, {}, set())
    await asyncio.sleep(100)
    assert now() - began == pytest.approx(100)


@virtual
async def test_an_adapter_that_does_not_let_go_of_a_question():
    """Battery 30: a stop waits for such questions no longer than for a farewell."""

    class Stuck(Slow):
        async def dawdle(self) -> None:
            until = now() + 10
            while now() < until:
                try:
                    await asyncio.sleep(until - now())
                except asyncio.CancelledError:
                    continue

    host = host_of(Stuck())
    await asyncio.sleep(0.1)
    began = now()
    await host.aclose()

    assert now() - began <= 2.1
    await asyncio.sleep(10)


@virtual
async def test_the_host_stops_in_a_back_off():
    """Battery 30: leaving the block ends a task in its back-off at once; its caller is told to send it elsewhere."""
    replica = Replica((overloaded(20.0),))
    async with host_of(replica) as host:
        reader = asyncio.create_task(outcome_of(host))
        await asyncio.sleep(1)
    stopped_at = now()

    error = await reader
    assert isinstance(error, WorkerReset)
    assert error.detail == "drained"
    assert now() - stopped_at <= 0.1
    assert stopped_at <= 1.1
    assert left_behind(host) == []


@virtual
async def test_draining_in_a_back_off():
    """Battery 30: a host that drains lets a task sleep on, and then tells what became of it."""
    replica = Replica((overloaded(2.0),))
    host = host_of(replica)
    reader = asyncio.create_task(outcome_of(host))
    await asyncio.sleep(1)
    await host.aclose(drain=10)
    error = await reader

    assert getattr(error, "detail", None) == "overloaded"
    assert 2.0 <= now() <= 2.3
    assert replica.begun == 1


@pytest.mark.parametrize("where", ["in_backoff", "in_commit", "letting_go"])
@virtual
async def test_the_callers_task_is_cancelled(where: str):
    """ORCH-3602: a caller cancelled in a back-off, in an attempt or while one lets go is told so at once."""
    replica = Replica((overloaded(20.0),) if where == "in_backoff" else (99,), tidying=0.5 * (where == "letting_go"))
    async with host_of(replica) as host:
        reader = asyncio.create_task(outcome_of(host))
        await asyncio.sleep(1)
        if where == "letting_go":
            host._ledger.calls()[0].flight.cut(refused())
            await asyncio.sleep(0.2)
        began = now()
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader

        assert now() - began <= 0.01
        await asyncio.sleep(0.6)
        assert left_behind(host) == []
        assert replica.freed == replica.begun


@virtual
async def test_nothing_is_left_of_many_tasks():
    """ORCH-3602: after tasks that went well, failed, were cancelled or were left no call, lease or budget is kept."""
    policy = PoolPolicy(retry=RetryPolicy(base=0.001, cap=0.001))
    replicas = [Replica((refused(),), (0.1, refused()), (99,)), Replica()]
    async with host_of(*replicas, policy=policy) as host:
        readers = [asyncio.create_task(outcome_of(host)) for _ in range(30)]
        await asyncio.sleep(1)
        for call in host._ledger.calls():
            await host.cancel("pool", call.task.task_id)
        await asyncio.gather(*readers)

        assert left_behind(host) == []


def test_a_task_that_went_well_is_no_work_for_the_garbage_collector():
    """Battery 41: what the host made for a task goes with the last who holds it: there is no circle among them."""

    async def main() -> int:
        made: list[weakref.ref[object]] = []
        async with host_of(Replica()) as host:
            gc.collect()
            gc.disable()
            try:
                for ends_by in ("itself", "cancel"):
                    request = task()
                    stream = await host.submit("pool", request)
                    made += [weakref.ref(stream), weakref.ref(stream._call), weakref.ref(stream._flight)]
                    if ends_by == "cancel":
                        await host.cancel("pool", request.task_id)
                    await stream.collect()
                    del stream
                await asyncio.sleep(0.2)  # the watch has looked, and lets go
                return sum(each() is not None for each in made)
            finally:
                gc.enable()

    assert run_many(main()) == 0
