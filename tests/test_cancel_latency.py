"""How soon an engine in a process of its own sees that nobody listens any more."""

import asyncio
import gc
import os
from typing import Any

import pytest
from llama_orch_adapter_testkit import cases, dice

from .fleet import back_to, census, quantile, told
from .latencies import cancels, dropped

NIGHT = bool(os.environ.get("NIGHTLY"))


@pytest.mark.nightly
@pytest.mark.timeout(1800 if NIGHT else 120)
@pytest.mark.parametrize("dialect", ["llamacpp", "vllm"])
async def test_cancel_latency(dialect: str):
    """Battery 9, ORCH-3601: cancelled at any point by any road, the engine sees it at once, the caller no token."""
    count = cases(1000, nightly=10_000) // 2
    seen, spans, late = await cancels(dialect, count, dice())

    print(told(f"cancel_latency {dialect}, {count} cancels, {len(spans)} seen by the engine", spans))
    assert late == 0
    assert len(spans) > count / 5
    assert [each for each in seen.values() if each.ending != "left"] == []
    assert quantile(spans, 0.99) < 10 * 0.005
    assert max(spans) < 10 * 0.250


@pytest.mark.timeout(120)
@pytest.mark.parametrize("dialect", ["llamacpp", "vllm"])
async def test_a_dropped_stream_frees_its_engine(dialect: str):
    """Battery 12, ORCH-3601: a stream abandoned without `aclose` frees its engine soon, and nothing complains of it."""
    complaints: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
    before = census()

    spans, live = await dropped(dialect, 500, dice())
    gc.collect()

    print(told(f"dropped_iterator {dialect}, {len(spans)} abandoned", spans))
    assert (len(spans), live) == (500, 0)
    assert max(spans) < 10 * 0.100
    assert complaints == []
    assert await back_to(before) == before
