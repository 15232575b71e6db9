import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import BindingInfo, PoolUnavailable, Timeouts
from llama_orch_adapter_host._registry import Binding, Lease
from llama_orch_adapter_host._routes import pick

from .adapters import Words, host_of, task, virtual  # type: ignore[import-not-found]  # test folders are no packages


def pool_of(*busy: int) -> dict[str, Binding]:
    """A pool whose replicas 0, 1, … have so many leases; a policy counts them and looks into none."""
    pool: dict[str, Binding] = {}
    for i, flights in enumerate(busy):
        leases: set[Lease] = {object() for _ in range(flights)}  # type: ignore[misc]
        pool[str(i)] = Binding(BindingInfo("chat", str(i), "words", generation=1), Words(), Timeouts(), leases)
    return pool


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_least_in_flight_takes_the_task(busy: list[int]):
    """No replica has less in flight than the one that is picked, and of equals it is the first bound."""
    pool = pool_of(*busy)

    picked = pick("chat", pool, task())

    assert len(picked.leases) == min(busy)
    assert picked is pool[str(busy.index(min(busy)))]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_a_pinned_task_goes_where_it_is_pinned(busy: list[int], data: st.DataObject):
    """A task's `replica_id` outranks how busy that replica is."""
    pool = pool_of(*busy)
    replica = data.draw(st.sampled_from(sorted(pool)))

    assert pick("chat", pool, task(replica_id=replica)) is pool[replica]


def test_a_pin_to_nowhere_names_what_is_bound():
    """A task pinned to a replica that is not there is refused for good, and told which ones there are."""
    with pytest.raises(
        PoolUnavailable, match=r"'r9', which the task is pinned to, is not bound \(bound: 0, 1\)"
    ) as caught:
        pick("chat", pool_of(0, 0), task(replica_id="r9"))

    error = caught.value
    assert (error.detail, error.phase, error.pool, error.replica) == ("unknown_pool", "queue", "chat", "r9")
    assert (error.retriable, error.engine_fault) == (False, False)


@virtual
async def test_picking_spreads_running_tasks():
    """Tasks that run at the same time are spread evenly, and a replica whose stream ended is picked again."""
    adapters = [Words(), Words(), Words()]
    async with host_of(*adapters) as host:
        streams = [await host.submit("pool", task()) for _ in range(6)]
        spread = [adapter.begun for adapter in adapters]
        await streams[4].aclose()
        again = await host.submit("pool", task())
        for stream in (*streams, again):
            await stream.aclose()

    assert spread == [2, 2, 2]
    assert again.replica == "pool/1"
