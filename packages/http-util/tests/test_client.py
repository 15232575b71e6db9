"""The client against real sockets: what it sends, what it refuses, and how every failure is told."""

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest
from aioresponses import aioresponses
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerError
from llama_orch_adapter_testkit import Capture, LoopbackEngine, Reply, captures
from llama_orch_http_util import HttpClient
from llama_orch_http_util._errors import error_of_status

from .clients import (  # type: ignore[import-not-found]  # test folders are no packages
    ANYTHING,
    BOTH_WAYS,
    CANARY,
    GET,
    HEALTH,
    KEY,
    POST,
    Fail,
    Health,
    answering,
    failure,
    measured,
    written,
)


async def test_a_whole_answer() -> None:
    """An answer has its status, its headers by lower-case name, its body, the version of HTTP, and where it is from."""
    reply = Reply.json(200, {"status": "ok"}, headers={"X-Engine": "Loopback"})
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        response = await client.request("GET", "/health")

        assert response.status == 200
        assert response.headers["x-engine"] == "Loopback"
        assert response.body == b'{"status":"ok"}'
        assert response.http_version == "1.1"
        assert response.where == client.where == engine.url.removeprefix("http://")
        assert response.decode(HEALTH, "the health") == Health("ok")


async def test_the_version_of_the_answer() -> None:
    """An engine that answers in HTTP/1.0 is told to be one."""
    async with answering(written("HTTP/1.0 200 OK", b"{}")) as engine, HttpClient(engine.url) as client:
        assert (await client.request("GET", "/health")).http_version == "1.0"


ANSWERS = [captures.load("llamacpp", name) for name in ("get_props", "get_v1_models", "get_metrics", "get_health")]


@pytest.mark.parametrize("capture", ANSWERS, ids=str)
async def test_real_answers(capture: Capture) -> None:
    """What real engines answered is received byte for byte."""
    async with answering(Reply.capture(capture)) as engine, HttpClient(engine.url) as client:
        response = await client.request("GET", "/any")

    assert (response.status, response.body) == (capture.status, capture.body)


async def test_headers_of_a_get() -> None:
    """A GET carries these headers and no others."""
    async with answering(Reply.json(200, {})) as engine, HttpClient(engine.url) as client:
        await client.request("GET", "/health")

        assert engine.requests[0].headers == {
            "host": client.where,
            "accept": "*/*",
            "accept-encoding": "identity",
            "user-agent": "llama-orch",
        }


async def test_headers_of_a_post() -> None:
    """A POST with a body says its type and length; the body is its JSON."""
    async with answering(Reply.json(200, {})) as engine, HttpClient(engine.url) as client:
        await client.request("POST", "/tasks", {"prompt": "é"})
        request = engine.requests[0]

        assert request.body == '{"prompt":"é"}'.encode()
        assert request.headers["content-type"] == "application/json"
        assert request.headers["content-length"] == str(len(request.body))
        assert "authorization" not in request.headers


async def test_the_key_is_sent_where_there_is_one() -> None:
    """A key goes as a bearer token, in the header and nowhere else, on requests and streams alike."""
    script = {GET: Reply.json(200, {}), POST: Reply.sse(["[DONE]"])}
    async with LoopbackEngine(script) as engine, HttpClient(engine.url, api_key=KEY) as client:
        await client.request("GET", "/health")
        async with client.stream("/tasks", {}, ANYTHING):
            pass

        assert [r.headers["authorization"] for r in engine.requests] == [f"Bearer {KEY.reveal()}"] * 2
        assert [(r.path, r.query) for r in engine.requests] == [("/health", {}), ("/tasks", {})]


async def test_no_cookies() -> None:
    """A cookie that an engine sets is not sent back."""
    reply = Reply.json(200, {}, headers={"Set-Cookie": "a=b; Path=/"})
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        await client.request("GET", "/health")
        await client.request("GET", "/health")

        assert ["cookie" in request.headers for request in engine.requests] == [False, False]


async def test_the_environment_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a proxy nor the credentials of a netrc file are taken from the environment."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login user password {CANARY}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    async with answering(Reply.json(200, {})) as engine, answering(Reply.json(200, {})) as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, proxy.url)
        async with HttpClient(engine.url) as client:
            await client.request("GET", "/health")

        assert proxy.connections_made == 0
        assert "authorization" not in engine.requests[0].headers


@pytest.mark.parametrize("reply", [Reply.silence(), written("HTTP/1.1 200 OK\nContent-Length: 9", b"{", hang=True)])
async def test_a_cancelled_request(reply: Reply) -> None:
    """A cancelled request closes its connection, and the cancellation is passed on."""
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        asking = asyncio.create_task(client.request("GET", "/health"))
        request = await engine.request()
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking

        await request.disconnected()


async def test_statuses_through_the_client() -> None:
    """Each status that is no success is raised as the table says, with the wait and the engine's words."""
    body = json.dumps({"error": {"message": "so it is"}}).encode()
    async with HttpClient("http://127.0.0.1:9") as client:
        for status in range(300, 600):
            with aioresponses() as faked:
                faked.post(
                    "http://127.0.0.1:9/tasks",
                    status=status,
                    body=body,
                    headers={"Retry-After": "5"},
                    response_class=FakedResponse,
                )
                error = await failure(client, "POST", "/tasks")
            expected = error_of_status(status, {"retry-after": "5"}, body, client.where)

            assert (type(error), vars(error)) == (type(expected), vars(expected))
            assert error.retry_after == 5.0
            assert f"the engine answered {status}: so it is · 127.0.0.1:9 · " in error.message


class FakedResponse(aiohttp.ClientResponse):
    """aioresponses constructs responses as aiohttp before 3.14 had them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", SimpleNamespace(output_size=0))
        super().__init__(*args, **kwargs)


@pytest.mark.parametrize("status", [200, 201, 202, 206, 299])
async def test_every_success(status: int) -> None:
    """A status that reads as success is an answer, not an error."""
    async with answering(Reply.json(status, {})) as engine, HttpClient(engine.url) as client:
        assert (await client.request("GET", "/health")).status == status


REFUSALS = [
    (captures.load("llamacpp", "loading_get_health"), (PoolUnavailable, "loading")),
    (captures.load("llamacpp", "get_slots_fail_on_no_slot_busy"), (PoolUnavailable, "overloaded")),
    (captures.load("llamacpp", "key_wrong"), (AdapterError, "auth")),
    (captures.load("vllm", "key_wrong"), (AdapterError, "auth")),
    (captures.load("vllm", "err_prompt_too_long"), (AdapterError, "context_length")),
]


@BOTH_WAYS
@pytest.mark.parametrize(("capture", "told"), REFUSALS, ids=str)
async def test_real_refusals(capture: Capture, told: tuple[type[WorkerError], str], fail: Fail) -> None:
    """What a loading engine, a wrong key and a busy one were seen to answer is told as that."""
    async with answering(Reply.capture(capture)) as engine, HttpClient(engine.url) as client:
        error = await fail(client)

    assert (type(error), error.detail) == told


async def test_a_large_request_body() -> None:
    """A body of more than a megabyte arrives whole, without a warning and without holding the loop."""
    prompt = "0123456789abcdef" * (1 << 18)
    async with answering(Reply.json(200, {})) as engine, HttpClient(engine.url) as client:
        async with measured() as seen:
            await client.request("POST", "/tasks", {"prompt": prompt})

        assert engine.requests[0].json() == {"prompt": prompt}
        assert "transfer-encoding" not in engine.requests[0].headers
        assert seen["stall"] < 0.5


@pytest.mark.parametrize("text", ["a\nb", "a\r\n\r\nb", "a\u202eb", "a\x1b[2Jb", "a\u2028b", "\x00" * 1000])
async def test_an_engines_words_stay_in_their_line(text: str) -> None:
    """Whatever an engine says in an error, the message is one printable line (battery 36's part)."""
    reply = Reply.json(500, {"error": {"message": f"<{text}>"}})
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert error.message.isprintable()
    assert len(error.message) < 2000
