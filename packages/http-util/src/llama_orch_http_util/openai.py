"""The dialect that most engines speak: OpenAI's `/v1/completions` and `/v1/chat/completions`, streamed.

Pure functions and values: a task becomes a request body, chunks become tokens and the end. What the engines were seen
to send differently (llama.cpp, vLLM) is read here once, for all adapters.
"""

from typing import Annotated, Literal

import msgspec
from llama_orch_adapter_api import (
    End,
    InternalError,
    Token,
    ToolCall,
    WorkerError,
    WorkerReset,
)

from ._errors import ErrorObject, error_in_stream
from ._openai_requests import CHAT, COMPLETIONS, EMBEDDINGS, RERANK, body_of, headers_of, path_of, sampling_of, tools_of

__all__ = [
    "CHAT",
    "CHUNK",
    "COMPLETIONS",
    "EMBEDDINGS",
    "MAX_COUNT",
    "RERANK",
    "Answer",
    "Chunk",
    "Count",
    "Timings",
    "TokenLogprob",
    "Usage",
    "body_of",
    "headers_of",
    "path_of",
    "sampling_of",
    "told",
    "tools_of",
]

MAX_COUNT = 2**53
Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]
"""A number of tokens, slots or tasks that an engine tells."""

Timings = dict[str, float | None]
"""An engine's own figures under its own names; null where a figure is no number."""

Channel = Literal["content", "reasoning", "tool_call"]

_FINISHES = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
}


# gc=False: what is decoded from JSON holds no cycle, and a chunk of 64 KiB holds hundreds of these at once.


class FunctionDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of a called function's name or arguments."""

    name: str | None = None
    arguments: str | None = None


class ToolCallDelta(msgspec.Struct, frozen=True, gc=False):
    """A piece of the tool call at 0-based `index`; `id` and the name come with its first piece, or with each."""

    index: Count = 0
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(msgspec.Struct, frozen=True, gc=False):
    """What a chat chunk adds. llama.cpp and older vLLM call reasoning `reasoning_content`, vLLM now `reasoning`."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCallDelta, ...] | None = None


class TokenLogprob(msgspec.Struct, frozen=True, gc=False):
    """The natural-log probability of a chosen token."""

    logprob: float | None = None


class Logprobs(msgspec.Struct, frozen=True, gc=False):
    """Of a chat chunk (`content`) or of a completion chunk (`token_logprobs`)."""

    content: tuple[TokenLogprob, ...] | None = None
    token_logprobs: tuple[float | None, ...] | None = None

    @property
    def first(self) -> float | None:
        """The logprob of the chunk's first token."""
        if self.content:
            return self.content[0].logprob
        return self.token_logprobs[0] if self.token_logprobs else None


class Choice(msgspec.Struct, frozen=True, gc=False):
    """One answer's part of a chunk: `delta` in a chat, `text` in a completion."""

    index: Count = 0
    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Logprobs | None = None


class CachedTokens(msgspec.Struct, frozen=True, gc=False):
    """How much of the prompt came from the engine's cache."""

    cached_tokens: Count | None = None


class Usage(msgspec.Struct, frozen=True, gc=False):
    """The engine's count of tokens, total so far."""

    prompt_tokens: Count | None = None
    completion_tokens: Count | None = None
    prompt_tokens_details: CachedTokens | None = None


class Chunk(msgspec.Struct, frozen=True, gc=False):
    """One event of a stream. `timings` are llama.cpp's."""

    choices: tuple[Choice, ...] | None = ()
    usage: Usage | None = None
    timings: Timings | None = None
    error: ErrorObject | str | None = None


CHUNK = msgspec.json.Decoder(Chunk)


class Answer:
    """Makes tokens of chunks and, once the finish event is in, the end. Only the choice of index 0 is read."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._count = 0
        self._finish: str | None = None
        self._usage = Usage()
        self._timings: dict[str, float] = {}
        self._calls: dict[int, _Call] = {}

    @property
    def finished(self) -> bool:
        """Whether the finish event is in: without it a stream that ended was cut."""
        return self._finish is not None

    def take(self, chunk: Chunk) -> list[Token]:
        """The tokens of a chunk. Raises what an error object in it means, `WorkerReset` where the engine gave up."""
        if chunk.error is not None:
            raise error_in_stream(chunk.error, self._where)
        self._usage = chunk.usage or self._usage
        self._timings = told(chunk.timings) or self._timings
        tokens: list[Token] = []
        for choice in chunk.choices or ():
            if choice.index == 0:
                self._read(choice, tokens)
        return tokens

    def end(self) -> End:
        """The end of a finished answer."""
        details = self._usage.prompt_tokens_details
        return End(
            tokens_in=self._usage.prompt_tokens,
            tokens_out=self._usage.completion_tokens,
            finish_reason=_FINISHES.get(self._finish or "", "stop"),  # type: ignore[arg-type]  # values are FinishReason
            cached_tokens=details.cached_tokens if details else None,
            decode_time_ms=self._timings.get("predicted_ms"),
            timings=self._timings,
            tool_calls=tuple(call.whole(index) for index, call in sorted(self._calls.items())),
        )

    def _read(self, choice: Choice, tokens: list[Token]) -> None:
        logprob = choice.logprobs.first if choice.logprobs else None
        delta = choice.delta
        if delta is None:
            self._add(tokens, choice.text, "content", logprob)
        else:
            self._add(tokens, delta.reasoning_content or delta.reasoning, "reasoning", logprob)
            self._add(tokens, delta.content, "content", logprob)
            for piece in delta.tool_calls or ():
                self._call(piece, tokens)
        if choice.finish_reason is not None:
            self._finished(choice.finish_reason)

    def _add(self, tokens: list[Token], text: str | None, channel: Channel, logprob: float | None = None) -> None:
        if text:
            tokens.append(Token(text, self._count, channel, logprob))
            self._count += 1

    def _call(self, piece: ToolCallDelta, tokens: list[Token]) -> None:
        call = self._calls.setdefault(piece.index, _Call())
        call.id = call.id or piece.id or ""
        if piece.function is not None:
            call.name = call.name or piece.function.name or ""
            call.arguments += piece.function.arguments or ""
            self._add(tokens, piece.function.arguments, "tool_call")

    def _finished(self, reason: str) -> None:
        if reason in ("abort", "error"):
            raise _given_up(reason, self._where)
        self._finish = reason


class _Call:
    """A tool call as it grows."""

    def __init__(self) -> None:
        self.id = ""
        self.name = ""
        self.arguments = ""

    def whole(self, index: int) -> ToolCall:
        return ToolCall(id=self.id or f"call_{index}", name=self.name, arguments=self.arguments)


def told(timings: Timings | None) -> dict[str, float]:
    """The figures that are numbers."""
    return {name: figure for name, figure in (timings or {}).items() if figure is not None}


def _given_up(reason: str, where: str) -> WorkerError:
    """What vLLM's finish reasons `abort` and `error` mean: neither is an end."""
    message = f"the engine gave the task up ({reason}) · {where} · look at the engine's own log"
    if reason == "abort":
        return WorkerReset(message, detail="aborted", phase="decode")
    return InternalError(message, detail="engine", phase="decode")
