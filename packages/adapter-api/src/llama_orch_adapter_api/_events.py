"""What an engine answers: `started → (token | metrics)* → end`, tagged by `kind` on the wire.

In process a failure is raised as a `WorkerError`; `Error` is how it looks on a wire.
"""

import math
from typing import Literal

import msgspec

from ._errors import WorkerError
from ._task import ToolCall

Channel = Literal["content", "reasoning", "tool_call"]
FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "cancelled"]


class Started(msgspec.Struct, frozen=True, tag_field="kind", tag="started", gc=False):
    """The engine took the task. It is not yet a token: the task may still be queued or in prefill.

    `replica` is `pool_id/replica_id`. `tokens_in` counts the prompt's tokens; None where not yet known. `seed` is the
    one in force, whoever chose it; None where nobody knows. `sampler_profile_version` is the task's.
    """

    engine: str
    engine_version: str
    model: str
    replica: str
    tokens_in: int | None = None
    seed: int | None = None
    sampler_profile_version: str | None = None


class Token(msgspec.Struct, frozen=True, tag_field="kind", tag="token", gc=False):
    """A piece of the answer. `t` is never empty; it may be a part of a word, never a part of a character.

    `i` counts from 0 by one over all channels. `logprob` is natural-log, None where not asked for.
    """

    t: str
    i: int
    channel: Channel = "content"
    logprob: float | None = None


class Metrics(msgspec.Struct, frozen=True, tag_field="kind", tag="metrics", gc=False):
    """How the task is getting on. Optional and droppable; counts are totals so far.

    `prompt_progress` runs from 0 to 1 while the prompt is read; `tokens_per_second` is the decode rate.
    """

    tokens_in: int | None = None
    tokens_out: int | None = None
    prompt_progress: float | None = None
    tokens_per_second: float | None = None


class Embedding(msgspec.Struct, frozen=True, tag_field="kind", tag="embedding"):
    """The vector of the input at 0-based `index`."""

    index: int
    vector: tuple[float, ...]


class Score(msgspec.Struct, frozen=True, tag_field="kind", tag="score"):
    """How well the document at 0-based `index` answers the query; higher is better, the scale is the engine's."""

    index: int
    score: float


class End(msgspec.Struct, frozen=True, tag_field="kind", tag="end"):
    """The task is over, and this is its last event. Counts are None where the engine did not tell.

    `tokens_out` is the engine's count, which may differ from the number of `Token` events. `cached_tokens` of
    `tokens_in` came from the engine's cache. `timings` are the engine's own figures under its own names. `seed` and
    `sampler_profile_version` are those of `Started`.
    """

    tokens_in: int | None
    tokens_out: int | None
    finish_reason: FinishReason
    cached_tokens: int | None = None
    decode_time_ms: float | None = None
    timings: dict[str, float] = {}
    outputs: tuple[Embedding | Score, ...] = ()
    tool_calls: tuple[ToolCall, ...] = ()
    seed: int | None = None
    sampler_profile_version: str | None = None


class Error(msgspec.Struct, frozen=True, tag_field="kind", tag="error"):
    """A `WorkerError` on a wire; it takes the place of `end`. `retry_after_ms` is None where nobody knows."""

    code: str
    message: str
    engine: str | None
    retriable: bool
    retry_after_ms: int | None = None

    @classmethod
    def of(cls, error: WorkerError) -> "Error":
        """The wire form of `error`. The wait is rounded up, so that nobody comes earlier than asked."""
        wait = error.retry_after
        return cls(
            code=error.code,
            message=error.message,
            engine=error.engine,
            retriable=error.retriable,
            retry_after_ms=None if wait is None else math.ceil(wait * 1000),
        )


TokenEvent = Started | Token | Metrics | End
"""What an adapter yields and a caller iterates."""

WireEvent = Started | Token | Metrics | End | Error
"""What goes over a wire, where nothing can be raised."""
