from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_host._hint import BatchHint, hint_for

from .adapters import Words, host_of, task, virtual  # type: ignore[import-not-found]  # test folders are no packages


def test_few_streams_write_every_event_by_itself():
    """Up to 64 streams a write of its own costs nobody anything, and no token waits."""
    assert [hint_for(streams) for streams in (0, 1, 64, 127)] == 4 * [BatchHint(1, 0.0)]


@given(st.integers(0, 10**6), st.integers(0, 10**6))
def test_more_streams_never_ask_for_smaller_writes(some: int, more: int):
    """The hint grows with the load, to 16 events and 64 ms at most."""
    small, large = hint_for(min(some, more)), hint_for(max(some, more))

    assert 1 <= small.events <= large.events <= 16
    assert 0 <= small.delay <= large.delay <= 0.064


@virtual
async def test_a_stream_hints_at_its_pools_load():
    """The hint follows how many tasks the pool has now; the host itself holds no event back."""
    async with host_of(Words(pause=None)) as host:
        alone = await host.submit("pool", task())
        first = alone.batch_hint
        crowd = [await host.submit("pool", task()) for _ in range(255)]
        crowded = alone.batch_hint
        for stream in (alone, *crowd):
            await stream.aclose()

    assert first == BatchHint(1, 0.0)
    assert crowded == BatchHint(4, 0.016)
