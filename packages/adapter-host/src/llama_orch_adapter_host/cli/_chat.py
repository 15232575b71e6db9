"""`adapter-host chat`: one task, its tokens as they come."""

import asyncio
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from llama_orch_adapter_api import End, Error, Message, Sampling, TaskRequest, Token, WireEvent, WorkerError

from .._flight import cancelled
from .._host import AdapterHost
from .._plugins import Plugins
from .._stream import TokenStream
from ._exit import BadRequestError, Exit, NotUtf8Error, code_of
from ._run import run
from ._screen import Screen
from ._source import Source, only_pool, opened, with_source

MAX_TOKENS = 256
"""Tokens of an answer where nothing else is said: a small model may never come to an end by itself."""


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
def chat(words: tuple[str, ...], as_json: bool, **given: Any) -> None:
    """Send PROMPT to a pool and print the answer as it comes.

    PROMPT - is read from stdin. Ctrl-C stops the engine's work on it.
    """
    if len(words) > 2:
        raise click.UsageError(f"{len(words)} words are given for [POOL] PROMPT; put the prompt in quotes")
    source = Source(**{name: given.pop(name) for name in Source.__struct_fields__})
    pool, prompt = (words[0], words[1]) if len(words) == 2 else (None, words[0] if words else None)
    screen = Screen(as_json=as_json)
    run(_chat(screen, source, Plugins.installed(), pool, lambda: _task(prompt, **given)), screen)


async def _chat(
    screen: Screen, source: Source, plugins: Plugins, pool: str | None, read_task: Callable[[], TaskRequest]
) -> Exit:
    task = read_task()
    async with opened(source, screen, plugins) as host:
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
    try:
        turns = _read_messages(messages) if messages else _turns(system, prompt or "", raw=raw)
        return TaskRequest(
            prompt=_text(prompt or "") if raw and not messages else None,
            messages=turns,
            max_tokens=max_tokens,
            sampling=Sampling(temperature=temperature),
            seed=seed,
            deadline_ms=None if deadline is None else round(deadline * 1000),
        )
    except NotUtf8Error:
        raise
    except ValueError as error:
        raise BadRequestError(str(error)) from None


def _turns(system: str | None, prompt: str, *, raw: bool) -> tuple[Message, ...]:
    if raw:
        if system:
            raise click.UsageError("--raw sends no messages, so --system has no place; leave one of them out")
        return ()
    text = _text(prompt)
    if not text:
        raise BadRequestError("PROMPT is empty; give at least one character")
    before = (Message("system", _text(system)),) if system else ()
    return (*before, Message("user", text))


def _text(words: str) -> str:
    """A prompt from the command line or, for `-`, from stdin. Raises `NotUtf8Error`."""
    try:
        if words == "-":
            return sys.stdin.buffer.read().decode()
        words.encode()
    except UnicodeError:
        raise NotUtf8Error("the prompt is not UTF-8; save or type it as UTF-8, or set your terminal to it") from None
    return words


def _read_messages(path: Path) -> tuple[Message, ...]:
    try:
        raw = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise BadRequestError(f"{path} cannot be read: {error.strerror}; give a JSON file or - for stdin") from None
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise NotUtf8Error(f"{path} is not UTF-8; save it as UTF-8") from None
    try:
        return msgspec.json.decode(raw, type=tuple[Message, ...])
    except msgspec.MsgspecError as error:
        raise BadRequestError(f"{path} is no JSON list of messages with role and content: {error}") from None


class _Answer:
    """Prints one stream, and keeps the figures for the line under it."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._began = time.monotonic()
        self._first: float | None = None
        self._last = self._began
        self._ends_line = True
        self.tokens = 0

    def show(self, event: WireEvent) -> None:
        """Print an event."""
        if isinstance(event, Token):
            self._last = time.monotonic()
            self._first = self._first or self._last
            self.tokens += 1
        if self._screen.as_json:
            self._screen.document(event)
        elif isinstance(event, Token) and event.channel == "content":
            self._screen.text(event.t)
            self._ends_line = event.t.endswith("\n")
        elif isinstance(event, Token) and event.channel == "reasoning":
            self._screen.notes.print(event.t, style="dim italic", end="", markup=False)
        elif isinstance(event, End):
            self.end_line()
            for call in event.tool_calls:
                self._screen.text(f"{call.name}({call.arguments})\n")

    def end_line(self) -> None:
        """What follows begins a line of its own."""
        if not self._ends_line and not self._screen.as_json:
            self._screen.text("\n")
        self._ends_line = True

    def footer(self, end: End, replica: str) -> None:
        """Tokens, time to the first, rate after it, and who served."""
        count = self.tokens if end.tokens_out is None else end.tokens_out
        parts = [f"{count} tokens"]
        if self._first is not None:
            parts.append(f"first {self._first - self._began:.2f} s")
            if count > 1 and self._last > self._first:
                parts.append(f"{(count - 1) / (self._last - self._first):.0f} tok/s")
        if end.finish_reason == "length":
            parts.append("cut at --max-tokens or the context")
        self._screen.note(f"[{' · '.join([*parts, f'replica {replica}', '1 attempt'])}]")


async def _stream(screen: Screen, host: AdapterHost, pool: str, task: TaskRequest) -> Exit:
    answer = _Answer(screen)
    try:
        async with host.submit(pool, task) as stream:
            answer.footer(await _print(stream, answer), stream.replica)
    except WorkerError as error:
        answer.end_line()
        if screen.as_json:
            answer.show(Error.of(error))
            return code_of(error)
        raise
    except asyncio.CancelledError:
        answer.end_line()
        if screen.as_json:
            answer.show(cancelled())
        screen.note(f"task {task.task_id[:8]} cancelled after {answer.tokens} tokens; the engine is told to stop")
        raise
    return Exit.OK


async def _print(stream: TokenStream, answer: _Answer) -> End:
    async for event in stream:
        answer.show(event)
        if isinstance(event, End):
            end = event
    return end
