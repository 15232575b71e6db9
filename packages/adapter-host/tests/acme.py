"""An adapter that the command finds installed, and the command beside it."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from click.testing import CliRunner, Result
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterContext,
    AdapterSpec,
    End,
    LaunchOptions,
    PoolUnavailable,
    Progress,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerHealth,
    WorkerProps,
    hookimpl,
)
from llama_orch_adapter_host.cli._app import app

from .adapters import PROPS, STARTED, Config  # type: ignore[import-not-found]  # test folders are no packages

ANSWERS: dict[str, tuple[TokenEvent, ...]] = {
    "http://thinks": (
        STARTED,
        Token("let me\x1b[2J see", 0, "reasoning"),
        Token("it is", 1),
        Token(" so", 2),
        Token("or not", 3, "reasoning"),
        Token("so", 4),
        End(3, 5, "stop"),
    ),
    "http://accents": (STARTED, Token("caf\u00e9", 0), End(3, 1, "stop")),
}
"""What the engine at a URL answers; elsewhere, it never comes to its first token."""


class Acme(WorkerAdapter):
    """An adapter for engines that are no more than their URL."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def health(self) -> WorkerHealth:
        if self.url == "http://interrupts":
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()
        state = {"http://down": "down", "http://loads": "loading"}.get(self.url, "ready")
        return WorkerHealth(live=True, ready=state == "ready", state=state, detail=f"bad [/think] token at {self.url}")

    async def props(self) -> WorkerProps:
        if self.url == "http://down":
            raise PoolUnavailable("bad [/think] token", detail="unreachable")
        return PROPS

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        for event in ANSWERS.get(self.url, ()):
            yield event
        if self.url not in ANSWERS:
            signal.raise_signal(signal.SIGINT)
            await asyncio.Event().wait()

    async def engine_version(self) -> str:
        return "1"


@asynccontextmanager
async def launch(options: LaunchOptions) -> AsyncIterator[str]:
    """An engine whose loading is interrupted, unless it has a single slot; then its log is what it was given."""
    if options.slots > 1:
        options.progress(Progress("loading acme.gguf, 3 s"))
        signal.raise_signal(signal.SIGINT)
        await asyncio.Event().wait()
    options.progress(Progress(f"{options.slots} slot of {options.context} tokens"))
    yield "http://accents"


@hookimpl
def llama_orch_register_adapters(register: Callable[[AdapterSpec], None]) -> None:
    def make(context: AdapterContext) -> Acme:
        return Acme(context.config.url)

    register(AdapterSpec("acme", API_VERSION, Config, make, launch))


def lay_down(folder: Path, module: str) -> None:
    """A distribution, laid down as pip would, whose entry point leads to a module of this name."""
    info = folder / f"{module}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[llama_orch.adapters]\n{module} = {module}\n")


def command(*arguments: str, charset: str = "utf-8") -> Result:
    """What the command ends in."""
    return CliRunner(charset=charset).invoke(app, arguments)
