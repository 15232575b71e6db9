"""What an orchestrator tells a host of a replica: whole and checked, or not there at all."""

from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import PoolEvent, Timeouts

GOOD: dict[str, Any] = {"pool_id": "chat", "engine": "llamacpp", "replica": {"url": "http://127.0.0.1:8080"}}


def test_an_event_of_three_fields() -> None:
    """ORCH-3600: pool, engine and the replica's table are all it takes; what is left out is the host's to fill."""
    event = msgspec.json.decode(msgspec.json.encode(GOOD), type=PoolEvent)

    assert event == PoolEvent(**GOOD)
    assert (event.replica_id, event.timeouts, event.http) == ("0", None, None)


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"pool_id": ""}, "pool_id is ''; give 1 to 256 printable characters"),
        ({"replica_id": "a/b"}, "replica_id is 'a/b'; give it without a slash"),
        ({"replica_id": "a\nb"}, r"replica_id is 'a\\nb'"),
        ({"engine": "x" * 257}, "engine is"),
        ({"replica": {"url": object()}}, "replica cannot be written as JSON"),
        ({"http": {"a": object()}}, "http cannot be written as JSON"),
    ],
)
def test_a_bad_event_is_refused(facts: dict[str, Any], told: str) -> None:
    """An event that could not name one place, or could not cross a wire, is refused with its field and the mend."""
    with pytest.raises(ValueError, match=told):
        PoolEvent(**{**GOOD, **facts})


def test_an_unknown_field_is_refused() -> None:
    """A misspelt field of an event is told, and so is a limit that is none."""
    with pytest.raises(msgspec.ValidationError, match="unknown field `colour`"):
        msgspec.convert({**GOOD, "colour": "red"}, PoolEvent)
    with pytest.raises(msgspec.ValidationError, match=r"timeouts\.preload is 0"):
        msgspec.convert({**GOOD, "timeouts": {"preload": 0.0}}, PoolEvent)
    assert Timeouts().preload == 60
