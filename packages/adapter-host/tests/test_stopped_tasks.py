"""What a stop of the host does to the tasks that it ends: each has failed, and may be sent elsewhere."""

import asyncio
from typing import Any

import pytest
from llama_orch_adapter_api import (
    WorkerReset,
)
from llama_orch_adapter_host import PoolPolicy, RetryPolicy

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Scripted,
    Words,
    drained,
    host_of,
    now,
    task,
    virtual,
)
from .replicas import Lingering, reset  # type: ignore[import-not-found]  # as above
from .streams import CANCELLED, failure_of  # type: ignore[import-not-found]  # as above


@virtual
async def test_what_a_stop_ends_says_where_it_may_go():
    """ORCH-3302, semantics 5: a task that a stop cut off failed, by nobody's fault, and is to be sent elsewhere."""
    host = host_of(Words(words=9))
    (binding,) = host._registry.all()
    stream = await host.submit("pool", request := task())
    await host.aclose(drain=0)
    _, error = await failure_of(stream)

    assert (error.code, error.detail, error.phase, error.retriable) == ("WORKER_RESET", "drained", "decode", True)
    assert (error.engine, error.pool, error.replica, error.attempts) == ("words", "pool", "0", 1)
    assert error.message.startswith("the host is stopping, and waits no longer for this task · pool/0 · send it again")
    assert binding.gate.breaker.state == "closed"
    record = host.explain(request.task_id)
    assert record is error.record
    assert (record.ending, record.phase, record.attempts[0].outcome) == ("failed", "decode", "cancelled")


@pytest.mark.parametrize("script", [(99,), (STARTED, 99), (WorkerReset("reset by peer", detail="reset"),)])
@virtual
async def test_a_stop_sends_nothing_again(script: tuple[Any, ...]):
    """Battery 30: what had no token yet when the host stopped is raised by its submit, and sent to nobody else."""
    adapters = [Scripted(*script), Scripted(*script)]
    slow = PoolPolicy(retry=RetryPolicy(base=99, cap=99))
    host = host_of(*adapters, policy=slow)
    sending = asyncio.create_task(host._submit("pool", request := task()))
    await asyncio.sleep(0.1)
    at = now()
    await host.aclose(drain=0)
    with pytest.raises(WorkerReset) as caught:
        await sending

    assert now() == at
    assert (caught.value.detail, caught.value.pool, caught.value.attempts) == ("drained", "pool", 1)
    assert sum(adapter.begun for adapter in adapters) == 1
    record = host.explain(request.task_id)
    assert record is caught.value.record
    assert (record.ending, record.detail, record.phase) == ("failed", "drained", caught.value.phase)


@virtual
async def test_what_failed_in_the_moment_of_a_stop():
    """Battery 30: an engine's failure whose clean-up the stop found at work is told to nobody, nor sent again."""
    failing = Lingering((reset(),), tidying=0.5)
    host = host_of(failing, Words())
    sending = asyncio.create_task(host._submit("pool", task(replica_id="0")))
    await asyncio.sleep(0.1)
    await host.aclose(drain=0)
    with pytest.raises(WorkerReset) as caught:
        await sending

    assert (caught.value.detail, failing.begun) == ("drained", 1)


@virtual
async def test_a_cancel_during_a_stop_stays_one():
    """Battery 30: what its caller cancels while the host drains ends as cancelled."""
    host = host_of(Words(words=99))
    stream = await host.submit("pool", request := task())
    stopping = asyncio.create_task(host.aclose(drain=5))
    await asyncio.sleep(0.5)
    receipt = await host.cancel("pool", request.task_id)
    await stopping

    assert receipt.outcome == "cancelled"
    assert (await drained(stream))[-1] == CANCELLED
