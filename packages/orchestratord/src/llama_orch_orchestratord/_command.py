"""What the options of the command come to."""

import functools
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import msgspec
from llama_orch_adapter_host import AdapterHost, ConfigError
from llama_orch_adapter_host.cli.shared import Exit, Screen, Source, Verbs, prepared, with_engines, with_json

from ._config import OpenAISettings, ServerConfig, read_config
from .cli import held

if TYPE_CHECKING:
    from ._serve import Made

DEFAULT_CONFIG = Path("orchestratord.toml")
DEFAULT_POOLS = Path("pools.toml")


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
    with held():
        from ._auth import check_exposed  # noqa: PLC0415  # a server takes longer to import than help to be shown
        from ._serve import run  # noqa: PLC0415  # as above

    if config is None and DEFAULT_CONFIG.is_file():
        config = DEFAULT_CONFIG
    read = functools.partial(_settings, config, listen, openai=openai)
    settings = read()
    check_exposed(settings)
    made, reloads = _host(settings, file, Source(**given), screen)
    return run(screen, settings, made, read, reloads=reloads)


def _settings(config: Path | None, listen: str | None, *, openai: bool) -> ServerConfig:
    """The config, with what the options say otherwise."""
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


def _host(settings: ServerConfig, file: Path | None, source: Source, screen: Screen) -> "tuple[Made, bool]":
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
