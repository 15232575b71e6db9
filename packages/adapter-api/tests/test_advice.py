from datetime import UTC, datetime

import pytest
from llama_orch_adapter_api import Capabilities, Message, TaskRequest, TextPart, token_budget

SMALL = Capabilities("words", "1", "model", datetime(2026, 1, 1, tzinfo=UTC), ctx_max=100)


@pytest.mark.parametrize(
    "request_",
    [
        TaskRequest(prompt="x" * 400, max_tokens=1),
        TaskRequest(prompt="x", max_tokens=101),
        TaskRequest(messages=(Message("user", "x" * 200), Message("user", (TextPart("x" * 200),))), max_tokens=1),
    ],
)
def test_a_task_that_will_hardly_fit_is_advised(request_: TaskRequest):
    """A prompt reckoned at four characters a token and the answer wanted are held against the context."""
    advice = token_budget(request_, SMALL)

    assert advice is not None
    assert advice.endswith("exceed the context of 100; shorten one of them")


@pytest.mark.parametrize(
    ("request_", "capabilities"),
    [
        (TaskRequest(prompt="x" * 396, max_tokens=1), SMALL),
        (TaskRequest(prompt="x" * 400), SMALL),
        (TaskRequest(workload="embedding", inputs=("x" * 4000,)), SMALL),
        (TaskRequest(prompt="x" * 4000), Capabilities("words", "1", "model", SMALL.observed_at)),
    ],
    ids=["fits", "exactly", "an embedding", "unknown context"],
)
def test_a_task_that_fits_is_not(request_: TaskRequest, capabilities: Capabilities):
    """Nothing is said where it fits, where there is no answer to fit, or where the context is not known."""
    assert token_budget(request_, capabilities) is None
