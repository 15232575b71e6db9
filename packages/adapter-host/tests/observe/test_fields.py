import logging
import secrets
from collections.abc import Callable

import pytest
from hypothesis import given
from llama_orch_adapter_api import Secret
from llama_orch_adapter_host._events import (
    AdapterBroke,
    AdapterSpoke,
    CapabilitiesChanged,
    HostEvent,
    HostStopping,
    PluginChanged,
    ReloadFailed,
)
from llama_orch_adapter_host.observe import TAXONOMY, fields, human

from .events import (  # type: ignore[import-not-found]  # test folders are no packages
    ONE,
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
        "detail": "reset",
        "error_message": "the engine closed the connection",
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


def test_what_is_cut_for_people_is_whole_in_the_log():
    """A long message, a mend and every problem stand whole in fields of their own, up to 8 KiB (ORCH-3604)."""
    long = f"{'the engine refused, ' * 10}· add the key"
    failed, refused, shrunk, plugin = (
        fields(failure(message=long)),
        fields(ReloadFailed(problems=(long, "b"))),
        fields(CapabilitiesChanged(**ONE, changes=(long,))),
        fields(PluginChanged(name="n", version="1", origin="o", state="broken", mend=long)),
    )

    assert (failed["error_message"], failed["detail"]) == (long, "reset")
    assert refused["problems"] == [long, "b"]
    assert shrunk["changes"] == [long]
    assert plugin["mend"] == long
    assert fields(AdapterSpoke(**ONE, words=long))["words"] == long
    assert all(len(each["human"]) == 100 for each in (failed, refused, shrunk, plugin))
    assert len(fields(failure(message="word " * 10_000))["error_message"]) <= 8 * 1024 + 1


@pytest.mark.parametrize("event", [failure, lambda **facts: AdapterBroke(**ONE, what="x", error=facts["message"])])
def test_whole_texts_hold_no_secret(event: Callable[..., HostEvent]):
    """What stands whole in a field is redacted and in one line, like the narration (ORCH-3604)."""
    key = Secret(secrets.token_hex(12))

    assert fields(event(message=f"sent {key.reveal()}\nforged"))["error_message"] == r"sent [redacted]\nforged"


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
