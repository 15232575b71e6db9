"""The OpenAPI document, held against what is served."""

import json
import re
import secrets
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # its stubs are a package of their own
from llama_orch_adapter_api import Metrics, PoolUnavailable, Started, Token
from llama_orch_orchestratord import _control, _looks, _metrics, _openapi, _pools, _tasks
from llama_orch_orchestratord._app import routes_of
from llama_orch_orchestratord._config import OpenAISettings, ServerConfig
from llama_orch_orchestratord._openapi import document
from llama_orch_orchestratord._replay import GapFrame
from llama_orch_orchestratord._routes import Route
from llama_orch_orchestratord._wire import Frame

from .serving import Engine, serving, shape, until, virtual, words  # type: ignore[import-not-found]  # no packages

ROUTES = routes_of(ServerConfig(openai=OpenAISettings(enabled=True)))
DOCUMENT = document(ROUTES)
OPENAI = "openai.enabled = true"
TOML = """
[openai]
enabled = true
[auth]
tokens = [{ env = "T1", role = "tasks" }, { env = "T2", role = "control" }]
"""


def operations() -> dict[tuple[str, str], dict[str, Any]]:
    paths = DOCUMENT["paths"]
    return {(method.upper(), path): told for path, entry in paths.items() for method, told in entry.items()}


async def test_the_document_is_served() -> None:
    """`/openapi.json` is the document of exactly the routes that the router has."""
    async with serving(Engine(words()), toml=OPENAI) as client:
        status, body = await client.get("/openapi.json")
        served = {(route.method, route.resource.canonical) for route in client.app.router.routes() if route.resource}

    assert status == 200
    assert json.loads(body) == json.loads(msgspec.json.encode(DOCUMENT))
    assert set(operations()) == served
    names = [told["operationId"] for told in operations().values()]
    assert len(set(names)) == len(names)


def test_every_reference_leads_somewhere() -> None:
    """Schemas, headers and linked operations that are named are there."""
    text = json.dumps(DOCUMENT)
    for reference in set(re.findall(r'"#/([^"]+)"', text)):
        place: Any = DOCUMENT
        for name in reference.split("/"):
            place = place[name]
    names = {told["operationId"] for told in operations().values()}

    assert '"#/$defs' not in text
    assert {name for route in ROUTES for name in route.follows} <= names


def test_the_path_names_its_parameters() -> None:
    """Each name in a path is a parameter, and nothing else is."""
    for (_, path), told in operations().items():
        inside = [each["name"] for each in told["parameters"] if each["in"] == "path"]

        assert inside == re.findall(r"\{(\w+)\}", path)


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.name)
async def test_the_document_says_who_may(route: Route, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a token 401 where one is asked for, and 403 for `tasks` where it says `control`; both are in it."""
    tokens = {"T1": secrets.token_hex(16), "T2": secrets.token_hex(16)}
    for name, token in tokens.items():
        monkeypatch.setenv(name, token)
    told = DOCUMENT["paths"][route.path][route.method.lower()]
    roles = [role for each in told["security"] for role in each["bearer"]]
    path = route.path.format(pool_id="nope", task_id="nope", model="nope")
    got = []
    async with serving(Engine(words()), toml=TOML) as client:
        for headers in ({}, {"Authorization": f"Bearer {tokens['T1']}"}, {"Authorization": f"Bearer {tokens['T2']}"}):
            async with client.session.request(route.method, client.url + path, headers=headers) as response:
                got.append(response.status)

    assert (got[0] == 401) == bool(roles)
    assert (got[1] == 403) == (roles == ["control"])
    assert got[2] not in {401, 403}
    assert {str(status) for status in got} <= set(told["responses"])


@virtual
async def test_frames_are_as_described() -> None:
    """Each kind of frame that a stream has is one of the union that the document describes, and all of it are known."""
    failure = PoolUnavailable("no", detail="unreachable")
    engine = Engine(lambda _: [Started("words", "1", "m", "chat/0"), Token("a", 0), Metrics(1, 1), 1.0, failure])
    async with serving(engine, Engine(words(2, 1.0)), toml="[stream]\ncancel_on_disconnect = false") as client:
        found = await client.read(await client.send(replica_id="0"), "?narration=true")
        left = await client.send(replica_id="1")
        async with client.open(left) as reading:
            await reading.content.readuntil(b"started")
            reading.close()
        await until(lambda: client.census().read == 0)
        found += await client.read(left, "?narration=true")

    for each in found:
        fields = {"event": each.event, "data": each.data} | ({} if each.id is None else {"id": each.id})
        assert json.loads(msgspec.json.encode(msgspec.convert(fields, Frame | GapFrame))) == fields
    schema = DOCUMENT["paths"]["/v1/tasks/{task_id}/stream"]["get"]["responses"]["200"]["content"]
    schemas = DOCUMENT["components"]["schemas"]
    fields = schemas["TokenFrame"]["properties"]
    assert fields["data"]["contentSchema"] == {"$ref": "#/components/schemas/Token"}
    assert fields["data"]["type"] == fields["id"]["type"] == "string"
    assert schemas["LookFrame"]["properties"]["data"]["contentSchema"] == {"$ref": "#/components/schemas/Look"}
    assert set(shape(found)) == set(schema["text/event-stream"]["schema"]["discriminator"]["mapping"])


@virtual
async def test_the_id_of_an_event_is_as_described() -> None:
    """What the document allows as `Last-Event-ID` can be read, and what it does not allow is refused."""
    parameters = DOCUMENT["paths"]["/v1/tasks/{task_id}/stream"]["get"]["parameters"]
    (schema,) = (each["schema"] for each in parameters if each["name"] == "Last-Event-ID")
    got: dict[str, tuple[bool, bool]] = {}
    async with serving(Engine(words()), toml="[stream]\ncancel_on_disconnect = false") as client:
        for sent in ("", "0", "00", "9" * 18, "9" * 19, "-1", "1.0", "1 2", "FC3sIE;J-v\tVO", "x"):
            async with client.open(await client.send(), **{"Last-Event-ID": sent}) as answer:
                refused = "is no number" in await answer.text()
            got[sent] = (Draft202012Validator(schema).is_valid(sent), not refused)

    assert {allowed for allowed, _ in got.values()} == {True, False}
    assert all(allowed == taken for allowed, taken in got.values()), got


CALLS = [
    ("submitTask", {}, 202),
    ("viewTask", {}, 200),
    ("explainTask", {}, 200),
    ("cancelTask", {}, 204),
    ("capabilities", {}, 200),
    ("poolHealth", {}, 200),
    ("metrics", {}, 200),
    ("openapi", {}, 200),
    ("healthz", {}, 200),
    ("readyz", {}, 200),
    ("reloadPools", {}, 200),
    ("drainPool", {"replica_id": "1"}, 202),
    ("drainPool", {"wait": "true"}, 200),
    ("reloadPools", {}, 200),
    ("reloadPools", {"undrain": "true"}, 200),
    ("drainPool", {"wait": "true"}, 200),
    ("poolHealth", {}, 200),
    ("readyz", {}, 503),
    ("submitTask", {}, 503),
]
"""What goes well, in an order in which it does, until nothing takes tasks any more; by name, query and status."""


async def test_what_goes_well_is_as_described(tmp_path: Path) -> None:
    """Each route's success, and the end of all, has the content type, the headers and the body that it is to have."""
    named = {route.name: route for route in ROUTES}
    replicas = ", ".join(f'{{ id = "{i}", url = "http://127.0.0.1" }}' for i in range(2))
    (tmp_path / "pools.toml").write_text(f'[pools.chat]\nengine = "words"\nreplicas = [{replicas}]')
    async with serving(*(Engine(words()) for _ in range(4)), file=tmp_path / "pools.toml") as client:
        task_id = await client.send()
        await client.read(task_id)
        for name, query, status in CALLS:
            route = named[name]
            url = client.url + route.path.format(pool_id="chat", task_id=task_id)
            async with client.session.request(route.method, url, params=query, json=route.example) as response:
                body = await response.read()
            told = DOCUMENT["paths"][route.path][route.method.lower()]["responses"][str(response.status)]

            assert response.status == status, (name, body)
            assert all(name in response.headers for name in set(told["headers"]) - {"Retry-After", "X-Backoff-Ms"})
            _check_body(told, response.content_type, body)

    rooms = (_control, _looks, _metrics, _openapi, _pools, _tasks)
    assert {name for name, _, _ in CALLS} == {route.name for room in rooms for route in room.ROUTES} - {"streamTask"}


def _check_body(told: dict[str, Any], media: str, body: bytes) -> None:
    if "content" not in told:
        assert body == b""
        return
    schema = {**told["content"][media]["schema"], "components": DOCUMENT["components"]}
    Draft202012Validator(schema).validate(json.loads(body) if media == "application/json" else body.decode())


def test_what_a_pool_may_answer_beside_its_health_is_an_error() -> None:
    """A status whose body has two forms names both."""
    content = DOCUMENT["paths"]["/v1/pools/{pool_id}/health"]["get"]["responses"]["503"]["content"]

    assert len(content["application/json"]["schema"]["anyOf"]) == 2
