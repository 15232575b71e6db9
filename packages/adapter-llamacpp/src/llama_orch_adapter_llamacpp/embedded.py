"""A real llama.cpp of one's own: `launch` starts it, with a small model where none is named."""

import importlib.util
import json
import re
import stat
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import msgspec
from llama_orch_adapter_api import LaunchError, LaunchOptions, Progress

from ._child import Child, child, shown
from ._model import SMOLLM2, small_model
from ._wait import in_thread, ticking

PERIOD = 1.0
"""Seconds between two reports while the engine loads."""

_SERVER = Path(__file__).with_name("_server.py")
_ERROR = re.compile(r"[\d.]+ E (?!common_fit_params)(.*)")
"""An error in llama.cpp's log. Fitting the model to the memory is a trial: what it logs says nothing of the cause."""


class State(msgspec.Struct):
    """What the engine's process says of itself, one a line."""

    state: Literal["loading", "ready", "failed"]
    url: str = ""
    message: str = ""


@asynccontextmanager
async def launch(options: LaunchOptions) -> AsyncIterator[str]:
    """Start llama.cpp on 127.0.0.1; the block gets its base URL when the model is loaded.

    Loading takes as long as it takes. The engine ends with the block, and with this process, however that ends.
    """
    await in_thread(_require_engine)
    if options.model is None:
        model, alias = await small_model(options.progress), SMOLLM2.alias
    else:
        model, alias = options.model, options.model.stem
        await in_thread(_require_gguf, model)
    async with child(*_command(options, model, alias)) as engine:
        began = time.monotonic()

        async def tick() -> None:
            options.progress(Progress(f"loading {shown(model.name)}, {time.monotonic() - began:.0f} s"))

        yield await ticking(_url(engine, model), tick, PERIOD)


def _require_engine() -> None:
    if importlib.util.find_spec("xllamacpp") is None:
        raise LaunchError(
            "the embedded engine is not installed; run: pip install 'llama-orch-adapter-llamacpp[embedded]'"
        )


def _require_gguf(model: Path) -> None:
    where, mend = f"model {shown(str(model))}", "give the path of a GGUF file with --model PATH"
    try:
        magic = _first_bytes(model)
    except OSError as error:
        raise LaunchError(f"{where} cannot be read: {error.strerror}; {mend}") from error
    if magic != b"GGUF":
        raise LaunchError(f"{where} is not a GGUF file; {mend}")


def _first_bytes(path: Path) -> bytes:
    """Four of them; none of a folder or a pipe, whose opening might wait for ever."""
    if not stat.S_ISREG(path.stat().st_mode):
        return b""
    with path.open("rb") as file:
        return file.read(4)


def _command(options: LaunchOptions, model: Path, alias: str) -> list[str]:
    """The server as a script: it imports nothing of ours, nor (-P) what lies in the current folder."""
    given = {
        "model": str(model),
        "alias": alias,
        "slots": options.slots,
        "context": options.context,
        "threads": options.threads,
        "port": options.port,
        "pooling": _pooling(options),
    }
    return [sys.executable, "-P", str(_SERVER), json.dumps(given)]


def _pooling(options: LaunchOptions) -> str | None:
    """How vectors are made of tokens, None where none are. The small model is not made for it: its have a mean."""
    if options.workload == "completion":
        return None
    if options.workload == "rerank":
        return "RANK"
    return "UNSPECIFIED" if options.model else "MEAN"


async def _url(engine: Child, model: Path) -> str:
    """The base URL, once the engine is ready. Raises `LaunchError` if it ends before."""
    last = State("loading")
    while line := await engine.line():
        last = _state(line) or last
        if last.state == "ready":
            return last.url
    code = await engine.ended()
    raise LaunchError(
        f"llama.cpp could not load {shown(model.name)}: {_cause(engine.last_words, last.message)} ({_ending(code)}); "
        "give another GGUF file with --model PATH, or ask for fewer slots or less context"
    )


def _state(line: bytes) -> State | None:
    """None for what is no state: whatever Python runs at its start may print as well."""
    try:
        return msgspec.json.decode(line, type=State)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None


def _cause(last_words: list[str], message: str) -> str:
    """The first error of its log, for the later ones only repeat that it failed; else what it said last."""
    errors = (found[1] for words in last_words if (found := _ERROR.match(words)))
    return next(errors, shown(message) or (last_words or ["it said nothing"])[-1])


def _ending(code: int) -> str:
    if code == -9:
        return "killed by signal 9, most often for want of memory"
    return f"killed by signal {-code}" if code < 0 else f"exit code {code}"
