"""A task's events as an answer of OpenAI's API, whole or in chunks. Pure.

What a chunk or a whole answer is made of is collected by one class for each route and manner.
"""

from abc import ABC, abstractmethod
from collections import defaultdict
from io import StringIO
from typing import ClassVar

import msgspec
from llama_orch_adapter_api import AdapterError, End, Metrics, Token, TokenEvent, WorkerError

from ._openai_answers import (
    AnswerMessage,
    Call,
    Called,
    ChatAnswer,
    ChatChoice,
    ChatChunk,
    ChatLogprobs,
    ChunkChoice,
    Delta,
    Finish,
    IndexedCall,
    Likelihood,
    TextAnswer,
    TextChoice,
    TextLogprobs,
    Usage,
)
from ._openai_errors import body_of, cancelled, refusal_of
from ._openai_requests import Asked
from ._refusal import Refusal

MOST = 8 * 1024 * 1024
"""Characters that a whole answer may have, of up to 4 bytes each; what is longer has to be streamed."""

_DONE = b"data: [DONE]\n\n"
_NO_CONTENT = b'"content":""'
_ENTRY = 128
"""What the logprob of a token counts as, in characters."""

_LEAST_LOGPROB = -9999.0
"""What OpenAI calls impossible: JSON has no infinity."""

_encode = msgspec.json.Encoder().encode


class OpenAIForm(ABC):
    """Turns a task's events into bytes. `refusal` is why it failed, `begun` whether it had said something before."""

    prefix: ClassVar[str]

    def __init__(self, asked: Asked, created: int) -> None:
        self.begun = False
        self.refusal: Refusal | None = None
        self.id = f"{self.prefix}-{asked.task.task_id}"
        self._model = asked.pool_id
        self._created = created
        self._fingerprint: str | None = None
        self._logprobs = asked.logprobs
        self._include_usage = asked.include_usage

    def event(self, _number: int, event: TokenEvent) -> bytes:
        """What is to be written for an event, which may be nothing."""
        if type(event) is Token:
            return self._token(event)
        if type(event) is End:
            if event.finish_reason == "cancelled":
                return self._failed(cancelled())
            return self._end(event, event.finish_reason)
        if type(event) is Metrics:
            return b""
        self.begun = True
        self._fingerprint = f"{event.engine}-{event.engine_version}"  # type: ignore[union-attr]  # it is Started
        return self._start()

    def failure(self, _number: int, error: WorkerError) -> bytes:
        """What is to be written last where the task failed."""
        return self._failed(refusal_of(error))

    def _failed(self, refusal: Refusal) -> bytes:
        self.refusal = refusal
        return _event(body_of(refusal))

    def _start(self) -> bytes:
        return b""

    @abstractmethod
    def _token(self, token: Token) -> bytes: ...

    @abstractmethod
    def _end(self, end: End, finish: Finish) -> bytes: ...


class ChatChunks(OpenAIForm):
    """A chat, streamed. A tool call comes in one piece, at the end: tokens do not tell which one they are of."""

    prefix = "chatcmpl"

    def __init__(self, asked: Asked, created: int) -> None:
        super().__init__(asked, created)
        self._before = self._after = b""

    def _start(self) -> bytes:
        first = self._chunk(ChunkChoice(Delta(role="assistant", content="")))
        plain = self._chunk(ChunkChoice(Delta(content="")))
        before, named, self._after = plain.partition(_NO_CONTENT)  # which stands in no text: quotes are escaped there
        self._before = before + named.removesuffix(b'""')
        return first

    def _token(self, token: Token) -> bytes:
        if token.channel == "content":
            if self._before and not self._logprobs:  # nearly every chunk of nearly every stream
                return b"%b%b%b" % (self._before, _encode(token.t), self._after)
            return self._chunk(ChunkChoice(Delta(content=token.t), _chat_logprobs((token,))))
        if token.channel == "reasoning":
            return self._chunk(ChunkChoice(Delta(reasoning_content=token.t)))
        return b""

    def _end(self, end: End, finish: Finish) -> bytes:
        chunks = []
        if end.tool_calls:
            calls = tuple(
                IndexedCall(i, call.id, Called(call.name, call.arguments)) for i, call in enumerate(end.tool_calls)
            )
            chunks.append(self._chunk(ChunkChoice(Delta(tool_calls=calls))))
        chunks.append(self._chunk(ChunkChoice(Delta(), finish_reason=finish)))
        if self._include_usage:
            chunks.append(self._chunk(usage=Usage.of(end)))
        return b"".join((*chunks, _DONE))

    def _chunk(self, *choices: ChunkChoice, usage: Usage | None = None) -> bytes:
        counted = usage if self._include_usage else msgspec.UNSET
        return _event(ChatChunk(self.id, self._created, self._model, self._fingerprint, choices, counted))


class TextChunks(OpenAIForm):
    """A completed prompt, streamed."""

    prefix = "cmpl"

    def __init__(self, asked: Asked, created: int) -> None:
        super().__init__(asked, created)
        self._offset = 0

    def _token(self, token: Token) -> bytes:
        logprobs = _text_logprobs((token,), self._offset) if self._logprobs else None
        self._offset += len(token.t)
        return self._chunk(TextChoice(token.t, logprobs))

    def _end(self, end: End, finish: Finish) -> bytes:
        last = self._chunk(TextChoice("", finish_reason=finish))
        return last + (self._chunk(usage=Usage.of(end)) if self._include_usage else b"") + _DONE

    def _chunk(self, *choices: TextChoice, usage: Usage | None = None) -> bytes:
        counted = usage if self._include_usage else msgspec.UNSET
        return _event(TextAnswer(self.id, self._created, self._model, self._fingerprint, choices, counted))


class _Whole(OpenAIForm):
    """Keeps what was said until the end: texts, joined as they come, and each token by itself only for its logprob.

    A token that is kept holds much more than its text. When all is said nothing is kept: its task is known for a while.
    """

    apart: ClassVar[bool]  # whether each channel has a text of its own

    def __init__(self, asked: Asked, created: int) -> None:
        super().__init__(asked, created)
        self._texts: defaultdict[str, StringIO] = defaultdict(StringIO)
        self._tokens: list[Token] = []  # where logprobs are asked for
        self._size = 0

    def _token(self, token: Token) -> bytes:
        self._size += len(token.t) + (_ENTRY if self._logprobs else 0)
        if self._size > MOST:
            raise AdapterError(
                f"the answer has more than {MOST} characters · stream it, or set max_tokens", detail="too_large"
            )
        self._texts[token.channel if self.apart else ""].write(token.t)
        if self._logprobs:
            self._tokens.append(token)
        return b""

    def _end(self, end: End, finish: Finish) -> bytes:
        answer = self._answer(end, finish)
        self._drop()
        return answer

    def _failed(self, refusal: Refusal) -> bytes:
        self._drop()
        return super()._failed(refusal)

    def _drop(self) -> None:
        self._texts.clear()
        self._tokens.clear()

    @abstractmethod
    def _answer(self, end: End, finish: Finish) -> bytes: ...


class WholeChat(_Whole):
    """The answer to a chat, in one piece."""

    prefix = "chatcmpl"
    apart = True

    def _answer(self, end: End, finish: Finish) -> bytes:
        content, reasoning = (self._texts[channel].getvalue() for channel in ("content", "reasoning"))
        calls = tuple(Call(call.id, Called(call.name, call.arguments)) for call in end.tool_calls)
        message = AnswerMessage(
            None if calls and not content else content,
            reasoning_content=reasoning or msgspec.UNSET,
            tool_calls=calls or msgspec.UNSET,
        )
        spoken = tuple(token for token in self._tokens if token.channel == "content")
        choice = ChatChoice(message, finish, _chat_logprobs(spoken) if self._logprobs else None)
        return _encode(ChatAnswer(self.id, self._created, self._model, self._fingerprint, (choice,), Usage.of(end)))


class WholeText(_Whole):
    """A completed prompt, in one piece, of whatever channel its tokens are."""

    prefix = "cmpl"
    apart = False

    def _answer(self, end: End, finish: Finish) -> bytes:
        text = self._texts[""].getvalue()
        choice = TextChoice(text, _text_logprobs(self._tokens, 0) if self._logprobs else None, finish)
        return _encode(TextAnswer(self.id, self._created, self._model, self._fingerprint, (choice,), Usage.of(end)))


def _event(document: msgspec.Struct) -> bytes:
    return b"data: %b\n\n" % _encode(document)


def _chat_logprobs(tokens: tuple[Token, ...]) -> ChatLogprobs | None:
    """Of those tokens whose engine told it."""
    told = tuple(
        Likelihood(token.t, max(token.logprob, _LEAST_LOGPROB), tuple(token.t.encode()))
        for token in tokens
        if token.logprob is not None
    )
    return ChatLogprobs(told) if told else None


def _text_logprobs(tokens: list[Token] | tuple[Token, ...], offset: int) -> TextLogprobs:
    offsets = []
    for token in tokens:
        offsets.append(offset)
        offset += len(token.t)
    logprobs = tuple(None if token.logprob is None else max(token.logprob, _LEAST_LOGPROB) for token in tokens)
    return TextLogprobs(tuple(token.t for token in tokens), logprobs, tuple(offsets))
