"""Pools over HTTP: how they are, emptying them, filling them again, and reading their file anew."""

import asyncio
from collections.abc import Mapping
from typing import Annotated, Literal
from urllib.parse import quote

import msgspec
from aiohttp import web
from llama_orch_adapter_api import AdapterError, Error, PoolUnavailable, WorkerHealth, get_logger
from llama_orch_adapter_host import AdapterHost, ReloadError, ReloadReport
from msgspec import UNSET, UnsetType

from ._keys import HOST
from ._refusal import Refusal, invalid, unavailable
from ._routes import Flag, Reply, Route, answer, read_query

logger = get_logger(__name__)

Healths = Mapping[str, WorkerHealth]
"""By replica."""


class DrainQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be drained, and whether to wait."""

    replica_id: Annotated[
        Annotated[str, msgspec.Meta(min_length=1)] | UnsetType,
        msgspec.Meta(description="the replica; all of the pool where it is left out"),
    ] = UNSET
    wait: Annotated[
        Flag | UnsetType, msgspec.Meta(description="true or false: answer when the last stream has ended")
    ] = UNSET


class Draining(msgspec.Struct, frozen=True, kw_only=True):
    """It takes no tasks from now on, and its streams run on. `replica_id` is None for all of the pool."""

    pool_id: str
    replica_id: str | None
    status: Literal["draining"] = "draining"


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """No stream runs there any more; `cut` are those that were ended by the pool's limit, `timeouts.drain`."""

    pool_id: str
    replica_id: str | None
    cut: int
    status: Literal["drained"] = "drained"


class ReloadQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whether it is a drain that is to be undone, and of what."""

    undrain: Annotated[
        Flag | UnsetType,
        msgspec.Meta(description="true or false: undo a drain, and do not read the file of pools"),
    ] = UNSET
    replica_id: Annotated[
        Annotated[str, msgspec.Meta(min_length=1)] | UnsetType,
        msgspec.Meta(description="with undrain=true the replica; all of the pool where it is left out"),
    ] = UNSET


class Reloaded(ReloadReport, frozen=True, kw_only=True):
    """A `ReloadReport`; `undo` are the requests that let tasks in again to each of `drained`, in its order."""

    undo: tuple[str, ...] = ()


class ReloadRefused(Error, frozen=True, tag="error"):
    """An `Error` with each problem by itself; nothing was changed."""

    problems: tuple[str, ...] = ()


class Drains:
    """Those that go on while nobody waits for them."""

    def __init__(self, host: AdapterHost) -> None:
        self._host = host
        self._going: set[asyncio.Task[int]] = set()

    async def begin(self, pool_id: str, replica_id: str | None) -> asyncio.Task[int]:
        """Let no more tasks in; the task ends with the last stream. Raises `PoolUnavailable`."""
        draining = asyncio.get_running_loop().create_task(self._host.drain(pool_id, replica_id))
        self._going.add(draining)
        draining.add_done_callback(self._over)
        await asyncio.sleep(0)  # it has begun, or was refused
        if draining.done():
            draining.result()
        return draining

    async def ended(self) -> None:
        """All are over; to be awaited when the host is."""
        await asyncio.gather(*self._going, return_exceptions=True)

    def _over(self, draining: asyncio.Task[int]) -> None:
        self._going.discard(draining)
        error = None if draining.cancelled() else draining.exception()
        if error is not None and not isinstance(error, PoolUnavailable):
            logger.error("a drain failed; report it", exc_info=error)


DRAINS = web.AppKey("drains", Drains)


async def _health(request: web.Request) -> web.Response:
    try:
        replicas = await request.app[HOST].health(request.match_info["pool_id"])
    except PoolUnavailable as error:
        raise _refused(error) from None
    return answer(200 if any(health.ready for health in replicas.values()) else 503, replicas)


async def _drain(request: web.Request) -> web.Response:
    pool_id, query = request.match_info["pool_id"], read_query(request, DrainQuery)
    replica_id = None if query.replica_id is UNSET else query.replica_id
    try:
        draining = await request.app[DRAINS].begin(pool_id, replica_id)
    except PoolUnavailable as error:
        raise _refused(error) from None
    if query.wait != "true":
        return answer(202, Draining(pool_id=pool_id, replica_id=replica_id))
    cut = await asyncio.shield(draining)  # which goes on when its client leaves
    return answer(200, Drained(pool_id=pool_id, replica_id=replica_id, cut=cut))


async def _reload(request: web.Request) -> web.Response:
    host, pool_id, query = request.app[HOST], request.match_info["pool_id"], read_query(request, ReloadQuery)
    undrain = query.undrain == "true"
    replica_id = None if query.replica_id is UNSET else query.replica_id
    if replica_id is not None and not undrain:
        raise invalid("replica_id says whose drain is to be undone; give undrain=true with it, or leave it out")
    refusal = host.refusal(pool_id)
    if refusal is not None and refusal.detail == "unknown_pool":
        raise _refused(refusal)
    try:
        report = await (host.undrain(pool_id, replica_id) if undrain else host.reload())
    except PoolUnavailable as error:
        raise _refused(error) from None
    except ReloadError as error:
        told = Error.of(AdapterError(f"nothing was changed: {error}", detail="bad_request"))
        return answer(409, ReloadRefused(**msgspec.structs.asdict(told), problems=tuple(error.problems)))
    undo = tuple(_undrain(each.pool_id, each.replica_id) for each in report.drained)
    return answer(200, Reloaded(**msgspec.structs.asdict(report), undo=undo))


def _undrain(pool_id: str, replica_id: str) -> str:
    return f"POST /v1/pools/{quote(pool_id, safe='')}/reload?undrain=true&replica_id={quote(replica_id, safe='')}"


def _refused(error: PoolUnavailable) -> Refusal:
    return unavailable(error, known=error.detail != "unknown_pool")


_UNKNOWN = "No pool or replica has this id."
_STOPPING = "The process is stopping."

ROUTES = (
    Route(
        name="poolHealth",
        method="GET",
        path="/v1/pools/{pool_id}/health",
        handler=_health,
        summary="How each replica of a pool is. Their engines are asked now.",
        replies={200: Reply("One at least is ready.", (Healths,)), 503: Reply("None is ready.", (Healths, Error))},
        refusals={404: "No pool has this id."},
        head=True,
    ),
    Route(
        name="drainPool",
        method="POST",
        path="/v1/pools/{pool_id}/drain",
        handler=_drain,
        summary="Send no more tasks to a replica, or to a whole pool; streams run on for its timeouts.drain.",
        query=DrainQuery,
        replies={
            202: Reply("It began, and goes on whoever waits.", (Draining,)),
            200: Reply("With wait=true: the last stream has ended.", (Drained,)),
        },
        refusals={400: "The query cannot be read.", 404: _UNKNOWN, 503: _STOPPING},
    ),
    Route(
        name="reloadPools",
        method="POST",
        path="/v1/pools/{pool_id}/reload",
        handler=_reload,
        summary=(
            "Read the file of pools again and put it in force, for all pools, all of it or nothing; what was drained "
            "stays so. With undrain=true read no file, but undo a drain: each replica that is ready comes back. A "
            "client that leaves ends either."
        ),
        query=ReloadQuery,
        replies={
            200: Reply(
                "What was put in force, and what stays drained; with undrain=true `problems` say why.", (Reloaded,)
            ),
            409: Reply("Nothing was changed.", (ReloadRefused,)),
        },
        refusals={400: "The query cannot be read.", 404: _UNKNOWN, 503: _STOPPING},
    ),
)
