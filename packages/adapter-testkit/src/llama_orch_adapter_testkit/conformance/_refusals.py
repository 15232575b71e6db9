"""What an engine refuses, and what an error says on the boundary."""

import gzip
from collections.abc import Callable
from typing import NamedTuple

from llama_orch_adapter_api import (
    AdapterError,
    DecodeTimeout,
    InternalError,
    PoolUnavailable,
    TaskRequest,
    WorkerError,
)

from .._dialect import Asked, Piece
from .._dialects import LAST_CHUNK, framed
from .._engine import LoopbackEngine
from .._outcome import Outcome, outcome
from .._reply import Reply
from ._bench import PIECES, PROMPT, Bench
from ._check import Broken, Trial, check, require

WAIT = 7.0
"""Seconds."""

MARK = Piece("mark")
HUGE = 9 * 1024 * 1024
"""Bytes that no event, no line and no document may have."""


class Meaning(NamedTuple):
    """What an error is to be."""

    kind: type[WorkerError]
    detail: str

    def __str__(self) -> str:
        return f"{self.kind.__name__} {self.detail}"


BAD_REQUEST = Meaning(AdapterError, "bad_request")
ENGINE = Meaning(InternalError, "engine")
DECODE = Meaning(AdapterError, "decode")

STATUSES: dict[int, Meaning] = {
    400: BAD_REQUEST,
    401: Meaning(AdapterError, "auth"),
    403: Meaning(AdapterError, "auth"),
    404: Meaning(AdapterError, "not_found"),
    413: BAD_REQUEST,
    422: BAD_REQUEST,
    429: Meaning(PoolUnavailable, "overloaded"),
    500: ENGINE,
    501: Meaning(AdapterError, "unsupported"),
    502: ENGINE,
    503: Meaning(PoolUnavailable, "overloaded"),
    504: Meaning(DecodeTimeout, "first_token"),
}


def failed(seen: Outcome, wanted: Meaning, what: str) -> WorkerError:
    """The error of a task, which is to mean that; its flags are those of the taxonomy's table."""
    error = seen.error
    if error is None:
        raise Broken(f"{what} was taken for a success: {seen}")
    told = Meaning(type(error), error.detail)
    require(told == wanted, f"{what} is told as {told}, it is to be {wanted}: {error}")
    flags = wanted.kind.verdicts[wanted.detail]
    require((error.retriable, error.engine_fault) == flags, f"{told} has other flags than the boundary's table")
    return error


@check("errors.status")
async def status(trial: Trial) -> None:
    """Each status is the failure that the boundary says, with its flags; no event comes before it but `Started`."""
    for code, wanted in STATUSES.items():
        seen = await trial.bench.answered(trial.bench.dialect.refusal(code, "no such luck"))
        failed(seen, wanted, f"a {code}")
        require(not seen.tokens, f"a refusal by {code} came with tokens")


@check("errors.loading")
async def loading(trial: Trial) -> None:
    """A 503 that says that the model is loading is `loading`: to be tried again, and nobody's fault."""
    seen = await trial.bench.answered(trial.bench.dialect.refusal(503, "Loading model"))
    failed(seen, Meaning(PoolUnavailable, "loading"), "a 503 while loading")


@check("errors.context")
async def context(trial: Trial) -> None:
    """A prompt that is too long for the context is told as that."""
    seen = await trial.bench.answered(trial.bench.dialect.overflow())
    failed(seen, Meaning(AdapterError, "context_length"), "a prompt that is too long")


@check("errors.retry_after")
async def retry_after(trial: Trial) -> None:
    """The seconds of a Retry-After come with the error."""
    for code in (429, 503):
        seen = await trial.bench.answered(trial.bench.dialect.refusal(code, "busy", retry_after=WAIT))
        wait = failed(seen, Meaning(PoolUnavailable, "overloaded"), f"a {code} with Retry-After").retry_after
        require(wait == WAIT, f"the engine asked to wait for {WAIT} s, retry_after is {wait}")


@check("errors.redirect")
async def redirect(trial: Trial) -> None:
    """A redirect is refused; nothing is sent where it leads."""
    async with LoopbackEngine({}) as elsewhere:
        seen = await trial.bench.answered(Reply.redirect(f"{elsewhere.url}/v1/chat/completions"))
        sent = list(elsewhere.requests)

    failed(seen, Meaning(AdapterError, "redirect"), "a redirect")
    require(not sent, "a redirect was followed: prompt and key went to whom it named")


@check("errors.unreachable")
async def unreachable(trial: Trial) -> None:
    """An engine that is not there is unreachable; it was never asked, so that anybody may try again."""
    async with LoopbackEngine({}) as gone:
        adapter = trial.bench.adapter(gone.url)
    try:
        seen = await outcome(adapter, trial.bench.task())
    finally:
        await adapter.aclose()
    failed(seen, Meaning(PoolUnavailable, "unreachable"), "a refused connection")


@check("errors.in_stream")
async def in_stream(trial: Trial) -> None:
    """An error in the middle of a stream is one, whatever follows it; the tokens before it are not lost."""
    bench = trial.bench

    def broken(asked: Asked) -> Reply:
        events = [bench.dialect.token(asked, PIECES[0], 1), *bench.dialect.broken(500, "out of memory")]
        return bench.stream(map(framed, events), last=LAST_CHUNK)

    seen = await bench.answered(broken)
    failed(seen, ENGINE, "an error in the middle of a stream")
    require(seen.text == PIECES[0].text, f"before the error the engine said {PIECES[0].text!r}, told is {seen.text!r}")


@check("errors.nonsense")
async def nonsense(trial: Trial) -> None:
    """What is not the JSON that it should be is told as that; so is a page of another server's."""
    bench = trial.bench
    page = b"<html>It works!</html>"
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(page)
    replies: dict[str, Reply | Callable[[Asked], Reply]] = {
        "bad JSON": _spoilt(bench, b'{"choices": [}'),
        "JSON of another type": _spoilt(bench, b"[1, 2]"),
        "bad UTF-8": lambda asked: bench.body(bench.dialect.token(asked, MARK, 1).replace(b"mark", b"\xff\xfe")),
        "deep JSON": _spoilt(bench, b"[" * 100_000),
        "a web page": Reply.raw(head + page),
    }
    for what, reply in replies.items():
        failed(await bench.answered(reply), DECODE, what)


@check("errors.too_large")
async def too_large(trial: Trial) -> None:
    """An event without an end is refused at some limit, instead of filling the memory."""
    seen = await trial.bench.answered(_spoilt(trial.bench, b'{"content":"' + b"x" * HUGE))
    failed(seen, Meaning(AdapterError, "too_large"), f"an event of {HUGE >> 20} MiB")


@check("errors.encoding")
async def encoding(trial: Trial) -> None:
    """A compressed answer is refused: nobody asked for one, and it may be a bomb."""
    body = gzip.compress(b"data: {}\n\n" * 1000)
    head = b"Content-Type: text/event-stream\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    seen = await trial.bench.answered(Reply.raw(b"HTTP/1.1 200 OK\r\n" + head + body))
    failed(seen, Meaning(AdapterError, "encoding"), "a compressed answer")


@check("errors.words")
async def words(trial: Trial) -> None:
    """An error says what happened, where and the mend: the status, the engine's host and port; never the prompt."""
    bench = trial.bench
    async with bench.meeting(bench.script(_echo(bench))) as (adapter, engine):
        error = failed(await outcome(adapter, bench.task()), BAD_REQUEST, "a refusal that repeats the prompt")
        where = engine.url.removeprefix("http://")

    require("400" in error.message, f"{error.message!r} does not say what the engine answered")
    require(where in error.message, f"{error.message!r} does not say where, {where}")
    require(PROMPT not in error.message, f"{error.message!r} repeats the prompt")
    require("\n" not in error.message, f"{error.message!r} is not one line")


@check("request.extra")
async def extra(trial: Trial) -> None:
    """What a task brings as `extra` reaches the engine as it is."""
    bench, bodies = trial.bench, list[object]()

    def noted(asked: Asked) -> Reply:
        bodies.append(asked.body.get("kit_extra"))
        return bench.reply()(asked)

    task: TaskRequest = bench.task(extra={"kit_extra": {"depth": [1, 2]}})
    await bench.answered(noted, task)
    require(bodies == [{"depth": [1, 2]}], f"extra was {{'depth': [1, 2]}}, the engine read {bodies}")


def _spoilt(bench: Bench, document: bytes) -> Callable[[Asked], Reply]:
    """A stream whose one event holds that instead."""
    event = b"data: " + document + b"\n\n" if bench.dialect.is_sse else document + b"\n"
    return lambda _: bench.stream([framed(event)], last=LAST_CHUNK)


def _echo(bench: Bench) -> Callable[[Asked], Reply]:
    return lambda asked: bench.dialect.refusal(400, f"cannot take {asked.subject!r}")
