"""The HTTP face of a host. It sees the boundary and the host alone, never an adapter."""

import re
import uuid
from collections.abc import AsyncIterator
from itertools import chain

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from llama_orch_adapter_api import AdapterError, Error, get_logger
from llama_orch_adapter_host import AdapterHost

from . import _control, _live, _looks, _metrics, _openai, _openai_errors, _openapi, _page, _pools, _tasks
from ._auth import KEYRING, Keyring, guard
from ._batches import Batches
from ._config import ServerConfig
from ._connection import SERVER
from ._jobs import Jobs
from ._keys import BATCHES, CONFIG, CORRELATION, HOST, JOBS, NARRATIONS
from ._limits import bounded
from ._metrics import SCRAPES, Scrapes
from ._narration import Narrations
from ._openapi import DOCUMENT, document
from ._pools import DRAINS, Drains
from ._refusal import Refusal, headers_of, own_fault
from ._routes import Route, add_routes, answer

logger = get_logger(__name__)

_CORRELATION_ID = "X-Correlation-Id"
_IDENTIFIER = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def create_app(host: AdapterHost, config: ServerConfig | None = None) -> web.Application:
    """An application that owns `host`: it is entered when the application starts and closed when it stops.

    Serve it with `handler_cancellation=True`, so that a client that leaves is noticed at once. Without tokens in
    `config` whoever reaches it may do everything.
    """
    config = config or ServerConfig()
    keyring = Keyring(config.auth.tokens)
    middlewares = (_correlate, _explain, guard(keyring), bounded)
    app = web.Application(middlewares=middlewares, client_max_size=config.server.max_body)
    app[HOST] = host
    app[CONFIG] = config
    app[KEYRING] = keyring
    app[BATCHES] = Batches()
    app[SCRAPES] = Scrapes(host)
    app.cleanup_ctx.append(_run)
    app.on_shutdown.append(_stop)
    if config.server.page:
        _live.add(app)
    app.on_response_prepare.append(_name)
    routes = routes_of(config)
    add_routes(app, routes)
    app[DOCUMENT] = msgspec.json.encode(document(routes))
    return app


def routes_of(config: ServerConfig) -> tuple[Route, ...]:
    """All that an application with this config serves."""
    rooms = (_tasks, _looks, _pools, _control, _metrics, _openapi)
    page = (_live, _page) if config.server.page else ()
    front = (_openai,) if config.openai.enabled else ()
    return tuple(chain.from_iterable(room.ROUTES for room in (*rooms, *page, *front)))


async def _run(app: web.Application) -> AsyncIterator[None]:
    async with app[HOST] as host:
        app[JOBS] = jobs = Jobs(host, app[CONFIG])
        app[NARRATIONS] = narrations = Narrations()
        app[DRAINS] = drains = Drains(host)
        app[SCRAPES].count(jobs)
        deafen = (host.observe(jobs.dispatch), host.observe(narrations), app[SCRAPES].deafen)
        yield
        await jobs.aclose(drain=0)
        await drains.ended()
        for each in deafen:
            each()


async def _stop(app: web.Application) -> None:
    """Let streams run on for a while before connections are closed."""
    await app[JOBS].aclose(app[CONFIG].server.shutdown)


@web.middleware
async def _correlate(request: web.Request, handler: Handler) -> web.StreamResponse:
    given = request.headers.get(_CORRELATION_ID, "")
    request[CORRELATION] = given if _IDENTIFIER.fullmatch(given) else str(uuid.uuid4())
    return await handler(request)


async def _name(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Server"] = SERVER
    if CORRELATION in request:
        response.headers[_CORRELATION_ID] = request[CORRELATION]


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every answer that is no success has an `Error` as its body, or what clients of OpenAI's API take for one."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return _refused(request, refusal)
    except web.HTTPException as error:
        if error.status < 400:
            raise
        return _refused(request, _unserved(request, error))
    except ConnectionError:
        raise  # the client is gone: nobody is to be told
    except Exception as error:
        logger.exception("%s %a failed", request.method, request.path[:80])
        return _refused(request, Refusal(500, own_fault(error)))


def _unserved(request: web.Request, error: web.HTTPException) -> Refusal:
    """What aiohttp did not find, or did not take."""
    detail = "too_large" if error.status == 413 else "not_found" if error.status == 404 else "bad_request"
    text = f"{request.method} {request.path[:80]!a}: {error.reason} · GET /openapi.json tells what is served"
    kept = {name: value for name, value in error.headers.items() if name == "Allow"}
    return Refusal(error.status, AdapterError(text, detail=detail), headers=kept)


def _refused(request: web.Request, refusal: Refusal) -> web.Response:
    if request.app[CONFIG].openai.enabled and request.path.startswith(_openai.PATHS):
        return _openai_errors.refused(refusal)
    return answer(refusal.status, Error.of(refusal.error), headers_of(refusal))
