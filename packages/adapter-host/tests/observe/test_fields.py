import logging

from hypothesis import given
from llama_orch_adapter_host._events import HostEvent, HostStopping
from llama_orch_adapter_host.observe import TAXONOMY, fields, human

from .events import (  # type: ignore[import-not-found]  # test folders are no packages
    TASK,
    drawn,
    ended,
    failed_attempt,
    failure,
    first_token,
)


@given(drawn())
def test_only_the_taxonomy(event: HostEvent):
    """A record holds nothing but the taxonomy's fields, in its order, and none that has no value (ORCH-3604)."""
    found = fields(event)

    assert list(found) == [name for name in TAXONOMY if name in found]
    assert None not in found.values()
    assert found["actor"] == "adapter-host"
    assert found.get("human") == human(event)


@given(drawn())
def test_no_field_hides_what_logging_keeps(event: HostEvent):
    """None of the fields has a name that a log record keeps for itself (ORCH-3604)."""
    assert not fields(event).keys() & logging.makeLogRecord({}).__dict__.keys()


def test_a_failed_attempt():
    """Seconds become milliseconds, the engine is the target, the error is its code (ORCH-3604)."""
    assert fields(failed_attempt(retry_after=1.5)) == {
        "actor": "adapter-host",
        "action": "retry",
        "target": "llamacpp",
        "pool_id": "chat",
        "replica_id": "0",
        "task_id": TASK,
        "session_id": "s1",
        "correlation_id": "c1",
        "attempt": 1,
        "error_kind": "WORKER_RESET",
        "retry_after_ms": 1500.0,
        "backoff_ms": 40.0,
        "duration_ms": 500.0,
        "human": human(failed_attempt()),
    }


def test_an_ended_task():
    """The attempts of a task that ended are the number of its last one; decoding is the engine's own figure."""
    found = fields(ended(attempts=2))

    assert (found["action"], found["attempt"], found["decode_time_ms"], found["duration_ms"]) == (
        "end",
        2,
        990.0,
        1200.0,
    )
    assert fields(failure(attempts=0, replica_id=None))["attempt"] == 0


def test_the_pool_is_the_replicas():
    """Pool and replica together name one binding, also where a fallback pool took the task (ORCH-3604)."""
    assert fields(first_token(stand_in="spare"))["pool_id"] == "spare"


def test_what_concerns_the_host_has_no_pool():
    """An event of the whole host has neither pool nor target."""
    assert fields(HostStopping(flights=3)) == {
        "actor": "adapter-host",
        "action": "stop",
        "human": "the host takes no more tasks; 3 streams still run",
    }
