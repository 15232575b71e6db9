"""What is usual among the latest spans (ORCH-3602)."""

import math

from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_host._latency import Latency


def latency_of(*spans: float) -> Latency:
    latency = Latency()
    for span in spans:
        latency.add(span)
    return latency


def test_before_the_first():
    """Nothing is known before the first span."""
    assert latency_of().p95 == 0.0


@given(st.lists(st.floats(0, 100), min_size=1, max_size=31))
def test_of_few_it_is_exact(spans: list[float]):
    """The figure of few spans takes in each at once, and 19 of 20 are not above it."""
    latency = Latency()
    for number, span in enumerate(spans, 1):
        latency.add(span)
        above = sum(each > latency.p95 for each in spans[:number])

        assert latency.p95 in spans[:number]
        assert above <= math.ceil(0.05 * number)


def test_it_forgets():
    """Only the latest 128 spans count, and of many the figure is at most 31 spans old."""
    latency = latency_of(*[10.0] * 128)
    assert latency.p95 == 10.0
    for _ in range(31):
        latency.add(1.0)
    assert latency.p95 == 10.0
    for _ in range(97):
        latency.add(1.0)

    assert latency.p95 == 1.0


def test_one_slow_in_a_hundred_is_not_usual():
    """A rare slow one does not make slowness usual."""
    assert latency_of(*[1.0] * 99, 60.0).p95 == 1.0
    assert latency_of(*[1.0] * 90, *[60.0] * 10).p95 == 60.0
