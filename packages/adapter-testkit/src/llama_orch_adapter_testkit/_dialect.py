"""How an engine speaks, as far as one who plays it must know: a small protocol, which anybody may write for his own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from ._connection import Request
from ._reply import Reply

Channel = Literal["content", "reasoning", "tool_call"]
Finish = Literal["stop", "length", "tool_calls"]
Workload = Literal["completion", "embedding", "rerank"]
State = Literal["ready", "loading", "busy", "down"]


@dataclass(frozen=True)
class Load:
    """How busy an engine is; `seeds` are those of the tasks that run."""

    slots: int
    running: int
    waiting: int
    seeds: tuple[int | None, ...] = ()


@dataclass(frozen=True)
class Asked:
    """A task as an engine reads it from a request.

    `subject` is the prompt, the last message or the query; `tokens` None where no number is named. `limit_ms` is the
    time that the engine was given for it, None where it was given none.
    """

    path: str
    body: Mapping[str, Any] = field(repr=False)
    subject: str
    workload: Workload = "completion"
    tokens: int | None = None
    limit_ms: float | None = None

    @property
    def prompt_tokens(self) -> int:
        """Words count as tokens."""
        return len(self.subject.split())


@dataclass(frozen=True)
class Piece:
    """What one event adds to an answer. `call` is the 0-based tool call that it belongs to.

    Call N has the id `call_N` and calls the function `tool_N`.
    """

    text: str
    channel: Channel = "content"
    logprob: float | None = None
    call: int = 0


class Dialect(Protocol):
    """How an engine speaks. `LLAMACPP`, `VLLM` and `OPENAI` are at hand; `OpenAIDialect` is one to derive from.

    `version` and `model` are what the engine says of itself; `states` are those of its health that it lets one see.
    `is_sse` tells whether its streams are event streams (`text/event-stream`), `keeps` whether it keeps the connection
    after one.
    """

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def states(self) -> frozenset[State]: ...
    @property
    def is_sse(self) -> bool: ...
    @property
    def keeps(self) -> bool: ...

    def look(self, request: Request, load: Load) -> Reply | None:
        """The answer to what is asked of the engine itself; None for what it does not have."""

    def asked(self, request: Request) -> Asked | None:
        """The task in a request; None where it is no task."""

    def head(self) -> bytes:
        """The head of a stream, its blank line included. The body is chunked."""

    def token(self, asked: Asked, piece: Piece, number: int) -> bytes:
        """The event of one piece, the first having number 1, with what separates it from the next one."""

    def last(self, asked: Asked, finish: Finish, tokens: int) -> tuple[bytes, ...]:
        """What follows the last token: the event that finishes the answer, then each further one."""

    def outputs(self, asked: Asked, values: Sequence[Sequence[float]]) -> Reply:
        """The answer to an embedding task, a vector for each input, or to a rerank task, a score for each."""

    def refusal(self, status: int, words: str, retry_after: float | None = None) -> Reply:
        """An error document with that status."""

    def overflow(self) -> Reply:
        """The refusal of a prompt that is longer than the context."""

    def broken(self, status: int, words: str) -> tuple[bytes, ...]:
        """What comes in the middle of a stream where the engine breaks: an error event, then each further one."""
