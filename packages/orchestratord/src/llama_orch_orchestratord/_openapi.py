"""The routes as an OpenAPI 3.1 document: made of the table that the router is made of, and of the types on the wire."""

import re
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import chain
from typing import Any, get_args

import msgspec
from aiohttp import web
from llama_orch_adapter_api import Error

from ._auth import role_of
from ._routes import EVENTS, JSON, Reply, Route

Document = dict[str, Any]

_VERSION = version("llama-orch-orchestratord")  # read once: it lies in a file

_HEADERS = {
    "Allow": "The methods that there are.",
    "Cache-Control": "Who may keep it, and for how long.",
    "ETag": "Of what is answered; for If-None-Match.",
    "Location": "Where the task is from now on.",
    "Retry-After-Ms": "As X-Backoff-Ms, under the name that OpenAI's clients heed.",
    "Retry-After": "Seconds after which to come again, where that is known.",
    "WWW-Authenticate": "Bearer",
    "X-Accel-Buffering": "no: what stands between hands each event on at once.",
    "X-Backoff-Ms": "Milliseconds after which to come again, where that is known.",
    "X-Correlation-Id": "A task's own `correlation_id`; else as it was sent, or made.",
    "X-Request-Id": "The task that the request was.",
    "X-Should-Retry": "true or false: whether to come again, which OpenAI's clients heed.",
}
_TAKEN = {
    "If-None-Match": "The ETag of an answer that is known already.",
    "Last-Event-ID": "The id of the event that a reader got last; heeded where a task outlives its reader.",
    "X-Correlation-Id": "1 to 128 letters, digits or ._:/+=@- that the answer and the records shall have.",
}
_FORMS = {"Last-Event-ID": "^[0-9]{0,18}$"}
"""Of headers that are refused in any other form; an empty one says nothing."""

_PATHS = {
    "model": ("A pool, as its file names it.", "chat"),
    "pool_id": ("A pool, as its file names it.", "chat"),
    "task_id": ("A task, as its admission told.", "7f3a9c12-0d5e-4b6a-9c1f-2e8d7b6a5c43"),
}
_ASKED = {
    401: "The token is missing, or not known.",
    403: "The token's role may not do this; or, without tokens, a page of another site asks.",
}
_SENT = {
    408: "The body did not come in time.",
    413: "The body is larger than server.max_body.",
    415: "The body is encoded, or of another type.",
}


def document(routes: Iterable[Route]) -> Document:
    """It, of the routes that are served."""
    routes = tuple(routes)
    types = tuple(_types(routes))
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    known = dict(zip(map(_key, types), schemas, strict=True))
    for kind in _events(routes):
        _as_sent(components[kind.__name__]["properties"])
    paths: Document = {}
    for route in routes:
        entry = paths.setdefault(route.path, {})
        entry[route.method.lower()] = _operation(route, known)
        if route.head:
            entry["head"] = _head(entry["get"])
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "orchestratord",
            "version": _VERSION,
            "description": "Pools of engines behind HTTP: tasks in, tokens out.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": {name: _header(name) for name in _HEADERS},
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


def _types(routes: Iterable[Route]) -> Iterator[Any]:
    """Every type that is written or read, once."""
    found: dict[str, Any] = {_key(Error): Error}
    for route in routes:
        for kind in (route.body, *chain.from_iterable((*it.bodies, it.event) for it in route.replies.values())):
            if kind is not None:
                found.setdefault(_key(kind), kind)
    return iter(found.values())


def _events(routes: Iterable[Route]) -> set[type[msgspec.Struct]]:
    """The types that stand for a server-sent event: those whose tag is its field `event`."""
    bodies = chain.from_iterable(reply.bodies for route in routes for reply in route.replies.values())
    kinds = chain.from_iterable(get_args(body) or (body,) for body in bodies)
    return {kind for kind in kinds if getattr(kind, "__struct_config__", None) and _is_event(kind)}


def _is_event(kind: type[msgspec.Struct]) -> bool:
    return kind.__struct_config__.tag_field == "event"


def _as_sent(fields: Document) -> None:
    """Describe the fields of a server-sent event as the texts that they are."""
    fields["data"] = {"type": "string", "contentMediaType": JSON, "contentSchema": fields["data"]}
    if "id" in fields:
        fields["id"] = {"type": "string", "pattern": "^[0-9]+$"}


def _key(kind: object) -> str:
    return repr(kind)


def _operation(route: Route, known: Document) -> Document:
    replies = {status: _reply(reply, known) for status, reply in route.replies.items()}
    for status, why in _refusals(route).items():
        replies.setdefault(status, _refusal(status, why))
    if route.follows:
        (status,) = route.replies
        replies[status]["links"] = {name: _link(name) for name in route.follows}
    told: Document = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": list(_parameters(route)),
        "responses": {str(status): replies[status] for status in sorted(replies)},
        "security": _security(route),
    }
    if route.body is not None:
        content: Document = {"schema": known[_key(route.body)]}
        if route.example is not None:
            content["example"] = route.example
        told["requestBody"] = {"required": True, "content": {JSON: content}}
    return told


def _refusals(route: Route) -> dict[int, str]:
    """Those of the route, and those that every such route has."""
    found = dict(route.refusals)
    for status, why in (_ASKED | (_SENT if route.method != "GET" else {})).items():
        if status != 401 or role_of(route.method, route.path) is not None:
            found.setdefault(status, why)
    return found


def _security(route: Route) -> list[Document]:
    role = role_of(route.method, route.path)
    return [] if role is None else [{"bearer": [role]}]


def _reply(reply: Reply, known: Document) -> Document:
    told: Document = {"description": reply.description, "headers": _headers(*reply.headers)}
    if reply.bodies:
        schemas = [known[_key(body)] for body in reply.bodies]
        schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
        told["content"] = {media: {"schema": schema} for media in reply.media}
    if reply.event is not None:
        told["content"][EVENTS] = {"schema": known[_key(reply.event)]}
    return told


def _refusal(status: int, why: str) -> Document:
    more = {401: ("WWW-Authenticate",), 429: ("Retry-After", "X-Backoff-Ms")}.get(status, ())
    headers = _headers(*more)
    if status == 503:
        headers |= {name: {**_header(name), "required": False} for name in ("Retry-After", "X-Backoff-Ms")}
    error = {JSON: {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": why, "headers": headers, "content": error}


def _headers(*names: str) -> Document:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (*names, "X-Correlation-Id")}


def _header(name: str) -> Document:
    return {"description": _HEADERS[name], "required": True, "schema": {"type": "string"}}


def _parameters(route: Route) -> Iterator[Document]:
    for name in re.findall(r"\{(\w+)\}", route.path):
        description, example = _PATHS[name]
        schema = {"type": "string", "minLength": 1}
        yield {"name": name, "in": "path", "required": True, "description": description, "schema": schema} | {
            "example": example
        }
    if route.query is not None:
        _, components = msgspec.json.schema_components((route.query,))
        for name, field in components[route.query.__name__]["properties"].items():
            described = field.pop("description")
            yield {"name": name, "in": "query", "required": False, "description": described, "schema": field}
    for name in (*route.takes, "X-Correlation-Id"):
        form = {"type": "string"} | ({"pattern": _FORMS[name]} if name in _FORMS else {})
        yield {"name": name, "in": "header", "description": _TAKEN[name], "schema": form}


def _link(name: str) -> Document:
    return {"operationId": name, "parameters": {"task_id": "$response.body#/task_id"}}


def _head(get: Document) -> Document:
    """As GET without a body."""
    replies = {
        status: {name: told for name, told in reply.items() if name != "content"}
        for status, reply in get["responses"].items()
    }
    return {**get, "operationId": f"{get['operationId']}Head", "responses": replies}


DOCUMENT = web.AppKey("document", bytes)


async def _openapi(request: web.Request) -> web.Response:
    return web.Response(body=request.app[DOCUMENT], content_type=JSON)


ROUTES = (
    Route(
        name="openapi",
        method="GET",
        path="/openapi.json",
        handler=_openapi,
        summary="This document: what is served, as it is configured.",
        replies={200: Reply("OpenAPI 3.1.", (dict[str, Any],))},
    ),
)
