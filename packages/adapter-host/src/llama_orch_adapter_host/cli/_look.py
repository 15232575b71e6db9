"""`adapter-host plugins`, `health` and `props`: looking without touching."""

from typing import TYPE_CHECKING, Any

import click
from llama_orch_adapter_api import Error, WorkerError, WorkerHealth, WorkerProps

from .._plugins import Plugins
from ._exit import Exit, code_of
from ._run import run
from ._screen import Screen
from ._source import Source, opened, with_source

if TYPE_CHECKING:
    from collections.abc import Mapping

_WORST = {"ready": Exit.OK, "busy": Exit.OK, "loading": Exit.LOADING, "down": Exit.UNREACHABLE}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def plugins(as_json: bool) -> None:
    """List the adapters that are installed, and what to do about those that are not usable."""
    screen = Screen(as_json=as_json)
    listing = Plugins.installed().listing()
    if as_json:
        screen.document(listing)
    elif listing:
        screen.table(
            ("NAME", "VERSION", "API", "STATE", "FROM", "MEND"),
            [(p.name, p.version, p.api or "", p.state, p.origin, p.mend) for p in listing],
        )
    else:
        screen.trouble(["no adapter is installed; install one, e.g. pip install llama-orch-adapter-llamacpp"], 3)
    raise SystemExit(Exit.OK if listing else Exit.NO_ADAPTER)


@click.command()
@click.argument("pool", required=False)
@with_source
def health(pool: str | None, as_json: bool, **given: Any) -> None:
    """Tell how each replica is: ready, busy, loading or down.

    The exit code is 0 where all are ready or busy, 10 where one is loading, 9 where one is down.
    """
    screen = Screen(as_json=as_json)
    run(_health(screen, Source(**given), Plugins.installed(), pool), screen)


@click.command()
@click.argument("pool", required=False)
@with_source
def props(pool: str | None, as_json: bool, **given: Any) -> None:
    """Tell what each replica is and can do: engine, version, model, context, slots."""
    screen = Screen(as_json=as_json)
    run(_props(screen, Source(**given), Plugins.installed(), pool), screen)


async def _health(screen: Screen, source: Source, plugins: Plugins, pool: str | None) -> Exit:
    async with opened(source, screen, plugins) as host:
        found: dict[str, Mapping[str, WorkerHealth]] = {
            name: await host.health(name) for name in ([pool] if pool else host.pools())
        }
    if screen.as_json:
        screen.document(found)
    else:
        screen.table(
            ("REPLICA", "STATE", "DETAIL"),
            [(f"{name}/{r}", h.state, h.detail) for name, replicas in found.items() for r, h in replicas.items()],
        )
    return max((_WORST[h.state] for replicas in found.values() for h in replicas.values()), default=Exit.OK)


async def _props(screen: Screen, source: Source, plugins: Plugins, pool: str | None) -> Exit:
    async with opened(source, screen, plugins) as host:
        found: dict[str, Mapping[str, WorkerProps | WorkerError]] = {
            name: await host.props(name) for name in ([pool] if pool else host.pools())
        }
    if screen.as_json:
        screen.document({name: {r: _wire(p) for r, p in replicas.items()} for name, replicas in found.items()})
    else:
        rows = [_row(f"{name}/{r}", p) for name, replicas in found.items() for r, p in replicas.items()]
        screen.table(("REPLICA", "ENGINE", "VERSION", "MODEL", "CONTEXT", "SLOTS FREE", "FEATURES"), rows)
    errors = [p for replicas in found.values() for p in replicas.values() if isinstance(p, WorkerError)]
    return code_of(errors[0]) if errors else Exit.OK


def _wire(props: WorkerProps | WorkerError) -> WorkerProps | Error:
    return Error.of(props) if isinstance(props, WorkerError) else props


def _row(replica: str, props: WorkerProps | WorkerError) -> tuple[object, ...]:
    if isinstance(props, WorkerError):
        return replica, props.engine or "", "", props.message, "", "", ""
    known = props.capabilities
    free = "?" if props.slots_free is None else props.slots_free
    slots = "" if props.slots_total is None else f"{free} of {props.slots_total}"
    context = known.ctx_max or "?"
    return replica, known.engine, known.engine_version, known.model_id, context, slots, " ".join(known.features)
