"""The tasks that run, and the records of those that ended last (ORCH-3602)."""

import pytest
from llama_orch_adapter_api import AdapterError, TaskRequest, WorkerReset
from llama_orch_adapter_host._bus import Bus
from llama_orch_adapter_host._call import Call
from llama_orch_adapter_host._ledger import REMEMBERED, Ledger
from llama_orch_adapter_host._pool import Pool
from llama_orch_adapter_host._teller import Teller

from .adapters import end, task, virtual  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import bound, pool_of  # type: ignore[import-not-found]  # as above


def begun(ledger: Ledger, request: TaskRequest, pool: Pool) -> Call:
    ledger.check("pool", request)
    call = Call(request, pool, Teller(Bus()), ledger.end, lambda _: None)
    ledger.begin(call)
    return call


@virtual
async def test_a_task_from_beginning_to_end():
    """A task is live from its beginning to its outcome, and its record stays."""
    ledger, request, pool = Ledger(), task(), pool_of(bound())
    assert (ledger.live(request.task_id), ledger.record(request.task_id)) == (None, None)
    call = begun(ledger, request, pool)
    assert (len(ledger), ledger.calls(), ledger.live(request.task_id)) == (1, (call,), call)
    assert ledger.record(request.task_id) is call.record
    call.finish(end(1))

    assert (len(ledger), ledger.calls(), ledger.live(request.task_id)) == (0, (), None)
    assert ledger.record(request.task_id) is call.record
    assert pool.live == set()


@virtual
async def test_an_id_runs_once():
    """Battery 11: an id that runs is refused with the mend, and taken again when it is over."""
    ledger, request, pool = Ledger(), task(), pool_of(bound())
    call = begun(ledger, request, pool)
    with pytest.raises(AdapterError, match="is running already · wait for it, or leave task_id out") as caught:
        ledger.check("pool", request)

    assert (caught.value.detail, caught.value.phase, caught.value.pool) == ("duplicate_task", "queue", "pool")
    assert ledger.live(request.task_id) is call
    call.finish(end(1))
    ledger.check("pool", request)


@virtual
async def test_what_an_id_did_is_not_forgotten():
    """Battery 17: resets add up over the submits of one id, and two of them are enough."""
    ledger, request, pool = Ledger(), task(), pool_of(bound())
    first = begun(ledger, request, pool)
    first.record.resets += 1
    first.finish(end(1))
    second = begun(ledger, request, pool)
    assert second.record.resets == 1
    second.record.resets += 1
    second.finish(end(1))

    with pytest.raises(WorkerReset, match="ended 2 replicas in a reset and is not sent again"):
        ledger.check("pool", request)


@virtual
async def test_records_are_not_kept_for_ever():
    """The latest records are kept; a task that ran again counts as late."""
    ledger, pool = Ledger(), pool_of(bound())
    requests = [task() for _ in range(REMEMBERED + 1)]
    for request in requests[:REMEMBERED]:
        begun(ledger, request, pool).finish(end(1))
    begun(ledger, requests[0], pool).finish(end(1))
    begun(ledger, requests[-1], pool).finish(end(1))

    assert ledger.record(requests[0].task_id) is not None
    assert ledger.record(requests[1].task_id) is None
    assert sum(ledger.record(request.task_id) is not None for request in requests) == REMEMBERED
