"""The command `orchestratord`: the server in the foreground, until a signal."""

import asyncio
import logging
import shlex
import signal
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from typing import Any

import click
import msgspec
from llama_orch_adapter_host import AdapterHost, ConfigError
from llama_orch_adapter_host.cli.shared import (
    Exit,
    Interrupted,
    Screen,
    Source,
    Verbs,
    prepared,
    with_engines,
    with_json,
)
from llama_orch_adapter_host.observe import json_logging, text_logging

from ._app import create_app
from ._auth import check_exposed
from ._config import OpenAISettings, ServerConfig, read_config
from ._keys import JOBS
from ._server import Signals, listening, signals, until_urged

DEFAULT_CONFIG = Path("orchestratord.toml")
DEFAULT_POOLS = Path("pools.toml")

Made = AbstractAsyncContextManager[AdapterHost]


@click.group(cls=Verbs, epilog="Exit codes are listed in docs/exit-codes.md.")
@click.version_option(package_name="llama-orch-orchestratord")
def main() -> None:
    """Serve engines of language models over HTTP: tasks in, tokens out."""


@main.command()
@click.option(
    "--config", type=click.Path(path_type=Path), help="An orchestratord.toml; ./orchestratord.toml is read by itself."
)
@click.option("--pools", "file", type=click.Path(path_type=Path), help="A pools.toml, in place of the config's.")
@with_engines
@click.option(
    "--listen", metavar="HOST:PORT", help="Where to listen, not where the config says; port 0 is any free one."
)
@click.option("--openai", is_flag=True, help="Also serve OpenAI's API, whatever the config says.")
@with_json
@click.pass_obj
def serve(
    screen: Screen,
    /,
    config: Path | None,
    file: Path | None,
    listen: str | None,
    *,
    openai: bool,
    **given: Any,
) -> Exit:
    """Serve pools over HTTP until Ctrl-C or SIGTERM.

    It stops taking tasks then, lets those that run come to their end for as long as server.shutdown says, and a second
    Ctrl-C ends them at once.
    """
    settings = _settings(config, listen, openai=openai)
    check_exposed(settings)
    made, reloads = _host(settings, file, Source(**given), screen)
    logging.getLogger("asyncio").setLevel(logging.WARNING)  # what its debug mode tells at INFO is nobody's story
    with json_logging() if screen.as_json else text_logging():
        return asyncio.run(_serve(screen, settings, made, reloads=reloads))


def _settings(config: Path | None, listen: str | None, *, openai: bool) -> ServerConfig:
    """The config, with what the options say otherwise."""
    if config is None and DEFAULT_CONFIG.is_file():
        config = DEFAULT_CONFIG
    settings = ServerConfig() if config is None else read_config(config)
    if openai:
        settings = msgspec.structs.replace(settings, openai=OpenAISettings(enabled=True))
    if listen is not None:
        try:
            server = msgspec.structs.replace(settings.server, listen=listen)
        except ValueError as error:
            raise click.UsageError(f"--{error}") from None
        settings = msgspec.structs.replace(settings, server=server)
    return settings


def _host(settings: ServerConfig, file: Path | None, source: Source, screen: Screen) -> tuple[Made, bool]:
    """A host that is yet to be entered, and whether it has a file to reload its pools from."""
    if source.embedded or source.pools:
        if file is not None:
            raise click.UsageError("--pools names a file of pools; leave it out, or leave --embedded and --pool out")
        return prepared(source, screen), False
    file = file or settings.pools or (DEFAULT_POOLS if DEFAULT_POOLS.is_file() else None)
    if file is None:
        raise ConfigError(
            ["no pool is named; give --embedded, --pool NAME=ENGINE:URL or --pools FILE, or set pools in the config"]
        )
    return nullcontext(AdapterHost.from_config(file)), True


async def _serve(screen: Screen, settings: ServerConfig, made: Made, *, reloads: bool) -> Exit:
    with signals() as stop:
        try:
            async with made as host:
                await _listen(screen, settings, host, stop, reloads=reloads)
        except asyncio.CancelledError:
            if stop.first is None:
                raise
            raise Interrupted("cancelled before it listened") from None
    if stop.first is signal.SIGINT:
        raise Interrupted("stopped")
    screen.note("stopped")
    return Exit.OK


async def _listen(screen: Screen, settings: ServerConfig, host: AdapterHost, stop: Signals, *, reloads: bool) -> None:
    app = create_app(host, settings)
    async with listening(app, settings.server) as url:
        _reload(host, settings, reloads=reloads)
        _tell(screen, url, host.pools(), settings)
        await stop.asked()
        screen.note(f"stopping; tasks may run on for {settings.server.shutdown:g} s, Ctrl-C ends them at once")
        await until_urged(stop, app[JOBS].aclose(settings.server.shutdown))


def _reload(host: AdapterHost, settings: ServerConfig, *, reloads: bool) -> None:
    """Follow the file of pools. Raises `ConfigError` where that is asked for and cannot be."""
    if reloads and hasattr(signal, "SIGHUP"):
        host.reload_on_sighup()
    if settings.server.watch:
        try:
            host.reload_on_change()
        except RuntimeError as error:
            raise ConfigError([f"server.watch: {error}"]) from None


def _tell(screen: Screen, url: str, pools: tuple[str, ...], settings: ServerConfig) -> None:
    if screen.as_json:
        screen.document({"kind": "listening", "url": url, "pools": pools})
        return
    screen.piece(f"serving {', '.join(pools)} at {url}; stream an answer:\n\n")
    screen.piece(f"{example(url, pools[0], with_token=bool(settings.auth.tokens))}\n\n")
    if settings.openai.enabled:
        screen.piece(f"clients of OpenAI's API: base_url {url}/v1, model {pools[0]}\n\n")


def example(url: str, pool: str, *, with_token: bool) -> str:
    """A command that sends a task and streams its tokens; the token is the shell's $ORCH_TOKEN."""
    task = {"pool_id": pool, "messages": [{"role": "user", "content": "Why is the sky blue?"}], "max_tokens": 64}
    body = shlex.quote(msgspec.json.encode(task).decode())
    token = ' -H "Authorization: Bearer $ORCH_TOKEN"' if with_token else ""
    sent = f"curl -s{token} {url}/v1/tasks -H 'Content-Type: application/json' -d {body}"
    return f"curl -sN{token} {url}/v1/tasks/$({sent} | grep -oE '[0-9a-f-]{{36}}')/stream"
