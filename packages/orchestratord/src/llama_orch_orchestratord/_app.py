"""The HTTP face of a host: today how its pools are. It sees the boundary and the host alone, never an adapter."""

from collections.abc import AsyncIterator

import msgspec
from aiohttp import web
from llama_orch_adapter_api import Error, PoolUnavailable
from llama_orch_adapter_host import AdapterHost

HOST = web.AppKey("host", AdapterHost)


def create_app(host: AdapterHost) -> web.Application:
    """An application that owns `host`: it is entered when the application starts and closed when it stops.

    `GET /healthz` answers while the process lives; `GET /v1/pools/{id}/health` answers 200 with each replica's health
    where at least one is ready, else 503, and 404 with the wire form of the error for a pool that is not bound.
    """
    app = web.Application()
    app[HOST] = host
    app.cleanup_ctx.append(_run_host)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/v1/pools/{pool_id}/health", _pool_health)
    return app


async def _run_host(app: web.Application) -> AsyncIterator[None]:
    async with app[HOST]:
        yield


async def _healthz(_: web.Request) -> web.Response:
    return _json(200, {"status": "ok"})


async def _pool_health(request: web.Request) -> web.Response:
    try:
        replicas = await request.app[HOST].health(request.match_info["pool_id"])
    except PoolUnavailable as error:
        return _json(404, Error.of(error))
    return _json(200 if any(health.ready for health in replicas.values()) else 503, replicas)


def _json(status: int, body: object) -> web.Response:
    return web.Response(status=status, body=msgspec.json.encode(body), content_type="application/json")
