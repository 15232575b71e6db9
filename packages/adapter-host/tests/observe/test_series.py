import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import AdapterError, WorkerReset
from llama_orch_adapter_host.observe.series import BUCKETS, ERRORS, Spans, error_labels
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import HistogramMetricFamily


@given(st.lists(st.floats(0, 1000) | st.sampled_from(BUCKETS), max_size=50))
def test_spans_are_counted_as_prometheus_counts(values: list[float]):
    """The buckets are the ones that Prometheus's own histogram would have, bounds included (ORCH-3604)."""
    spans, theirs = Spans(), Histogram("x", "x", buckets=BUCKETS, registry=CollectorRegistry())
    for value in values:
        spans.observe(value)
        theirs.observe(value)
    family = HistogramMetricFamily("x", "x", labels=("pool",))
    spans.add_to(family, ("chat",))

    expected = {
        (sample.name, sample.labels.get("le")): sample.value
        for sample in next(iter(theirs.collect())).samples
        if not sample.name.endswith("_created")
    }
    found = {(sample.name, sample.labels.get("le")): sample.value for sample in family.samples}
    assert found.keys() == expected.keys()
    assert all(math.isclose(found[key], expected[key]) for key in found)


@pytest.mark.parametrize(
    ("code", "detail", "labels"),
    [
        (WorkerReset.code, "aborted", ("WORKER_RESET", "aborted")),
        (AdapterError.code, "context_length", ("ADAPTER", "context_length")),
        ("WORKER_RESET", "context_length", ("other", "other")),
        ("NEW", "reset", ("other", "other")),
        (None, None, ("other", "other")),
    ],
)
def test_errors_are_a_closed_set(code: str | None, detail: str | None, labels: tuple[str, str]):
    """Code and detail are labels where the taxonomy has them together (ORCH-3604)."""
    assert error_labels(code, detail) == labels
    assert {error_labels(*each) for each in ERRORS} == ERRORS
