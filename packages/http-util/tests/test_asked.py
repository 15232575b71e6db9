"""What cannot be sent is refused before anything is, as a `WorkerError` like every failure of a call."""

import json
import secrets
import traceback

import pytest
from llama_orch_adapter_api import AdapterError
from llama_orch_adapter_testkit import LoopbackEngine, Reply
from llama_orch_http_util import HttpClient

from .clients import ANYTHING, answering  # type: ignore[import-not-found]  # test folders are no packages

CANARY = secrets.token_hex(16)


async def refusals(
    client: HttpClient, path: str = "/tasks", body: object = None, headers: object = None
) -> list[AdapterError]:
    refused = []
    for ask in (
        client.request("POST", path, body, headers=headers),  # type: ignore[arg-type]
        client.open_stream(path, body, ANYTHING, headers),  # type: ignore[arg-type]
    ):
        with pytest.raises(AdapterError) as caught:
            await ask
        refused.append(caught.value)
    return refused


def endless() -> list[object]:
    body: list[object] = []
    body.append(body)
    return body


BODIES = {
    "object": {"a": object(), "b": CANARY},
    "half a character": f"{CANARY}\ud800",
    "key": {1j: CANARY},
    "endless": endless(),
}
HEADERS = {
    "line end": {"X-A": f"a\r\nX-B: {CANARY}"},
    "half a character": {"X-A": "\ud800"},
    "no text": {"X-A": 1},
    "zero": {"X-A": "\0"},
    "name": {"X A": CANARY},
    "no name": {"": CANARY},
    "line end in the name": {"X-A\r\nX-B": CANARY},
}
OF_THE_MESSAGE = [
    *("Accept-Encoding", "Connection", "Content-Encoding", "content-length", "Expect", "TE"),
    *("Transfer-Encoding", "Upgrade"),
]


async def check(errors: list[AdapterError], engine: LoopbackEngine) -> None:
    for error in errors:
        assert (error.detail, error.phase, error.answered) == ("bad_request", "connect", False)
        assert (error.__context__, error.__cause__) == (None, None)
        assert CANARY not in "".join(traceback.format_exception(error))
    assert engine.connections_made == 0


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
async def test_a_body_that_json_cannot_hold(body: object) -> None:
    """A body that is no JSON is a bad request, and the error holds nothing of it."""
    async with answering(Reply.json(200, {})) as engine, HttpClient(engine.url) as client:
        await check(await refusals(client, body=body), engine)


@pytest.mark.parametrize("headers", HEADERS.values(), ids=HEADERS)
async def test_a_header_that_cannot_be_sent(headers: object) -> None:
    """A header with a line end, or of another type, is a bad request: it would be two headers."""
    async with answering(Reply.json(200, {})) as engine, HttpClient(engine.url) as client:
        await check(await refusals(client, headers=headers), engine)


@pytest.mark.parametrize("name", OF_THE_MESSAGE)
async def test_a_header_that_is_not_the_callers(name: str) -> None:
    """A header that says how a request is sent is a bad request: with two lengths a peer waits, or hangs up."""
    async with answering(Reply.json(200, {})) as engine, HttpClient(engine.url) as client:
        await check(await refusals(client, headers={name: CANARY}), engine)


@pytest.mark.parametrize("path", ["/\ud800", "/a\r\nb", "/\0"])
async def test_a_path_that_cannot_be_sent(path: str) -> None:
    """So is a path with what is no character of a line."""
    async with answering(Reply.json(200, {})) as engine, HttpClient(engine.url) as client:
        await check(await refusals(client, path=path), engine)


async def test_headers_of_requests() -> None:
    """Requests and looks take headers, as streams do: a tab and any character of a line among them."""
    async with answering(Reply.json(200, {})) as engine, HttpClient(engine.url) as client:
        await client.request("POST", "/tasks", {}, headers={"X-A": "a\tb"})
        await client.get("/props", headers={"X-A": "c"})

        assert [request.headers["x-a"] for request in engine.requests] == ["a\tb", "c"]
        assert json.loads(engine.requests[0].body) == {}
