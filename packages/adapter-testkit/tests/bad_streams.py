"""Adapters that go wrong in what they read, and in what they say of it."""

import re
from collections.abc import AsyncIterator, Iterable
from typing import Any

from llama_orch_adapter_api import (
    AdapterError,
    End,
    InternalError,
    Message,
    PoolUnavailable,
    Started,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerError,
    WorkerReset,
)

from .twisted import Twisted, breaks, replace, tokens_of  # type: ignore[import-not-found]  # test folders are no packages


@breaks("stream.order")
class StartsTwice(Twisted):
    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (event, event) if isinstance(event, Started) else (event,)


@breaks("stream.tokens")
class CountsFromOne(Twisted):
    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (replace(event, i=event.i + 1) if isinstance(event, Token) else event,)


@breaks("stream.characters")
class TidiesLines(Twisted):
    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (replace(event, t=event.t.replace("\u2028", "\n")) if isinstance(event, Token) else event,)


@breaks("stream.started")
class ForgetsTheSeed(Twisted):
    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (replace(event, seed=None) if isinstance(event, Started) else event,)


@breaks("stream.end")
class CountsEvents(Twisted):
    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (replace(event, tokens_in=1) if isinstance(event, End) else event,)


@breaks("stream.end")
class AlwaysStops(Twisted):
    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (replace(event, finish_reason="stop") if isinstance(event, End) else event,)


@breaks("stream.empty")
class WantsTokens(Twisted):
    async def stream(self, task: TaskRequest) -> Any:
        seen = []
        async for event in super().stream(task):
            seen.append(event)
            if isinstance(event, End) and not tokens_of(seen):
                raise WorkerReset("nothing came", detail="truncated")
            yield event


@breaks("framing.every_byte", "framing.one_byte", "framing.at_once", "sse.line_ends", "errors.nonsense")
class DecodesChunks(Twisted):
    def read(self, chunk: bytes) -> bytes:
        return chunk.decode(errors="replace").encode()


@breaks("framing.one_byte", "sse.line_ends")
class TiresOfSmallChunks(Twisted):
    small = 0

    def read(self, chunk: bytes) -> bytes:
        self.small = self.small + 1 if len(chunk) == 1 else 0
        return chunk if self.small < 100 else b""


@breaks("framing.at_once", "loop.cpu")
class ReadsFiveEvents(Twisted):
    def read(self, chunk: bytes) -> bytes:
        return chunk if chunk.count(b"data: {") < 5 else b"\n\n".join(chunk.split(b"\n\n")[1:])


@breaks("loop.cpu")
class TiresOfTokens(Twisted):
    async def stream(self, task: TaskRequest) -> Any:
        async for event in super().stream(task):
            if isinstance(event, Token) and event.i == 200:
                raise WorkerReset("enough", detail="truncated")
            yield event


@breaks("sse.line_ends")
class KnowsNoReturn(Twisted):
    def read(self, chunk: bytes) -> bytes:
        return chunk.replace(b"\r", b" ")


@breaks("sse.comments")
class ReadsComments(Twisted):
    def read(self, chunk: bytes) -> bytes:
        return re.sub(rb"(?<=\n): ", b"data: ", chunk)


@breaks("sse.mark")
class TakesTheMarkForText(Twisted):
    def read(self, chunk: bytes) -> bytes:
        return chunk.replace(b"\xef\xbb\xbf", b"x")


@breaks("sse.fields")
class WantsTheBlank(Twisted):
    def read(self, chunk: bytes) -> bytes:
        return chunk.replace(b"data:{", b"dato:{")


@breaks("sse.lines")
class ReadsOneLine(Twisted):
    def read(self, chunk: bytes) -> bytes:
        return chunk.replace(b"{\ndata: ", b"{\nmore: ")


@breaks("sse.unterminated")
class WantsDone(Twisted):
    done = False
    tail = b""

    def read(self, chunk: bytes) -> bytes:
        self.tail = (self.tail + chunk)[-40:]
        self.done = b"[DONE]" in self.tail
        return chunk

    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        if isinstance(event, End) and not self.done:
            raise WorkerReset("no [DONE]", detail="truncated")
        return (event,)


def tells(check: str, detail: str, instead: WorkerError) -> None:
    """An adapter that tells one failure as another."""

    class Tells(Twisted):
        def failed(self, error: WorkerError, seen: list[TokenEvent]) -> Any:
            return instead if error.detail == detail else error

    Tells.__name__ = f"Tells_{detail}_wrong"
    breaks(check)(Tells)


tells("errors.status", "not_found", AdapterError("no", detail="bad_request"))
tells("errors.loading", "loading", PoolUnavailable("no", detail="overloaded"))
tells("errors.context", "context_length", AdapterError("no", detail="bad_request"))
tells("errors.redirect", "redirect", AdapterError("no", detail="bad_request"))
tells("errors.unreachable", "unreachable", PoolUnavailable("no", detail="overloaded"))
tells("errors.nonsense", "decode", InternalError("no", detail="engine"))
tells("errors.too_large", "too_large", AdapterError("no", detail="decode"))
tells("errors.encoding", "encoding", AdapterError("no", detail="decode"))


@breaks("errors.retry_after")
class ForgetsTheWait(Twisted):
    def failed(self, error: WorkerError, seen: list[TokenEvent]) -> Any:
        error.retry_after = None
        return error


@breaks("errors.in_stream")
class TakesErrorsForTheEnd(Twisted):
    def failed(self, error: WorkerError, seen: list[TokenEvent]) -> Any:
        return (End(None, None, "stop"),) if error.detail == "engine" and tokens_of(seen) else error


@breaks("errors.words")
class RepeatsThePrompt(Twisted):
    def asked(self, task: TaskRequest) -> TaskRequest:
        self.prompt = task.prompt
        return task

    def failed(self, error: WorkerError, seen: list[TokenEvent]) -> Any:
        wrong = error.detail == "bad_request"
        return AdapterError(f"{error.message} {self.prompt}", detail="bad_request") if wrong else error


@breaks("request.extra")
class DropsExtra(Twisted):
    def asked(self, task: TaskRequest) -> TaskRequest:
        return replace(task, extra={})


@breaks("cuts.phases", "cuts.toxics")
class BlamesTheEngine(Twisted):
    def failed(self, error: WorkerError, seen: list[TokenEvent]) -> Any:
        early = isinstance(error, WorkerReset) and not tokens_of(seen)
        return InternalError("it broke", detail="engine") if early else error


@breaks("cuts.framings")
class TakesFiveTokensForAll(Twisted):
    def failed(self, error: WorkerError, seen: list[TokenEvent]) -> Any:
        enough = isinstance(error, WorkerReset) and len(tokens_of(seen)) == 5
        return (End(None, None, "stop"),) if enough else error


@breaks("cuts.toxics")
class TakesEightTokensForAll(Twisted):
    def failed(self, error: WorkerError, seen: list[TokenEvent]) -> Any:
        enough = isinstance(error, WorkerReset) and len(tokens_of(seen)) >= 8
        return (End(None, None, "stop"),) if enough else error


@breaks("cuts.tokens_kept", "cuts.toxics")
class MakesUpAToken(Twisted):
    async def stream(self, task: TaskRequest) -> Any:
        seen = []
        try:
            async for event in super().stream(task):
                seen.append(event)
                yield event
        except WorkerReset:
            if len(tokens_of(seen)) >= 3:
                yield Token("…", len(tokens_of(seen)))
            raise


@breaks("cuts.not_sent_again")
class TriesAgain(Twisted):
    async def stream(self, task: TaskRequest) -> Any:
        seen = []
        try:
            async for event in super().stream(task):
                seen.append(event)
                yield event
        except WorkerError as error:
            if tokens_of(seen) or not error.retriable:
                raise
            async for event in super().stream(task):
                yield event


@breaks("chat.order")
class ForgetsMessages(Twisted):
    def asked(self, task: TaskRequest) -> TaskRequest:
        return replace(task, messages=(Message("user", "?"),)) if task.messages else task


@breaks("tools.calls")
class ForgetsCalls(Twisted):
    features = ("tools",)

    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (replace(event, tool_calls=()) if isinstance(event, End) else event,)


@breaks("reasoning.channel")
class ThinksAloud(Twisted):
    features = ("reasoning",)

    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (replace(event, channel="content") if isinstance(event, Token) else event,)


@breaks("logprobs.told")
class ForgetsLogprobs(Twisted):
    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (replace(event, logprob=None) if isinstance(event, Token) else event,)


@breaks("seed.sent")
class KeepsTheSeed(Twisted):
    def asked(self, task: TaskRequest) -> TaskRequest:
        self.seed = task.seed
        return replace(task, seed=None)

    def told(self, event: TokenEvent) -> Iterable[TokenEvent]:
        return (replace(event, seed=self.seed) if isinstance(event, Started) else event,)


@breaks("deadline.sent")
class KeepsTheDeadline(Twisted):
    features = ("deadline",)


@breaks("embedding.vectors")
class CannotEmbed(Twisted):
    workloads = ("embedding",)

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        if task.workload == "embedding":
            raise AdapterError("no", detail="unsupported")
        return super().submit(task)


@breaks("rerank.scores")
class CannotRerank(Twisted):
    workloads = ("rerank",)

    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        if task.workload == "rerank":
            raise AdapterError("no", detail="unsupported")
        return super().submit(task)
