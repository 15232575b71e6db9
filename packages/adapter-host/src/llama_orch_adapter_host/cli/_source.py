"""Where a command's pools come from: an engine of its own, `--pool`, or a config file."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from llama_orch_adapter_api import Launch, LaunchOptions

from .._config import ConfigError, HostConfig, PluginsConfig, PoolConfig, read_config
from .._host import AdapterHost
from .._plugins import NoAdapterError, Plugins, UnknownEngineError
from ._exit import Interrupted, NotUtf8Error
from ._screen import Loading, Screen

F = TypeVar("F", bound=Callable[..., Any])

Opened = AbstractAsyncContextManager[AdapterHost]

EMBEDDED = "embedded"
"""The name of the pool that `--embedded` makes."""

DEFAULT_CONFIG = Path("pools.toml")

_DEFAULTS = LaunchOptions()


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """What the options said. Raises `click.UsageError` for those that have no place beside each other."""

    embedded: bool = False
    engine: str | None = None
    model: Path | None = None
    slots: int | None = None
    context: int | None = None
    threads: int | None = None
    pools: tuple[str, ...] = ()
    api_key_env: str | None = None
    config: Path | None = None

    def __post_init__(self) -> None:
        for words in (*self.pools, *map(str, filter(None, (self.config, self.model)))):
            if not _is_text(words):
                raise NotUtf8Error(f"{words!a} is not UTF-8; save or type it as UTF-8")
        if self.embedded and (self.pools or self.config):
            other = "--pool" if self.pools else "--config"
            raise click.UsageError(f"--embedded makes a pool of its own; leave {other} out")
        if self.pools and self.config:
            raise click.UsageError("--pool and --config both name pools; give one of them")
        if self.api_key_env and not self.pools:
            raise click.UsageError("--api-key-env is for --pool alone; in a config, set api_key of the replica")
        for name in ("engine", "model", "slots", "context", "threads"):
            if getattr(self, name) is not None and not self.embedded:
                raise click.UsageError(f"--{name} is for --embedded alone; add that, or leave --{name} out")


def _is_text(words: str) -> bool:
    """Whether these words from the command line were UTF-8; Python keeps what was not as surrogates."""
    return not any("\ud800" <= c <= "\udfff" for c in words)


def _choose_form(context: click.Context, _: click.Parameter, as_json: bool) -> None:
    context.obj.as_json = as_json


with_json = click.option(
    "--json",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_choose_form,
    help="JSON on stdout, one document or one a line.",
)
"""Adds the option that sets the form of the screen."""

with_config = click.option(
    "--config", type=click.Path(path_type=Path), help="A pools.toml; ./pools.toml is read by itself."
)

_ENGINES = (
    click.option(
        "--embedded", is_flag=True, help="Start an engine of one's own, with a small model, and stop it after."
    ),
    click.option("--engine", metavar="NAME", help="Which installed adapter starts it, where several can."),
    click.option(
        "--model", type=click.Path(path_type=Path), help="A model file for --embedded; a small one if left out."
    ),
    click.option(
        "--slots", type=click.IntRange(min=1), help=f"Tasks at once for --embedded; {_DEFAULTS.slots} if left out."
    ),
    click.option(
        "--context",
        type=click.IntRange(min=1),
        metavar="TOKENS",
        help=f"Context of each slot for --embedded; {_DEFAULTS.context} if left out.",
    ),
    click.option("--threads", type=click.IntRange(min=1), help="CPU threads for --embedded."),
    click.option(
        "--pool", "pools", multiple=True, metavar="NAME=ENGINE:URL", help="A replica; the same NAME adds one."
    ),
    click.option("--api-key-env", metavar="VAR", help="The environment variable with the API key for --pool."),
)


def with_engines(command: F) -> F:
    """Add the options that name engines: `--embedded` with what belongs to it, and `--pool`."""
    for option in reversed(_ENGINES):
        command = option(command)
    return command


def with_source(command: F) -> F:
    """Add these, `--config` and `--json`."""
    return with_engines(with_config(with_json(command)))


@asynccontextmanager
async def _entered(prepared: Opened) -> AsyncIterator[AdapterHost]:
    """Its host, with the pools bound."""
    async with prepared as host, host:
        yield host


def opened(source: Source, screen: Screen) -> Opened:
    """What `prepared` gives, entered: the pools are bound."""
    return _entered(prepared(source, screen))


def prepared(source: Source, screen: Screen) -> Opened:
    """A host that binds the pools when it is entered; an engine that was started for it is stopped after the block.

    A config is read and the plugins it allows are imported at once, so call this before there is an event loop. Raises
    `ConfigError`.
    """
    if source.embedded:
        return _embedded(source, screen, Plugins.installed())
    config = HostConfig(_pools(source)) if source.pools else _file(source.config)
    return nullcontext(AdapterHost(config, Plugins.installed(allow=config.plugins.allow, block=config.plugins.block)))


@asynccontextmanager
async def _embedded(source: Source, screen: Screen, plugins: Plugins) -> AsyncIterator[AdapterHost]:
    engine, launch = _launcher(plugins, source.engine)
    async with AsyncExitStack() as stack:
        url = await _launched(source, screen, launch, stack)
        config = HostConfig({EMBEDDED: PoolConfig(engine=engine, replicas=({"url": url},))})
        yield AdapterHost(config, plugins)


async def _launched(source: Source, screen: Screen, launch: Launch, stack: AsyncExitStack) -> str:
    """The URL of a new engine. Raises `Interrupted` with the stage it was in."""
    began = time.monotonic()
    with Loading(screen) as loading:
        options = LaunchOptions(
            model=source.model,
            slots=source.slots or _DEFAULTS.slots,
            context=source.context or _DEFAULTS.context,
            threads=source.threads,
            progress=loading.show,
        )
        try:
            url = await stack.enter_async_context(launch(options))
        except asyncio.CancelledError:
            raise Interrupted(f"cancelled while {loading.stage or 'starting the engine'}") from None
    screen.note(f"ready after {time.monotonic() - began:.1f} s")
    return url


def _launcher(plugins: Plugins, engine: str | None) -> tuple[str, Launch]:
    """The engine to start and how: the one named, or the only one that can be."""
    specs = plugins.engines().values() if engine is None else [plugins.spec(engine)]
    able = [(spec.engine, spec.launch) for spec in specs if spec.launch is not None]
    if len(able) == 1:
        return able[0]
    if able:
        names = ", ".join(name for name, _ in able)
        raise click.UsageError(f"several adapters can start an engine; choose one with --engine: {names}")
    if engine is not None:
        raise UnknownEngineError([f"the adapter for {engine!r} cannot start an engine; give --pool with a URL"])
    raise NoAdapterError(
        ["no installed adapter can start an engine; run: pip install 'llama-orch-adapter-llamacpp[embedded]'"]
    )


def _pools(source: Source) -> dict[str, PoolConfig]:
    pools: dict[str, PoolConfig] = {}
    for given in source.pools:
        name, equals, rest = given.partition("=")
        engine, colon, url = rest.partition(":")
        if not (name and equals and engine and colon and url):
            raise click.UsageError(
                f"--pool {given!r} is not NAME=ENGINE:URL, such as chat=llamacpp:http://127.0.0.1:8080"
            )
        replica: dict[str, object] = {"url": url}
        if source.api_key_env:
            replica["api_key"] = {"env": source.api_key_env}
        others = pools[name].replicas if name in pools else ()
        if name in pools and pools[name].engine != engine:
            raise click.UsageError(
                f"pool {name!r} has two engines, {pools[name].engine} and {engine}; give them two names"
            )
        pools[name] = PoolConfig(engine=engine, replicas=(*others, replica))
    return pools


def _file(path: Path | None) -> HostConfig:
    if path is None and not DEFAULT_CONFIG.is_file():
        raise ConfigError(
            ["no pool is named; give --embedded, --pool NAME=ENGINE:URL or --config FILE (./pools.toml is not there)"]
        )
    return read_config(path or DEFAULT_CONFIG)


def listed(path: Path | None) -> PluginsConfig:
    """Which plugins the config lets in; all, where there is none. Raises `ConfigError` where it cannot be read."""
    return PluginsConfig() if path is None and not DEFAULT_CONFIG.is_file() else _file(path).plugins


def only_pool(host: AdapterHost, named: str | None) -> str:
    """The pool a command is meant for: the one named, or the only one."""
    pools = host.pools()
    if named is not None:
        return named
    if len(pools) == 1:
        return pools[0]
    raise click.UsageError(f"there are several pools; name one: {', '.join(pools)}")
