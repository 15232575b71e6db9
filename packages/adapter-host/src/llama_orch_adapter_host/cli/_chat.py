"""`adapter-host chat`: one task, its tokens as they come."""

import asyncio
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec
from llama_orch_adapter_api import End, Message, Sampling, TaskRequest, Token, TokenEvent

from .._host import AdapterHost
from .._stream import TokenStream
from ._exit import BadRequestError, Exit, Interrupted, NotUtf8Error
from ._screen import Screen
from ._source import Opened, Source, only_pool, opened, with_source

MAX_TOKENS = 256
"""Tokens of an answer where nothing else is said: a small model may never come to an end by itself."""

_DEADLINES = (0.001, 9e12)
"""The shortest and the longest, in seconds: a task has its deadline in whole milliseconds."""


@click.command()
@click.argument("words", nargs=-1, metavar="[POOL] PROMPT")
@with_source
@click.option("--system", metavar="TEXT", help="What the model is told before the prompt.")
@click.option(
    "--messages", type=click.Path(path_type=Path), help="A JSON list of messages in place of PROMPT; - is stdin."
)
@click.option("--raw", is_flag=True, help="Send PROMPT as it is, without the model's chat template.")
@click.option("--max-tokens", type=int, default=MAX_TOKENS, show_default=True, help="The longest answer, in tokens.")
@click.option("--temperature", type=float, help="0 always takes the likeliest token.")
@click.option("--seed", type=int, help="Makes the choice of tokens repeatable.")
@click.option("--deadline", type=float, metavar="SECONDS", help="How long the whole may take.")
@click.pass_obj
def chat(screen: Screen, /, words: tuple[str, ...], **given: Any) -> Exit:
    """Send PROMPT to a pool and print the answer as it comes.

    PROMPT - is read from stdin. Ctrl-C stops the engine's work on it.
    """
    if len(words) > 2:
        raise click.UsageError(f"{len(words)} words are given for [POOL] PROMPT; put the prompt in quotes")
    source = Source(**{name: given.pop(name) for name in Source.__struct_fields__})
    pool, prompt = (words[0], words[1]) if len(words) == 2 else (None, words[0] if words else None)
    task = _task(prompt, **given)  # before there is an event loop, which would keep Ctrl-C from a read of stdin
    return asyncio.run(_chat(screen, opened(source, screen), pool, task))


async def _chat(screen: Screen, opened: Opened, pool: str | None, task: TaskRequest) -> Exit:
    async with opened as host:
        return await _stream(screen, host, only_pool(host, pool), task)


def _task(
    prompt: str | None,
    *,
    system: str | None,
    messages: Path | None,
    raw: bool,
    max_tokens: int,
    temperature: float | None,
    seed: int | None,
    deadline: float | None,
) -> TaskRequest:
    """The options as a request; what the request refuses is told as it says it."""
    if prompt is not None and messages is not None:
        raise click.UsageError("PROMPT and --messages are both given; give one of them")
    if prompt is None and messages is None:
        raise click.UsageError("no PROMPT is given; add one in quotes, - for stdin, or --messages FILE")
    if system is not None and (raw or messages):
        other = "--raw sends no messages" if raw else "--messages may begin with a system message of its own"
        raise click.UsageError(f"{other}, so --system has no place; leave one of them out")
    if raw and messages:
        raise click.UsageError("--raw sends PROMPT as it is, so --messages has no place; leave one of them out")
    if deadline is not None and not _DEADLINES[0] <= deadline <= _DEADLINES[1]:
        shortest, longest = _DEADLINES
        raise BadRequestError(f"--deadline is {deadline:g}; give seconds from {shortest} to {longest:g}")
    try:
        text = None if prompt is None else _text(prompt)
        return TaskRequest(
            prompt=text if raw else None,
            messages=() if raw else _read_messages(messages) if messages else _turns(system, text),
            max_tokens=max_tokens,
            sampling=Sampling(temperature=temperature),
            seed=seed,
            deadline_ms=None if deadline is None else round(deadline * 1000),
        )
    except NotUtf8Error:
        raise
    except ValueError as error:
        raise BadRequestError(str(error)) from None


def _turns(system: str | None, text: str | None) -> tuple[Message, ...]:
    if not text:
        raise BadRequestError("PROMPT is empty; give at least one character")
    before = (Message("system", _utf8(system)),) if system else ()
    return (*before, Message("user", text))


def _text(prompt: str) -> str:
    """The prompt, or, for `-`, what stands on stdin. Raises `NotUtf8Error`."""
    return _decoded(_stdin(), "the prompt") if prompt == "-" else _utf8(prompt)


def _utf8(words: str) -> str:
    """Words from the command line, in which Python keeps what is no text as surrogates."""
    return _decoded(words.encode(errors="surrogatepass"), "the prompt")


def _decoded(raw: bytes, what: str) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise NotUtf8Error(f"{what} is not UTF-8; save or type it as UTF-8, or set your terminal to it") from None


def _stdin() -> bytes:
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise BadRequestError(f"stdin cannot be read: {error.strerror}; give it a file or a pipe") from None


def _read_messages(path: Path) -> tuple[Message, ...]:
    try:
        raw = _stdin() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise BadRequestError(f"{path} cannot be read: {error.strerror}; give a JSON file or - for stdin") from None
    text = _decoded(raw, str(path))
    try:
        return msgspec.json.decode(text, type=tuple[Message, ...])
    except RecursionError:
        raise BadRequestError(f"{path} is nested too deep; give a JSON list of messages") from None
    except msgspec.MsgspecError as error:
        raise BadRequestError(f"{path} is no JSON list of messages with role and content: {error}") from None


class _Answer:
    """Prints one stream, and keeps the figures for the line under it."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._began = time.monotonic()
        self._first: float | None = None
        self._last = self._began
        self.tokens = 0

    def show(self, event: TokenEvent) -> None:
        """Print an event."""
        if isinstance(event, Token):
            self._last = time.monotonic()
            self._first = self._first or self._last
            self.tokens += 1
        if self._screen.as_json:
            self._screen.document(event)
        elif isinstance(event, Token) and event.channel != "tool_call":
            self._screen.piece(event.t, event.channel)
        elif isinstance(event, End):
            self._screen.end_line()
            for call in event.tool_calls:
                self._screen.piece(f"{call.name}({call.arguments})\n")

    def footer(self, end: End, stream: TokenStream) -> None:
        """Tokens, time to the first, rate after it, who served, and at which attempt."""
        count = self.tokens if end.tokens_out is None else end.tokens_out
        parts = [f"{count} tokens"]
        if self._first is not None:
            parts.append(f"first {self._first - self._began:.2f} s")
            if count > 1 and self._last > self._first:
                parts.append(f"{(count - 1) / (self._last - self._first):.0f} tok/s")
        if end.finish_reason == "length":
            parts.append("cut at --max-tokens or the context")
        attempts = "1 attempt" if stream.attempts == 1 else f"{stream.attempts} attempts"
        self._screen.note(f"[{' · '.join([*parts, f'replica {stream.replica}', attempts])}]")


async def _stream(screen: Screen, host: AdapterHost, pool: str, task: TaskRequest) -> Exit:
    answer = _Answer(screen)
    try:
        async with host.submit(pool, task) as stream:
            answer.footer(await _print(stream, answer), stream)
    except asyncio.CancelledError:
        raise Interrupted(
            f"task {task.task_id[:8]} cancelled after {answer.tokens} tokens; the engine is told to stop"
        ) from None
    return Exit.OK


async def _print(stream: TokenStream, answer: _Answer) -> End:
    async for event in stream:
        answer.show(event)
        if isinstance(event, End):
            end = event
    return end
