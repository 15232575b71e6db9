"""What goes over HTTP besides the events: a task as it is sent, and what is answered of it."""

from typing import Literal

import msgspec
from llama_orch_adapter_api import AdapterError, End, Error, Metrics, Started, TaskRequest, Token, one_line

from ._mends import with_mend

State = Literal["queued", "running", "ended"]

_LONGEST = 400
"""Characters of a refusal: a name that the sender chose stands in it."""


class Submission(TaskRequest, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The body of `POST /v1/tasks`: a task, and the pool that shall do it."""

    pool_id: str

    def __post_init__(self) -> None:
        """Checks nothing: the task that is made of it does, and twice would cost as much again."""

    def task(self, correlation_id: str) -> TaskRequest:
        """The task alone; one that has no correlation id gets this one. Raises `ValueError`."""
        facts = {name: getattr(self, name) for name in TaskRequest.__struct_fields__}
        facts["correlation_id"] = facts["correlation_id"] or correlation_id
        return TaskRequest(**facts)


class Accepted(msgspec.Struct, frozen=True):
    """The answer to a task that was taken in.

    `queue_position` is how many are taken before it, 0 also for one that runs already. `predicted_start_ms` is None
    where nobody can tell. After `backoff_ms` the queue will have room for another one; 0 where it has room now.
    """

    task_id: str
    queue_position: int
    predicted_start_ms: int | None
    backoff_ms: int


class TaskView(msgspec.Struct, frozen=True, kw_only=True):
    """A task as it is now. Spans are in ms, None where that has not begun or is not over.

    `read`: whether somebody reads its stream, has read it to its end, or can no longer do so.
    """

    task_id: str
    pool_id: str
    state: State
    read: Literal["unread", "reading", "read", "expired"]
    unread_events: int
    queue_position: int | None = None
    queued_ms: float
    running_ms: float | None = None


class Sentence(msgspec.Struct, frozen=True):
    """A line for people of what is done for a task."""

    human: str


class StartedFrame(msgspec.Struct, frozen=True, tag_field="event", tag="started"):
    """A server-sent event; `id` counts all events of a task, so that a gap is metrics that were dropped."""

    id: int
    data: Started


class TokenFrame(msgspec.Struct, frozen=True, tag_field="event", tag="token"):
    """A piece of the answer; none is ever dropped."""

    id: int
    data: Token


class MetricsFrame(msgspec.Struct, frozen=True, tag_field="event", tag="metrics"):
    """How the task is getting on; may be dropped."""

    id: int
    data: Metrics


class EndFrame(msgspec.Struct, frozen=True, tag_field="event", tag="end"):
    """The last one."""

    id: int
    data: End


class ErrorFrame(msgspec.Struct, frozen=True, tag_field="event", tag="error"):
    """The last one of a task that failed."""

    id: int
    data: Error


class NarrationFrame(msgspec.Struct, frozen=True, tag_field="event", tag="narration"):
    """None of the task's events, so that it has no id."""

    data: Sentence


Frame = StartedFrame | TokenFrame | MetricsFrame | EndFrame | ErrorFrame | NarrationFrame
"""What a stream is made of; `_sse` writes each as three lines."""

_decoder = msgspec.json.Decoder(Submission)


def read_submission(body: bytes, correlation_id: str) -> tuple[str, TaskRequest]:
    """A body as a pool and a task. Raises `AdapterError` (bad_request) with the field, its place and the mend."""
    try:
        submission = _decoder.decode(body)
        return submission.pool_id, submission.task(correlation_id)
    except RecursionError:
        raise _bad("it is nested too deep") from None
    except UnicodeDecodeError:  # a ValueError, whose words are not for people
        raise _bad("it is not UTF-8; send it as UTF-8") from None
    except ValueError as error:
        raise _bad(with_mend(str(error), Submission)) from None


def _bad(why: str) -> AdapterError:
    return AdapterError(f"the task cannot be read: {one_line(why)[:_LONGEST]}", detail="bad_request", phase="queue")
