"""What a client may send, byte by byte over a socket."""

import asyncio
import gzip
import json
import logging
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from llama_orch_adapter_host import AdapterHost
from llama_orch_orchestratord import create_app
from llama_orch_orchestratord._config import ServerConfig, ServerSettings
from llama_orch_orchestratord._connection import HEAD_PATIENCE, HEADERS
from llama_orch_orchestratord._limits import BODY_PATIENCE
from llama_orch_orchestratord._server import listening

from .serving import Engine, plugins_of, virtual, words  # type: ignore[import-not-found]  # test folders are no packages

BODY = b'{"pool_id":"chat","prompt":"hello"}'
JSON = b"Content-Type: application/json\r\n"


@asynccontextmanager
async def limited(app: web.Application | None = None) -> AsyncIterator[int]:
    """An orchestrator with the smallest limits there may be; gives its port."""
    server = ServerSettings(listen="127.0.0.1:0", max_body=1024, max_header=1024)
    if app is None:
        host = AdapterHost(plugins=plugins_of(Engine(words())))
        host.bind("chat", "words", {})
        app = create_app(host, ServerConfig(server=server))
    async with listening(app, server) as url:
        yield int(url.rpartition(":")[2])


async def talk(port: int, *pieces: bytes) -> tuple[int, dict[str, object]]:
    """Send bytes and read to the end of the connection: the status and the body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for piece in pieces:
        writer.write(piece)
        await asyncio.sleep(0)
    answer = await reader.read()
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def post(body: bytes, *headers: bytes) -> bytes:
    lines = b"".join(line + b"\r\n" for line in (b"Host: 127.0.0.1", b"Connection: close", *headers))
    return b"POST /v1/tasks HTTP/1.1\r\n" + lines + JSON + b"Content-Length: %d\r\n\r\n" % len(body) + body


def chunked(*chunks: bytes) -> bytes:
    head = b"POST /v1/tasks HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
    return head + JSON + b"\r\n" + b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in (*chunks, b""))


@pytest.mark.parametrize("extra", [0, 1])
async def test_a_body_has_its_bound(extra: int):
    """A body of exactly `max_body` bytes is read; one byte more is 413, by its length or in chunks."""
    body = BODY.ljust(1024 + extra)
    async with limited() as port:
        answers = [await talk(port, post(body)), await talk(port, chunked(body[:700], body[700:]))]

    for status, answer in answers:
        assert status == (413 if extra else 202), answer
        assert "error" not in answer.get("kind", "") or "more than 1024 bytes" in str(answer["message"])


@pytest.mark.parametrize(
    ("length", "headers", "answers"),
    [
        (len(BODY), (b"Host: 127.0.0.1",), [100, 202]),
        (len(BODY), (b"Host: other.example",), [403]),
        (1025, (b"Host: 127.0.0.1",), [413]),
    ],
    ids=["taken", "not let in", "too large"],
)
async def test_a_body_is_asked_for_when_its_sender_is_let_in(
    length: int, headers: tuple[bytes, ...], answers: list[int]
):
    """A client that waits with its body (`Expect`) is told first what would become of it."""
    head = b"\r\n".join((b"POST /v1/tasks HTTP/1.1", b"Expect: 100-continue", b"Connection: close", *headers))
    async with limited() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head + b"\r\n" + JSON + b"Content-Length: %d\r\n\r\n" % length)
        seen = [int((await reader.readuntil(b"\r\n\r\n")).split()[1])]
        if seen == [100]:
            writer.write(BODY)
            seen.append(int((await reader.read()).split()[1]))
        writer.close()

    assert seen == answers


async def test_what_else_is_expected_is_passed_over():
    """An `Expect` that is not 100-continue changes nothing, and is not quoted back."""
    async with limited() as port:
        status, answer = await talk(port, post(BODY, b"Expect: <b>"))

    assert status == 202, answer


@pytest.mark.parametrize(
    "head",
    [
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * 1100 + b"\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"".join(b"X-%d: a\r\n" % i for i in range(HEADERS + 1)) + b"\r\n",
        b"GET /" + b"a" * 1100 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
    ids=["a long line", "many lines", "a long path"],
)
async def test_a_head_has_its_bound(head: bytes):
    """A head that is too large is 431, with the mend, and ends the connection."""
    async with limited() as port:
        status, answer = await talk(port, head)

    assert status == 431
    assert answer["code"] == "ADAPTER"
    assert "server.max_header" in str(answer["message"])


@pytest.mark.parametrize("noise", [b"\x16\x03\x01\x00\xa5\r\n\r\n", b"hello\r\n\r\n", b"GET / HTTP/9\r\n\r\n"])
async def test_what_is_no_request_is_told_so(noise: bytes):
    """TLS, noise and other protocols get 400 and a sentence."""
    async with limited() as port:
        status, answer = await talk(port, noise)

    assert status == 400
    assert "no request of HTTP/1.1" in str(answer["message"])


@pytest.mark.parametrize("path", [b"/healthz", b"/", b"/nowhere", b"\x16"], ids=["answer", "file", "404", "noise"])
async def test_no_answer_tells_versions(path: bytes):
    """Whatever is answered names the server, and neither its version nor what it is made of."""
    async with limited() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET " + path + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        head = (await reader.read()).partition(b"\r\n\r\n")[0]
        writer.close()

    assert [line for line in head.split(b"\r\n") if line.startswith(b"Server:")] == [b"Server: orchestratord"]


async def test_what_a_client_sends_amiss_is_neither_logged_nor_answered(caplog: pytest.LogCaptureFixture):
    """Battery 32: a token in a head that is too large comes up nowhere, and no client fills the log."""
    canary = secrets.token_hex(16)
    head = b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer " + canary.encode() * 99 + b"\r\n\r\n"
    with caplog.at_level(logging.DEBUG):
        async with limited() as port:
            answers = [await talk(port, head) for _ in range(3)]
    ours = [each for each in caplog.records if each.name.startswith(("aiohttp", "llama_orch_orchestratord"))]

    assert canary not in str(answers)
    assert canary not in caplog.text
    assert ours == []


async def test_an_encoded_body_is_refused():
    """A bomb is not unpacked: any Content-Encoding but identity is 415 before the body is read."""
    bomb = gzip.compress(bytes(200_000))
    async with limited() as port:
        refused, answer = await talk(port, post(bomb, b"Content-Encoding: gzip"))
        taken, _ = await talk(port, post(BODY, b"Content-Encoding: identity"))

    assert (refused, taken) == (415, 202)
    assert "without Content-Encoding" in str(answer["message"])


@virtual
async def test_a_body_that_does_not_come() -> None:
    """A client that sends half a body is told so after a while, and holds nothing."""
    async with limited() as port:
        began = asyncio.get_running_loop().time()
        status, _ = await talk(port, post(BODY)[:-5])
        took = asyncio.get_running_loop().time() - began

    assert status == 408
    assert BODY_PATIENCE <= took < BODY_PATIENCE + 15


@virtual
async def test_a_head_that_does_not_come() -> None:
    """A connection on which no request comes is closed; one that had its request is not."""
    loop = asyncio.get_running_loop()
    async with limited() as port:
        began = loop.time()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /healthz HTTP/1.1\r\nHos")
        silent = await reader.read()
        took = loop.time() - began
        writer.close()

        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):
            writer.write(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert (await reader.readline()).startswith(b"HTTP/1.1 200")
            assert await reader.readuntil(b'{"status":"ok"}')
            await asyncio.sleep(HEAD_PATIENCE * 2)
        writer.close()

    assert silent == b""
    assert HEAD_PATIENCE <= took < HEAD_PATIENCE + 1


async def test_a_handler_that_fails_is_told_and_logged(caplog: pytest.LogCaptureFixture):
    """500 says nothing of what broke; the log does, with the traceback."""

    async def fails(_: web.Request) -> web.Response:
        raise RuntimeError("of the inside")

    app = web.Application()
    app.router.add_get("/", fails)
    async with limited(app) as port:
        status, answer = await talk(port, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")

    assert (status, answer["code"]) == (500, "INTERNAL")
    assert "of the inside" not in str(answer)
    assert "RuntimeError: of the inside" in caplog.text
