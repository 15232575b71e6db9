"""An adapter that is not finished is told what is missing, by every check that needs it."""

from collections.abc import AsyncIterator

import pytest
from llama_orch_adapter_api import TaskRequest, TokenEvent
from llama_orch_adapter_testkit.conformance import certify

from .twisted import DIALECT, Twisted, spec_of  # type: ignore[import-not-found]  # test folders are no packages

pytestmark = pytest.mark.timeout(120)  # whole certificates, on a machine that may be busy

MISSING = "fill in request_body() in _wire.py"


class Unfinished(Twisted):
    """It asks its engine nothing yet."""

    async def stream(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        raise NotImplementedError(MISSING)
        yield


def test_what_is_missing_is_told_at_once():
    """ORCH-3612: no check waits for a task that is over already; each that fails says why the task failed."""
    results = certify(spec_of(Unfinished), DIALECT, limit=3.0).checks
    failed = [one for one in results if one.status == "failed"]

    assert {"stream.order", "cuts.phases", "cancel.phases", "cancel.decode"} <= {one.id for one in failed}
    assert [(one.id, one.reason) for one in failed if MISSING not in one.reason] == []


def test_a_task_that_is_over_too_early_is_told():
    """ORCH-3612: one that ends by itself before the engine is at work on it is told with what it came to."""

    class Hasty(Twisted):
        async def stream(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
            return
            yield

    results = {one.id: one for one in certify(spec_of(Hasty), DIALECT, limit=3.0).checks}

    assert results["cancel.decode"].reason.startswith("the task was over before the engine was at work on it: 0 tokens")
