"""Signs of life, for those who run the process. They tell nothing of pools, tasks or engines."""

from typing import Literal

import msgspec
from aiohttp import web
from llama_orch_adapter_api import PoolUnavailable
from llama_orch_adapter_host import AdapterHost

from ._keys import HOST, JOBS
from ._refusal import Refusal
from ._routes import Reply, Route, answer

_BUSY = frozenset(("at_capacity", "overloaded"))
"""Details of a refusal by replicas that are ready, but have enough to do."""

_WELL = frozenset(("ready", "busy"))
"""What a replica's health says of one that serves. Before its first answer it is sent tasks, too, but is not ready."""


class Life(msgspec.Struct, frozen=True):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Readiness(msgspec.Struct, frozen=True):
    """A task that is sent now would run, or wait for a slot."""

    status: Literal["ready"] = "ready"


async def _healthz(_: web.Request) -> web.Response:
    return answer(200, Life())


async def _readyz(request: web.Request) -> web.Response:
    why = unready(request.app[HOST], stopping=request.app[JOBS].stopping)
    if why is not None:
        raise Refusal(503, why)
    return answer(200, Readiness())


def unready(host: AdapterHost, *, stopping: bool) -> PoolUnavailable | None:
    """Why no task should be sent here; None where a pool has a replica that is ready. Asks no engine."""
    if stopping:
        return PoolUnavailable("this orchestrator is stopping · use another one", detail="draining")
    refusals = {pool_id: host.refusal(pool_id) for pool_id in host.pools()}
    take = {pool_id for pool_id, refusal in refusals.items() if refusal is None or refusal.detail in _BUSY}
    some = [each for each in host.status() if each.pool_id in take and each.stage == "bound" and each.breaker != "open"]
    if any(each.health in _WELL for each in some):
        return None
    if any(refusal is not None and refusal.detail == "loading" for refusal in refusals.values()):
        return PoolUnavailable("no replica is ready: a model is being loaded · wait", detail="loading")
    if take:
        return PoolUnavailable("no replica is ready: none has told yet how it is · wait", detail="loading")
    told = "no replica is ready" if refusals else "no pool is bound"
    return PoolUnavailable(f"{told} · GET /v1/capabilities and each pool's health tell why", detail="unreachable")


ROUTES = (
    Route(
        name="healthz",
        method="GET",
        path="/healthz",
        handler=_healthz,
        summary="Whether the process lives, whatever its pools are.",
        replies={200: Reply("It does.", (Life,))},
        head=True,
    ),
    Route(
        name="readyz",
        method="GET",
        path="/readyz",
        handler=_readyz,
        summary="Whether tasks should be sent here: a replica of any pool is ready, and the process is not stopping.",
        replies={200: Reply("They should.", (Readiness,))},
        refusals={503: "They should not; the message says why."},
        head=True,
    ),
)
