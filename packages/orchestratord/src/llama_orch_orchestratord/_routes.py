"""What a route is: how it is reached, what it takes, what it answers. Router and document are made of the same table.

A room of handlers has its routes in a tuple `ROUTES`; `_app.routes_of` puts those of all rooms together.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

import msgspec
from aiohttp import web
from aiohttp.typedefs import Handler
from aiohttp.web_urldispatcher import MatchInfoError
from llama_orch_adapter_api import one_line

from ._refusal import invalid

S = TypeVar("S", bound=msgspec.Struct)

JSON = "application/json"
EVENTS = "text/event-stream"

Flag = Literal["true", "false"]
"""A yes or no in a query."""

_LONGEST = 200
"""Characters of a refusal: what the sender wrote stands in it."""


class Reply(msgspec.Struct, frozen=True):
    """What a status means. `bodies` are the types of which one is written as `media`; none where there is no body.

    `headers` are the names of those that it always has, besides what every answer has. `event` is the type of a
    server-sent event's fields, where the same request may be answered by a stream, too.
    """

    description: str
    bodies: tuple[Any, ...] = ()
    media: tuple[str, ...] = (JSON,)
    headers: tuple[str, ...] = ()
    event: Any = None


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. Who may use it, `_auth` says, by both.

    `query` is a Struct of texts that `read_query` reads; its fields carry their description. `body` is the type that
    the request's JSON is read as, and `example` one that can be sent. `refusals` are the statuses from 400 up that are
    this route's own, each with its reason; their body is an `Error` unless `replies` say otherwise. `takes` are the
    names of request headers that it heeds, besides those that all do. `head`: whether HEAD is answered, too. `follows`
    are the names of routes that take the `task_id` of the answer's body.
    """

    name: str
    method: Literal["GET", "POST"]
    path: str
    handler: Handler
    summary: str
    replies: Mapping[int, Reply]
    refusals: Mapping[int, str] = {}
    query: type[msgspec.Struct] | None = None
    body: type[msgspec.Struct] | None = None
    example: Mapping[str, object] | None = None
    takes: tuple[str, ...] = ()
    head: bool = False
    follows: tuple[str, ...] = ()


def add_routes(app: web.Application, routes: Iterable[Route]) -> None:
    """Serve them."""
    for route in routes:
        if route.method == "GET":
            app.router.add_get(route.path, route.handler, allow_head=route.head, expect_handler=_expect)
        else:
            app.router.add_route(route.method, route.path, route.handler, expect_handler=_expect)
    app.router.register_resource(_Rest(app.router))


class _Rest(web.PlainResource):
    """What no other resource serves: 404 or 405, and `Expect` as everywhere.

    aiohttp's own answers `Expect` before anybody is asked for a token, and so would tell what is served and what not.
    """

    def __init__(self, router: web.UrlDispatcher) -> None:
        super().__init__("/{rest}")  # it is come to last: all paths begin with what stands before the brace
        self._router = router

    async def resolve(self, request: web.Request) -> tuple[web.UrlMappingMatchInfo, set[str]]:
        """Whatever it is."""
        others = [resource for resource in self._router.resources() if resource is not self]
        allowed = {method for each in others for method in (await each.resolve(request))[1]}
        error = web.HTTPMethodNotAllowed(request.method, allowed) if allowed else web.HTTPNotFound()
        return _Unserved(error), set()


class _Unserved(MatchInfoError):
    @property
    def expect_handler(self) -> Callable[[web.Request], Awaitable[web.StreamResponse | None]]:
        return _expect


async def _expect(_: web.Request) -> None:
    """Do not ask for a body before it is known who sends it; `_limits` does. What else is expected is passed over."""


def answer(status: int, body: object, headers: Mapping[str, str] | None = None) -> web.Response:
    """A body as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(body), content_type=JSON, headers=headers)


def read_query(request: web.Request, kind: type[S]) -> S:
    """The query as a Struct: what it does not know, and what stands there twice, is refused. Raises `Refusal`."""
    query = request.query
    given = dict(query)
    if len(given) != len(query):
        raise invalid("the query has a name twice; give each once")
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(f"the query cannot be read: {one_line(str(error))[:_LONGEST]}; give {_usage(kind)}") from None


def _usage(kind: type[msgspec.Struct]) -> str:
    _, components = msgspec.json.schema_components((kind,))
    fields = components[kind.__name__]["properties"]
    return "; ".join(f"{name}: {field['description']}" for name, field in fields.items())
