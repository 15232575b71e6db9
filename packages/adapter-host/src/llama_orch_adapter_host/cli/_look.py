"""`adapter-host plugins`, `health` and `props`: looking without touching."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec
from llama_orch_adapter_api import WorkerError, WorkerProps

from .._host import AdapterHost
from .._plugins import NoAdapterError, Plugins
from ._exit import Exit, Failure
from ._screen import Screen
from ._source import Opened, Source, listed, opened, with_config, with_json, with_source

T = TypeVar("T")

_CODES = {"down": Exit.UNREACHABLE, "loading": Exit.LOADING, "busy": Exit.OK, "ready": Exit.OK}
"""What each state means for the command, the worst first."""


@click.command()
@with_config
@click.option("--no-import", is_flag=True, help="Look at the packages' metadata alone: no code of theirs is run.")
@with_json
@click.pass_obj
def plugins(screen: Screen, /, config: Path | None, *, no_import: bool) -> Exit:
    """List the plugins that are installed, and what to do about those that are not usable."""
    lists = listed(config)
    found = Plugins(allow=lists.allow, block=lists.block)
    if not no_import:
        found.load()
    listing = found.scan() if no_import else found.listing()
    if not listing:
        raise NoAdapterError(["no adapter is installed; install one, e.g. pip install llama-orch-adapter-llamacpp"])
    if screen.as_json:
        screen.document(listing)
    else:
        screen.table(
            ("NAME", "VERSION", "API", "STATE", "FROM", "MEND"),
            [(p.name, p.version, p.api or "", p.state, p.origin, p.mend) for p in listing],
        )
    return Exit.OK


@click.command()
@click.argument("pool", required=False)
@with_source
@click.pass_obj
def health(screen: Screen, /, pool: str | None, **given: Any) -> Exit:
    """Tell how each replica is: ready, busy, loading or down.

    The exit code is 9 where one is down, else 10 where one is loading, else 0.
    """
    found = asyncio.run(_ask(opened(Source(**given), screen), pool, AdapterHost.health))
    replicas = _by_replica(found)
    if screen.as_json:
        screen.document(found)
    else:
        screen.table(("REPLICA", "STATE", "DETAIL"), [(name, h.state, h.detail) for name, h in replicas.items()])
    states = {health.state for health in replicas.values()}
    return next((code for state, code in _CODES.items() if state in states), Exit.OK)


@click.command()
@click.argument("pool", required=False)
@with_source
@click.pass_obj
def props(screen: Screen, /, pool: str | None, **given: Any) -> Exit:
    """Tell what each replica is and can do: engine, version, model, context, slots."""
    found = asyncio.run(_ask(opened(Source(**given), screen), pool, AdapterHost.props))
    replicas = _by_replica(found)
    failures = {name: Failure.of(error) for name, error in replicas.items() if isinstance(error, WorkerError)}
    if screen.as_json:
        screen.document(
            {name: {r: failures.get(f"{name}/{r}", p) for r, p in of.items()} for name, of in found.items()}
        )
    else:
        _show_props(screen, {name: props for name, props in replicas.items() if isinstance(props, WorkerProps)})
        for name, failure in failures.items():
            screen.trouble(msgspec.structs.replace(failure, message=f"{name}: {failure.message}"))
    return next((Exit(failure.exit_code) for failure in failures.values()), Exit.OK)


async def _ask(
    opened: Opened, pool: str | None, ask: Callable[[AdapterHost, str], Awaitable[Mapping[str, T]]]
) -> dict[str, Mapping[str, T]]:
    """What every replica answers, by pool."""
    async with opened as host:
        return {name: await ask(host, name) for name in ([pool] if pool else host.pools())}


def _by_replica(found: Mapping[str, Mapping[str, T]]) -> dict[str, T]:
    """By `pool_id/replica_id`."""
    return {f"{pool}/{replica}": it for pool, replicas in found.items() for replica, it in replicas.items()}


def _show_props(screen: Screen, known: Mapping[str, WorkerProps]) -> None:
    if known:
        columns = ("REPLICA", "ENGINE", "VERSION", "MODEL", "CONTEXT", "SLOTS FREE", "FEATURES")
        screen.table(columns, [(replica, *_cells(props)) for replica, props in known.items()])


def _cells(props: WorkerProps) -> tuple[object, ...]:
    known = props.capabilities
    free = "?" if props.slots_free is None else props.slots_free
    slots = "" if props.slots_total is None else f"{free} of {props.slots_total}"
    return known.engine, known.engine_version, known.model_id, known.ctx_max or "?", slots, " ".join(known.features)
