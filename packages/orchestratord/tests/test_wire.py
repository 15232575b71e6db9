"""A task as it is sent."""

import msgspec
import pytest
from llama_orch_adapter_api import AdapterError, TaskRequest
from llama_orch_orchestratord._wire import read_submission

FULL = {
    "task_id": "00000000-0000-4000-8000-000000000001",
    "session_id": "s",
    "workload": "completion",
    "model_ref": "m",
    "prompt": "a",
    "max_tokens": 5,
    "sampling": {"top_k": 3},
    "seed": 7,
    "determinism": "strict",
    "sampler_profile_version": "p",
    "response_format": {"type": "grammar", "grammar": "g"},
    "tools": [{"name": "t"}],
    "tool_choice": "auto",
    "priority": "batch",
    "deadline_ms": 9,
    "expected_tokens": 2,
    "kv_hint": "cold",
    "max_attempts": 1,
    "replica_id": "0",
    "correlation_id": "mine",
    "traceparent": f"00-{'a' * 32}-{'b' * 16}-01",
    "extra": {"x": [1]},
}


def test_a_submission_is_a_task_and_its_pool() -> None:
    """Everything a task may say is said beside the pool's name, and comes out as that very task, and a plain one."""
    pool_id, task = read_submission(msgspec.json.encode({**FULL, "pool_id": "chat"}), "c-1")

    assert pool_id == "chat"
    assert type(task) is TaskRequest
    assert task == msgspec.convert(FULL, TaskRequest)
    assert set(TaskRequest.__struct_fields__) - set(FULL) == {"messages", "inputs", "query"}  # none beside a prompt


def test_a_task_without_a_correlation_id_gets_one() -> None:
    """The one of the request that brought it."""
    _, task = read_submission(b'{"pool_id": "chat", "prompt": "a"}', "c-1")

    assert task.correlation_id == "c-1"


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"priority": "high"}, "'high' - at `$.priority`; give one of: batch, interactive"),
        ({"messages": [{"role": "function"}]}, "; give one of: assistant, developer, system, tool, user"),
        ({"sampling": {"temperature": "0"}}, "at `$.sampling.temperature`; give a number"),
        ({"sampling": {"temprature": 0}}, "unknown field `temprature` - at `$.sampling`; it may have: temperature, "),
        ({"n": 2}, "unknown field `n`; it may have: task_id, "),
    ],
)
def test_what_is_allowed_is_named(facts: dict[str, object], told: str) -> None:
    """A value or a field that no task has is refused with those that it may have."""
    with pytest.raises(AdapterError) as caught:
        read_submission(msgspec.json.encode({"pool_id": "chat", **facts}), "c-1")

    assert told in caught.value.message


@pytest.mark.parametrize("body", [{"prompt": ""}, {"prompt": "a", "seed": -1}, {"prompt": "a", "replica_id": "\n"}])
def test_a_task_is_checked(body: dict[str, object]) -> None:
    """What the boundary does not take is refused in its own words."""
    with pytest.raises(ValueError, match="give") as own:
        TaskRequest(**body)  # type: ignore[arg-type]  # which is the point

    with pytest.raises(AdapterError) as caught:
        read_submission(msgspec.json.encode({"pool_id": "chat", **body}), "c-1")

    assert str(own.value) in caught.value.message
