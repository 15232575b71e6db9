"""The control plane over HTTP: how the process and its pools are."""

from collections.abc import Mapping
from typing import Literal

import msgspec
from aiohttp import web
from llama_orch_adapter_api import PoolUnavailable, WorkerHealth

from ._keys import HOST
from ._refusal import Refusal
from ._routes import Reply, Route, answer

Healths = Mapping[str, WorkerHealth]
"""By replica."""


class Life(msgspec.Struct, frozen=True):
    """The process lives."""

    status: Literal["ok"] = "ok"


async def _healthz(_: web.Request) -> web.Response:
    return answer(200, Life())


async def _pool_health(request: web.Request) -> web.Response:
    try:
        replicas = await request.app[HOST].health(request.match_info["pool_id"])
    except PoolUnavailable as error:
        raise Refusal(404, error) from None
    return answer(200 if any(health.ready for health in replicas.values()) else 503, replicas)


ROUTES = (
    Route(
        name="healthz",
        method="GET",
        path="/healthz",
        handler=_healthz,
        summary="Whether the process lives, whatever its pools are.",
        replies={200: Reply("It does.", Life)},
        head=True,
    ),
    Route(
        name="poolHealth",
        method="GET",
        path="/v1/pools/{pool_id}/health",
        handler=_pool_health,
        summary="How each replica of a pool is. Their engines are asked now.",
        replies={
            200: Reply("One at least is ready.", Healths),
            503: Reply("None is ready.", Healths),
        },
        refusals={404: "No pool has this id."},
        head=True,
    ),
)
