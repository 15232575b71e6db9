"""What a failed look says of a replica's health."""

import pytest
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerError, WorkerHealth, WorkerReset


@pytest.mark.parametrize(
    ("error", "live", "state"),
    [
        (PoolUnavailable("m", detail="unreachable"), False, "down"),
        (AdapterError("m", detail="address"), False, "down"),
        (PoolUnavailable("m", detail="loading"), True, "loading"),
        (PoolUnavailable("m", detail="overloaded"), True, "down"),
        (AdapterError("m", detail="auth"), True, "down"),
        (WorkerReset("m", detail="reset"), True, "down"),
    ],
    ids=str,
)
def test_the_health_of_a_failed_look(error: WorkerError, live: bool, state: str) -> None:
    """A replica that nobody could be connected to is not live; one that answered is, and is ready in no case."""
    assert WorkerHealth.of(error) == WorkerHealth(live=live, ready=False, state=state, detail="m")  # type: ignore[arg-type]
