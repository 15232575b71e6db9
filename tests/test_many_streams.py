"""A thousand streams on one host, and consumers that stop."""

import os

import pytest
from llama_orch_adapter_testkit import cases

from .fleet import back_to, census, told
from .latencies import PADDING, crowded, many_descriptors, stopped

MIB = 1 << 20
NIGHT = bool(os.environ.get("NIGHTLY"))


@pytest.mark.timeout(120)
@pytest.mark.parametrize("dialect", ["llamacpp", "vllm"])
async def test_pool_starvation(dialect: str):
    """Battery 27, ORCH-3601: with 1,000 streams open, health and cancel are answered as ever."""
    before = census()
    with many_descriptors():
        connections, asked, cancelled, seen = await crowded(dialect, 1000, 50)

    print(f"pool_starvation {dialect}, {connections} connections; {told('health', asked)}; {told('cancel', cancelled)}")
    assert connections >= 1000
    assert max(asked) < 10 * 0.020
    assert max(cancelled) < 10 * 0.020
    assert seen == 50
    assert await back_to(before) == before


@pytest.mark.nightly
@pytest.mark.timeout(600 if NIGHT else 60)
@pytest.mark.parametrize("dialect", ["llamacpp", "vllm"])
async def test_slow_consumer(dialect: str):
    """Battery 28, ORCH-3601: consumers that stop hold little back and hold nobody up; what they did not read waits."""
    count = cases(20, nightly=100)
    with many_descriptors():
        in_flight, grown, usual, now, read = await stopped(dialect, count, cases(100, nightly=1000))

    print(
        f"slow_consumer {dialect}, {count} stopped: at most {max(in_flight) / MIB:.2f} MiB in flight each, "
        f"RSS {grown / MIB:+.1f} MiB, the others' p99 {1000 * usual:.1f} → {1000 * now:.1f} ms"
    )
    assert len(in_flight) == count
    assert min(in_flight) > 300 * PADDING
    assert max(in_flight) <= 1_000_000
    assert grown < 64 * MIB
    assert now - usual < 10 * 0.005
    for number, texts in enumerate(read):
        assert texts == [f"{number}.{place}" for place in range(len(texts))]
