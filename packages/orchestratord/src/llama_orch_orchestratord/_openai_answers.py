"""What clients of OpenAI's API are answered, as Structs. A field that is UNSET does not stand in the JSON.

`choices` hold one, or none where a chunk has the usage alone.
"""

from typing import Literal

import msgspec
from llama_orch_adapter_api import End
from msgspec import UNSET, UnsetType

Finish = Literal["stop", "length", "tool_calls", "content_filter"]


class CachedTokens(msgspec.Struct, frozen=True):
    """How much of the prompt came from the engine's cache."""

    cached_tokens: int


class Usage(msgspec.Struct, frozen=True):
    """The engine's count of tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: CachedTokens | UnsetType = UNSET

    @classmethod
    def of(cls, end: End) -> "Usage | None":
        """None where the engine did not count."""
        if end.tokens_in is None or end.tokens_out is None:
            return None
        cached = UNSET if end.cached_tokens is None else CachedTokens(end.cached_tokens)
        return cls(end.tokens_in, end.tokens_out, end.tokens_in + end.tokens_out, cached)


class Likelihood(msgspec.Struct, frozen=True, gc=False):
    """The natural-log probability of a chosen token, whose UTF-8 are `bytes`. Alternatives are not carried."""

    token: str
    logprob: float
    bytes: tuple[int, ...]
    top_logprobs: tuple[()] = ()


class ChatLogprobs(msgspec.Struct, frozen=True, gc=False):
    """Those of the tokens of the content."""

    content: tuple[Likelihood, ...]
    refusal: None = None


class Called(msgspec.Struct, frozen=True):
    """A function, and the JSON text that the model calls it with."""

    name: str
    arguments: str


class Call(msgspec.Struct, frozen=True):
    """A tool call."""

    id: str
    function: Called
    type: Literal["function"] = "function"


class IndexedCall(msgspec.Struct, frozen=True):
    """A tool call in a stream."""

    index: int
    id: str
    function: Called
    type: Literal["function"] = "function"


class AnswerMessage(msgspec.Struct, frozen=True):
    """The answer to a chat. `content` is null where there are tool calls alone."""

    content: str | None
    role: Literal["assistant"] = "assistant"
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[Call, ...] | UnsetType = UNSET


class ChatChoice(msgspec.Struct, frozen=True):
    """The one answer."""

    message: AnswerMessage
    finish_reason: Finish
    logprobs: ChatLogprobs | None
    index: int = 0


class ChatAnswer(msgspec.Struct, frozen=True, tag_field="object", tag="chat.completion"):
    """The answer of `POST /v1/chat/completions`."""

    id: str
    created: int
    model: str
    system_fingerprint: str | None
    choices: tuple[ChatChoice, ...]
    usage: Usage | None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What a chunk adds to the message."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    reasoning_content: str | UnsetType = UNSET
    tool_calls: tuple[IndexedCall, ...] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True, gc=False):
    """The one answer's part of a chunk."""

    delta: Delta
    logprobs: ChatLogprobs | None = None
    finish_reason: Finish | None = None
    index: int = 0


class ChatChunk(msgspec.Struct, frozen=True, gc=False, tag_field="object", tag="chat.completion.chunk"):
    """An event of a chat's stream. `usage` is there where it was asked for, and null but in the last chunk."""

    id: str
    created: int
    model: str
    system_fingerprint: str | None
    choices: tuple[ChunkChoice, ...]
    usage: Usage | UnsetType | None = UNSET


class TextLogprobs(msgspec.Struct, frozen=True):
    """Of each token: its text, its natural-log probability, and where in the answer it begins, in characters."""

    tokens: tuple[str, ...]
    token_logprobs: tuple[float | None, ...]
    text_offset: tuple[int, ...]
    top_logprobs: None = None


class TextChoice(msgspec.Struct, frozen=True):
    """The one answer, or its part of a chunk."""

    text: str
    logprobs: TextLogprobs | None = None
    finish_reason: Finish | None = None
    index: int = 0


class TextAnswer(msgspec.Struct, frozen=True, tag_field="object", tag="text_completion"):
    """The answer of `POST /v1/completions`, whole or as an event of its stream."""

    id: str
    created: int
    model: str
    system_fingerprint: str | None
    choices: tuple[TextChoice, ...]
    usage: Usage | UnsetType | None = UNSET


class ChunkEvent(msgspec.Struct, frozen=True):
    """A server-sent event of an answer in chunks: one of them as JSON, an object `error`, or `[DONE]`."""

    data: str


class Model(msgspec.Struct, frozen=True, tag_field="object", tag="model"):
    """A pool. `max_model_len` is the context in tokens that all its replicas have, as far as they tell."""

    id: str
    owned_by: str
    max_model_len: int | UnsetType = UNSET
    created: int = 0


class Models(msgspec.Struct, frozen=True, tag_field="object", tag="list"):
    """All pools."""

    data: tuple[Model, ...]
