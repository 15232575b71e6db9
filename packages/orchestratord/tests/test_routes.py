"""The table of routes, and what a query may hold."""

import pytest
from llama_orch_orchestratord._app import routes_of
from llama_orch_orchestratord._config import ServerConfig

from .serving import Engine, serving, words  # type: ignore[import-not-found]  # test folders are no packages

ROUTES = routes_of(ServerConfig())


async def test_the_router_is_the_table() -> None:
    """What is served is what the table says, HEAD included, no more and no less."""
    async with serving(Engine(words())) as client:
        served = {(route.method, route.resource.canonical) for route in client.app.router.routes() if route.resource}

    tabled = {(route.method, route.path) for route in ROUTES}
    assert served == tabled | {("HEAD", route.path) for route in ROUTES if route.head}
    assert len(ROUTES) == len(tabled) == len({route.name for route in ROUTES})


@pytest.mark.parametrize(
    ("query", "told"),
    [
        ("heartbeat=1&heartbeat=2", "the query has a name twice"),
        ("speed=2", "unknown field `speed`; give heartbeat: seconds of silence"),
        ("narration=null", "`$.narration`; give heartbeat"),
        ("heartbeat=0.5", "heartbeat is 0.5"),
    ],
)
async def test_a_query_that_is_not_understood(query: str, told: str) -> None:
    """A name that is not known, or twice, or a value that cannot be, is refused with all that may stand there."""
    async with serving(Engine(words())) as client:
        status, body = await client.get(f"/v1/tasks/{await client.send()}/stream?{query}")

    assert status == 400
    assert told in body
