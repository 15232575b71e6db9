"""The client against real sockets: what it sends, what it refuses, and how every failure is told."""

import asyncio
import base64
import gc
import gzip
import json
import logging
import secrets
import socket
import time
import traceback
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import aiohttp
import msgspec
import pytest
from aioresponses import aioresponses
from llama_orch_adapter_api import (
    AdapterError,
    DecodeTimeout,
    PoolUnavailable,
    Secret,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_testkit import Capture, LoopbackEngine, Reply, Request, captures, run_virtual
from llama_orch_http_util import HttpClient, HttpConfig, _session
from llama_orch_http_util._errors import error_of_status

ANYTHING = msgspec.json.Decoder(Any)
POST = ("POST", "/tasks")
GET = ("GET", "/health")
CANARY = secrets.token_hex(16)
KEY = Secret("key-" + CANARY)


class Health(msgspec.Struct, frozen=True):
    """What the engines here say of themselves."""

    status: str


HEALTH = msgspec.json.Decoder(Health)


def answering(reply: Reply) -> LoopbackEngine:
    """An engine that gives this reply to whatever is asked."""
    return LoopbackEngine(lambda _: reply)


def written(head: str, body: bytes = b"", *, hang: bool = False) -> Reply:
    """A reply of this status line and these headers, lines joined by LF."""
    return Reply.raw(head.replace("\n", "\r\n").encode() + b"\r\n\r\n" + body, hang=hang)


async def failure(client: HttpClient, method: str = "GET", path: str = "/health", body: object = None) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await client.request(method, path, body)
    return caught.value


async def stream_failure(client: HttpClient) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await client.open_stream("/tasks", {"prompt": "a"}, ANYTHING)
    return caught.value


BOTH_WAYS = pytest.mark.parametrize(
    "fail",
    [failure, lambda client: failure(client, "POST", "/tasks", {}), stream_failure],
    ids=["GET", "POST", "stream"],
)
"""A whole answer without and with a body sent, and a stream."""

Fail = Callable[[HttpClient], Any]


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


async def test_two_clients_keep_their_keys_apart() -> None:
    """Clients share a session, yet not their keys."""
    async with (
        answering(Reply.json(200, {})) as engine,
        HttpClient(engine.url, api_key=KEY) as one,
        HttpClient(engine.url) as other,
    ):
        await one.request("GET", "/health")
        await other.request("GET", "/health")

        assert ["authorization" in request.headers for request in engine.requests] == [True, False]


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


@pytest.fixture
async def connects(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The addresses that anybody on this loop connects to; none but loopback is let through."""
    loop = asyncio.get_running_loop()
    connect, seen = loop.sock_connect, []

    async def noted(sock: socket.socket, address: tuple[str, int]) -> None:
        seen.append(address)
        if not address[0].startswith("127."):
            raise ConnectionRefusedError
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", noted)
    return seen


LEADS_TO = {
    "another origin": "http://127.0.0.2:{port}/steal",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata over IPv6": "http://[fd00:ec2::254]/latest/meta-data/",
    "https": "https://127.0.0.1:{port}/steal",
    "another port": "//127.0.0.1:1/steal",
    "itself": "/steal",
}


@BOTH_WAYS
@pytest.mark.parametrize("location", LEADS_TO.values(), ids=LEADS_TO)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(
    status: int, location: str, fail: Fail, connects: list[tuple[str, int]]
) -> None:
    """A redirect is an error, and not a byte goes to where it leads (battery 35, redirect_ssrf)."""

    def redirect(request: Request) -> Reply:
        port = request.headers["host"].rpartition(":")[2]
        return Reply.redirect(f"{location.format(port=port)}?key={CANARY}", status=status)

    async with LoopbackEngine(redirect) as engine, HttpClient(engine.url, api_key=KEY) as client:
        error = await fail(client)

        assert (type(error), error.detail) == (AdapterError, "redirect")
        assert f"the engine answered {status} · {client.where} · " in error.message
        assert CANARY not in error.message
        assert len(engine.requests) == 1
        assert connects == [("127.0.0.1", int(engine.url.rpartition(":")[2]))]


@cache
def bomb(encoding: str) -> Reply:
    """The first of many megabytes that would unpack to a thousand times their size."""
    packed = gzip.compress(bytes(64 << 20), 1) if encoding == "gzip" else zlib.compress(bytes(64 << 20), 1)
    head = f"HTTP/1.1 200 OK\nContent-Type: text/event-stream\nContent-Encoding: {encoding}\nContent-Length: {1 << 30}"
    return written(head, packed, hang=True)


@BOTH_WAYS
@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
async def test_a_bomb_is_not_opened(encoding: str, fail: Fail) -> None:
    """An encoded answer is refused at its head, in no time and unread (battery 7, gzip_bomb)."""
    reply = bomb(encoding)
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        begun = time.perf_counter()
        error = await fail(client)
        took = time.perf_counter() - begun

        assert (type(error), error.detail) == (AdapterError, "encoding")
        assert error.message.startswith(
            f"the answer is encoded as {encoding}, which was not asked for · {client.where}"
        )
        assert took < 0.1
        await (await engine.request()).disconnected()


@pytest.mark.parametrize(
    ("encoding", "told"), [("br", "br"), ("x\u202e", r"x\u202e"), ("y" * 4000, "y" * 299 + "…"), ("", "")]
)
@pytest.mark.parametrize("status", [200, 500])
async def test_other_encodings(encoding: str, told: str, status: int) -> None:
    """Any encoding but identity is refused, whatever the status, and told like an engine's words."""
    reply = Reply.raw(f"HTTP/1.1 {status} X\r\nContent-Encoding: {encoding}\r\nContent-Length: 1\r\n\r\nx".encode())
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert error.message.startswith(f"the answer is encoded as {told}, which was not asked for")
    assert error.message.isprintable()


async def test_identity_is_no_encoding() -> None:
    """An answer that says it is encoded as itself is taken."""
    reply = Reply.json(200, {}, headers={"Content-Encoding": "identity"})
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        assert (await client.request("GET", "/health")).status == 200


async def test_the_largest_body() -> None:
    """A body of exactly `max_body` bytes is taken, one byte more is refused."""
    config = HttpConfig(max_body=100_000)
    for size in (100_000, 100_001):
        reply = written(f"HTTP/1.1 200 OK\nContent-Length: {size}", b"x" * size)
        async with answering(reply) as engine, HttpClient(engine.url, config) as client:
            if size <= config.max_body:
                assert (await client.request("GET", "/health")).body == b"x" * size
            else:
                error = await failure(client)

                assert (type(error), error.detail) == (AdapterError, "too_large")
                assert error.message == f"the answer is larger than 100000 bytes · {client.where}"


def endless(head: str) -> Reply:
    """A gigabyte in chunks."""
    start = head.replace("\n", "\r\n").encode() + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    return Reply((start, *[b"10000\r\n" + b"[" * 0x10000 + b"\r\n"] * 16_384), "close")


@asynccontextmanager
async def measured() -> AsyncIterator[dict[str, float]]:
    """The highest memory in use and the longest time the loop was at one thing (of the CPU), filled in at the end."""
    seen = {"stall": 0.0}

    async def watch() -> None:
        before = time.thread_time()
        while True:
            await asyncio.sleep(0)
            now = time.thread_time()
            seen["stall"] = max(seen["stall"], now - before)
            before = now

    gc.collect()  # what others left is not ours to pay for
    tracemalloc.start()
    watching = asyncio.create_task(watch())
    try:
        yield seen
    finally:
        watching.cancel()
        seen["peak"] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()


async def test_an_endless_body() -> None:
    """A body without end is given up at its bound: bounded memory, the loop goes on (battery 6, json_hostile)."""
    async with answering(endless("HTTP/1.1 200 OK")) as engine, HttpClient(engine.url) as client:
        async with measured() as seen:
            error = await failure(client)

        assert (type(error), error.detail) == (AdapterError, "too_large")
        assert seen["peak"] < 16 << 20
        assert seen["stall"] < 0.2
        await (await engine.request()).disconnected()


@BOTH_WAYS
async def test_an_endless_error(fail: Fail) -> None:
    """Of an error's body no more than `max_error_body` is read; its status is told all the same (battery 6)."""
    async with answering(endless("HTTP/1.1 503 Busy\nRetry-After: 3")) as engine, HttpClient(engine.url) as client:
        async with measured() as seen:
            error = await fail(client)

        assert (type(error), error.detail, error.retry_after) == (PoolUnavailable, "overloaded", 3.0)
        assert error.message.startswith("the engine answered 503 · ")  # JSON is not repeated
        assert seen["peak"] < 2 << 20
        await (await engine.request()).disconnected()


HOSTILE = {
    "deep arrays": b"[" * 100_000,
    "deep arrays, closed": b"[" * 100_000 + b"]" * 100_000,
    "deeper": b"[" * 1_000_000,
    "deep objects": b'{"a":' * 100_000,
    "NaN": b"NaN",
    "Infinity": b'{"a": Infinity}',
    "10**400 as a float": b"1" + b"0" * 400 + b".0",
    "1e400": b"[1e400]",
    "10**5000": b"1" + b"0" * 5000,
    "not UTF-8": b'"\xff\xfe"',
    "half a surrogate": b'"\\ud800"',
    "cut": b'{"a": [1, 2',
    "more than one": b"{} {}",
    "a control character": b'"\x00"',
    "empty": b"",
    "UTF-16": '{"a": 1}'.encode("utf-16"),
}


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_json(body: bytes) -> None:
    """JSON made to hurt is an `AdapterError`, in little time and memory (battery 6, json_hostile)."""
    reply = written(f"HTTP/1.1 200 OK\nContent-Length: {len(body)}", body)
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        response = await client.request("GET", "/health")
        begun = time.perf_counter()
        with pytest.raises(AdapterError) as caught:
            response.decode(ANYTHING, "the health")
        took = time.perf_counter() - begun

    assert caught.value.detail == "decode"
    assert caught.value.message.startswith("the health is not understood: ")
    assert client.where in caught.value.message
    assert took < 0.2


@pytest.mark.parametrize("body", HOSTILE.values(), ids=HOSTILE)
async def test_hostile_json_in_an_error(body: bytes) -> None:
    """Hostile JSON as an error's body changes nothing about what the status says (battery 6)."""
    reply = written(f"HTTP/1.1 500 X\nContent-Length: {len(body)}", body)
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert (error.code, error.detail) == ("INTERNAL", "engine")
    assert error.message.isprintable()
    assert len(error.message) < 2000


async def test_a_body_of_another_type() -> None:
    """JSON of another shape names the place; the engine's value is not repeated."""
    async with answering(Reply.json(200, {"status": [CANARY]})) as engine, HttpClient(engine.url) as client:
        response = await client.request("GET", "/health")

    with pytest.raises(AdapterError, match=r"Expected `str`, got `array` - at `\$\.status`") as caught:
        response.decode(HEALTH, "the health")
    assert CANARY not in str(caught.value)


@BOTH_WAYS
async def test_nobody_listens(fail: Fail) -> None:
    """A refused connection is an unreachable replica, told with the system's words, host and port."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        async with HttpClient(f"http://127.0.0.1:{port}") as client:
            error = await fail(client)

    assert (type(error), error.detail, error.phase) == (PoolUnavailable, "unreachable", "connect")
    assert (error.answered, error.stale_connection) == (False, False)
    assert error.message == (
        f"cannot connect (Connection refused) · 127.0.0.1:{port} · check that the engine runs and that url is right"
    )


RESETS = {
    "closed before the head": Reply.raw(b""),
    "reset before the head": Reply((), "reset"),
    "closed inside the head": Reply.raw(b"HTTP/1.1 200 OK\r\nContent-"),
    "reset inside the head": Reply.raw(b"HTTP/1.1 200 OK\r\nContent-", reset=True),
}


@BOTH_WAYS
@pytest.mark.parametrize("reply", RESETS.values(), ids=RESETS)
async def test_broken_before_the_body(reply: Reply, fail: Fail) -> None:
    """A connection that ends before the answer's head is whole is a reset."""
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        error = await fail(client)

        assert (type(error), error.detail, error.phase) == (WorkerReset, "reset", "first_token")
        assert error.message.startswith("the connection broke (")
        assert client.where in error.message
        assert not error.stale_connection
        assert len(engine.requests) == 1  # nobody but the caller sends it again


CLOSED, RESET, CUT = Reply.raw(b""), Reply((), "reset"), RESETS["closed inside the head"]


@pytest.mark.parametrize(
    ("reply", "answered"), [(CLOSED, False), (RESET, False), (CUT, True)], ids=["closed", "reset", "inside the head"]
)
@BOTH_WAYS
async def test_whether_a_byte_was_seen(reply: Reply, answered: bool, fail: Fail) -> None:
    """A connection that ends without a byte of the answer says so, one that ends inside the head does not."""
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        assert (await fail(client)).answered == answered


@pytest.mark.parametrize("reply", [CLOSED, RESET], ids=["closed", "reset"])
@pytest.mark.parametrize("fail", [lambda client: failure(client, "POST", "/tasks", {}), stream_failure])
async def test_a_stale_connection(reply: Reply, fail: Fail) -> None:
    """A kept connection that ends without a byte of the answer is told to be stale; a POST is not sent again."""
    script = {GET: [Reply.json(200, {})], POST: [reply, Reply.json(500, {})]}
    async with LoopbackEngine(script) as engine, HttpClient(engine.url) as client:
        await client.request("GET", "/health")
        error = await fail(client)

        assert (type(error), error.detail, error.phase) == (WorkerReset, "reset", "first_token")
        assert (error.stale_connection, error.answered) == (True, False)
        assert error.message.startswith("the kept connection was closed (")
        assert error.message.endswith(f" · {client.where} · send it again")
        assert (engine.connections_made, len(engine.requests)) == (1, 2)

        again = await fail(client)
        assert (again.code, again.stale_connection, again.answered) == ("INTERNAL", False, True)


async def test_a_large_request_on_a_stale_connection() -> None:
    """A request that is still being sent when its kept connection ends is stale too."""
    script = {GET: Reply.json(200, {}), POST: RESET}
    async with LoopbackEngine(script) as engine, HttpClient(engine.url) as client:
        await client.request("GET", "/health")
        error = await failure(client, "POST", "/tasks", {"prompt": "x" * (4 << 20)})

    assert (type(error), error.stale_connection, error.answered) == (WorkerReset, True, False)


@pytest.mark.parametrize("reply", [CUT, Reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{", reset=True)])
async def test_a_kept_connection_that_answered(reply: Reply) -> None:
    """A kept connection that ends inside the answer is not stale."""
    script = {GET: Reply.json(200, {}), POST: reply}
    async with LoopbackEngine(script) as engine, HttpClient(engine.url) as client:
        await client.request("GET", "/health")
        error = await failure(client, "POST", "/tasks")

    assert (type(error), error.stale_connection, error.answered) == (WorkerReset, False, True)


@pytest.mark.parametrize("reply", [CLOSED, RESET], ids=["closed", "reset"])
async def test_a_get_on_a_stale_connection(reply: Reply) -> None:
    """A GET that met a stale connection is sent once more by itself, on a new one: it had not begun."""
    good = Reply.json(200, {})
    async with LoopbackEngine({GET: [good, reply, good]}) as engine, HttpClient(engine.url) as client:
        await client.request("GET", "/health")
        assert (await client.request("GET", "/health")).status == 200

        assert (engine.connections_made, len(engine.requests)) == (2, 3)


@BOTH_WAYS
async def test_a_refusal_is_an_answer(fail: Fail) -> None:
    """Whatever is said with a status was answered, on a kept connection as on a new one."""
    async with answering(Reply.json(500, {})) as engine, HttpClient(engine.url) as client:
        for _ in range(2):
            error = await fail(client)

            assert (error.answered, error.stale_connection) == (True, False)


@pytest.mark.parametrize("reset", [True, False])
@pytest.mark.parametrize("framing", ["Content-Length: 100", "Transfer-Encoding: chunked"])
async def test_broken_in_the_body(framing: str, reset: bool) -> None:
    """A connection that ends inside the body is a `WorkerReset`; half an answer is never taken for a whole one."""
    begun = f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + b"5\r\n{}   \r\n"
    async with answering(Reply.raw(begun, reset=reset)) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert (type(error), error.phase) == (WorkerReset, "first_token")
    assert error.detail in {"truncated", "reset"}


@BOTH_WAYS
async def test_an_error_whose_body_breaks_off(fail: Fail) -> None:
    """The status of a refusal counts, though its body breaks off."""
    reply = written("HTTP/1.1 400 No\nContent-Length: 100", b'{"error":')
    async with answering(Reply.raw(reply.pieces[0], reset=True)) as engine, HttpClient(engine.url) as client:
        error = await fail(client)

    assert (type(error), error.detail) == (AdapterError, "bad_request")


@BOTH_WAYS
@pytest.mark.parametrize(
    "answer",
    [
        b"garbage\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
    ],
    ids=["garbage", "ssh", "status", "length", "long header"],
)
async def test_answers_that_are_not_http(answer: bytes, fail: Fail) -> None:
    """Bytes that are no HTTP answer are not understood."""
    async with answering(Reply.raw(answer)) as engine, HttpClient(engine.url) as client:
        error = await fail(client)

    assert (type(error), error.detail) == (AdapterError, "decode")
    assert error.message.startswith("the answer is not HTTP (")


@pytest.mark.parametrize("size", [b"zz", b"-1", b"f" * 30])
async def test_chunks_that_are_no_chunks(size: bytes) -> None:
    """A body whose framing is broken is not understood; nobody waits for the rest of it."""
    broken = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n" + size + b"\r\n{}\r\n"
    async with answering(Reply((broken[:60], broken[60:]), "close")) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert (type(error), error.detail) == (AdapterError, "decode")
    assert error.message.startswith("the answer is not HTTP (")


async def test_long_lived_connections_hold_no_answers() -> None:
    """An answer that was read is forgotten, though its connection stays."""
    script = {GET: Reply.json(200, {}), POST: Reply.sse([{"n": 0}, "[DONE]"])}
    async with LoopbackEngine(script) as engine, HttpClient(engine.url) as client:
        for _ in range(20):
            await client.request("GET", "/health")
            async with client.stream("/tasks", {}, ANYTHING) as events:
                assert len([batch async for batch in events]) == 1
        gc.collect()

        assert engine.connections_made == 1
        assert sum(isinstance(thing, aiohttp.ClientResponse) for thing in gc.get_objects()) <= 1


async def test_a_kept_connection_that_is_reset_while_idle(caplog: pytest.LogCaptureFixture) -> None:
    """An idle connection that its engine resets ends in silence, and the next request has a new one."""
    reply = Reply(Reply.json(200, {}).pieces, "reset")
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        for _ in range(2):
            assert (await client.request("GET", "/health")).status == 200
            await engine.deserted()
            await asyncio.sleep(0)  # the reset comes in
        assert engine.connections_made == 2
    gc.collect()

    assert caplog.records == []


def never_found(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a host whose name is looked up for ever."""

    async def look_up(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    return "http://engine:8080"


@contextmanager
def full() -> Iterator[str]:
    """The URL of a port where nobody takes connections and no more of them can wait."""
    with ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@BOTH_WAYS
@pytest.mark.parametrize("where", ["name", "TCP"])
def test_connecting_takes_too_long(where: str, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking the name up and connecting may take `connect` seconds; then the replica is unreachable."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with nullcontext(never_found(loop, monkeypatch)) if where == "name" else full() as url:
            async with HttpClient(url, HttpConfig(connect=3)) as client:
                error = await fail(client)

        assert (type(error), error.detail, error.phase) == (PoolUnavailable, "unreachable", "connect")
        assert (error.answered, error.stale_connection) == (False, False)
        assert "it took too long to connect" in error.message
        assert loop.time() == pytest.approx(3, abs=0.1)

    run_virtual(main())


SILENCES = {
    "no head": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "no body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{",
}


@pytest.mark.parametrize("answered", SILENCES.values(), ids=SILENCES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_silent_engine(answered: bytes, method: str) -> None:
    """An engine that falls silent before its answer is whole is a `DecodeTimeout` after `sock_idle` seconds."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        config = HttpConfig(sock_idle=30)
        async with answering(Reply.raw(answered, hang=True)) as engine, HttpClient(engine.url, config) as client:
            begun = loop.time()
            error = await failure(client, method)

            assert (type(error), error.detail, error.phase) == (DecodeTimeout, "first_token", "first_token")
            assert 30 <= loop.time() - begun < 31
            await (await engine.request()).disconnected()

    run_virtual(main())


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


async def test_connections_are_used_again() -> None:
    """Requests one after the other need one connection, refusals among them."""
    replies = [Reply.json(200, {}), Reply.json(404, {}), Reply.json(200, {}), Reply.json(503, {})]
    async with LoopbackEngine({GET: replies}) as engine, HttpClient(engine.url) as client:
        await client.request("GET", "/health")
        await failure(client)
        await client.request("GET", "/health")
        await failure(client)

        assert engine.connections_made == 1


async def test_no_call_waits_for_a_connection() -> None:
    """With 110 answers outstanding a health check is answered at once (battery 27's part)."""
    script = {GET: Reply.json(200, {"status": "ok"}), POST: Reply.silence()}
    async with LoopbackEngine(script) as engine, HttpClient(engine.url) as client:
        waiting = [asyncio.create_task(client.request("POST", "/tasks", {})) for _ in range(110)]
        await engine.request(109)
        async with asyncio.timeout(2):
            assert (await client.request("GET", "/health")).decode(HEALTH, "the health") == Health("ok")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

        assert engine.connections_made == 111


async def test_open_streams_starve_nobody() -> None:
    """With 1,000 streams open a health check is answered at once (battery 27, pool_starvation)."""
    asyncio.get_running_loop().set_debug(False)  # it would note where each of them was opened
    script = {GET: Reply.json(200, {"status": "ok"}), POST: Reply.sse([{"n": 0}], hang=True)}
    async with LoopbackEngine(script) as engine, HttpClient(engine.url) as client, AsyncExitStack() as open_streams:
        for _ in range(1000):
            events = await open_streams.enter_async_context(client.stream("/tasks", {}, ANYTHING))
            await anext(events)
        begun = time.perf_counter()
        assert (await client.request("GET", "/health")).decode(HEALTH, "the health") == Health("ok")
        took = time.perf_counter() - begun

        assert took < 0.2
        assert engine.open_connections == 1001


def test_each_client_keeps_its_own_limits() -> None:
    """ORCH-3612: clients that share a session each have the limits of their own pool."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        script = {GET: Reply.json(200, "x" * 100), POST: Reply.silence()}
        strict, mild = HttpConfig(sock_idle=10, max_body=50), HttpConfig(sock_idle=40, max_body=500)
        async with (
            LoopbackEngine(script) as engine,
            HttpClient(engine.url, strict) as first,
            HttpClient(engine.url, mild) as second,
        ):
            assert (await failure(first)).detail == "too_large"
            assert (await second.request("GET", "/health")).status == 200
            begun = loop.time()
            waiting = asyncio.create_task(failure(second, "POST", "/tasks"))
            assert isinstance(await failure(first, "POST", "/tasks"), DecodeTimeout)
            assert loop.time() - begun == pytest.approx(10, abs=1)
            assert isinstance(await waiting, DecodeTimeout)
            assert loop.time() - begun == pytest.approx(40, abs=1)

            assert [shared.borrowers for shared in _session._sessions.values()] == [2]

    run_virtual(main())


async def test_a_large_request_body() -> None:
    """A body of more than a megabyte arrives whole, without a warning and without holding the loop."""
    prompt = "0123456789abcdef" * (1 << 18)
    async with answering(Reply.json(200, {})) as engine, HttpClient(engine.url) as client:
        async with measured() as seen:
            await client.request("POST", "/tasks", {"prompt": prompt})

        assert engine.requests[0].json() == {"prompt": prompt}
        assert "transfer-encoding" not in engine.requests[0].headers
        assert seen["stall"] < 0.5


def disguises(text: str) -> set[str]:
    """How a text may be found again: as it is, URL-encoded, and in each of base64's three alignments."""
    encoded = {base64.b64encode(b"x" * shift + text.encode()).decode()[4:-4] for shift in range(3)}
    return {text, quote(text, safe=""), *encoded}


def echo(request: Request) -> Reply:
    """An engine that answers with nothing it was not asked."""
    return {
        "/refused": Reply.json(500, {"error": {"message": "broke", "code": 500}}),
        "/redirected": Reply.redirect(f"http://127.0.0.1:9/?key={CANARY}"),
        "/reset": Reply((), "reset"),
        "/cut": Reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\nX-Key: " + CANARY.encode() + b"\r\n\r\n{"),
        "/garbage": Reply.raw(CANARY.encode() + b"\r\n\r\n"),
        "/encoded": Reply.json(200, {}, headers={"Content-Encoding": "gzip", "X-Key": CANARY}),
        "/large": Reply.json(200, CANARY * 100),
        "/input": Reply.json(400, {"error": {"message": f"bad: 'input': '{CANARY}'"}}),
    }[request.path]


ROUTES = ["/refused", "/redirected", "/reset", "/cut", "/garbage", "/encoded", "/large", "/input"]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("route", ROUTES)
async def test_nothing_secret_in_a_message(route: str, stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    """No message, traceback or log line holds a key, a header, a query or a prompt (battery 32's part)."""
    caplog.set_level(logging.DEBUG)
    config = HttpConfig(max_body=1000)
    path, body = f"{route}?key={CANARY}", {"prompt": CANARY}
    async with LoopbackEngine(echo) as engine, HttpClient(engine.url, config, api_key=KEY) as client:
        asking = client.open_stream(path, body, ANYTHING) if stream else client.request("POST", path, body)
        with pytest.raises(WorkerError) as caught:
            await asking
    error = caught.value
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(vars(error)) + caplog.text

    assert client.where in error.message
    assert [found for found in disguises(CANARY) if found in shown] == []


@pytest.mark.parametrize("text", ["a\nb", "a\r\n\r\nb", "a\u202eb", "a\x1b[2Jb", "a\u2028b", "\x00" * 1000])
async def test_an_engines_words_stay_in_their_line(text: str) -> None:
    """Whatever an engine says in an error, the message is one printable line (battery 36's part)."""
    reply = Reply.json(500, {"error": {"message": f"<{text}>"}})
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert error.message.isprintable()
    assert len(error.message) < 2000


async def test_a_refusal_whose_body_stalls_keeps_its_status() -> None:
    """The status says what matters: an error's body is waited for a second at most."""
    reply = Reply.raw(b"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\n{", hang=True)
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert (type(error), error.detail) == (PoolUnavailable, "overloaded")
