"""A task as it is sent."""

import msgspec
from llama_orch_adapter_api import TaskRequest
from llama_orch_orchestratord._wire import read_submission

BODY = b'{"pool_id": "chat", "prompt": "a", "seed": 7, "sampling": {"top_k": 3}, "extra": {"x": [1]}}'


def test_a_submission_is_a_task_and_its_pool() -> None:
    """Everything a task may say is said beside the pool's name, and reaches the engine as a plain task."""
    submission = read_submission(BODY)
    task = submission.task("c-1")

    assert submission.pool_id == "chat"
    assert type(task) is TaskRequest
    assert (task.prompt, task.seed, task.sampling.top_k, task.extra) == ("a", 7, 3, {"x": [1]})
    assert task.correlation_id == "c-1"
    assert task.task_id == submission.task_id


def test_every_field_of_a_task_is_handed_on() -> None:
    """A field that the boundary gets is not lost here."""
    submission = read_submission(BODY)
    handed = msgspec.structs.asdict(submission.task("c-1"))

    asked = msgspec.structs.asdict(submission)
    assert {name for name in handed if handed[name] != asked[name]} == {"correlation_id"}
    assert set(asked) - set(handed) == {"pool_id"}
