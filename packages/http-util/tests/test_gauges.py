"""Gauges out of the text of `/metrics`."""

import pytest
from llama_orch_adapter_testkit import captures
from llama_orch_http_util import gauges

TEXT = b"""# HELP a:busy Number of busy slots
# TYPE a:busy gauge
a:busy 2
a:busy_total 9
a:free{core="0"} 1.5
a:free{core="1"} 5e-05
a:queue NaN
b:busy 7
"""


def test_values_are_by_name() -> None:
    """One for each set of labels, in their order; other names, other engines and what is no number are left out."""
    assert gauges(TEXT, "a:", ("busy", "free", "queue", "absent")) == {"busy": [2.0], "free": [1.5, 5e-05]}


@pytest.mark.parametrize(
    ("engine", "names", "values"),
    [
        ("llamacpp", ("requests_processing", "requests_deferred"), [2.0, 1.0]),
        (
            "vllm",
            ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"),
            [4.0, 1.0, 0.011019283746556474],
        ),
    ],
)
def test_gauges_of_the_captured_engines(engine: str, names: tuple[str, ...], values: list[float]) -> None:
    """Both engines' load is read exactly."""
    seen = gauges(captures.load(engine, "get_metrics_busy").body, f"{engine}:", names)

    assert seen == dict(zip(names, ([value] for value in values), strict=True))
