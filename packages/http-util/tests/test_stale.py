"""Kept connections that turn out to be closed."""

import asyncio

import pytest
from llama_orch_adapter_api import WorkerError, WorkerReset
from llama_orch_adapter_testkit import LoopbackEngine, Reply, Request
from llama_orch_http_util import HttpClient
from llama_orch_http_util._http1 import _DISTRUST


def resets_what_was_kept(request: Request) -> Reply:
    """Each connection carries one answer."""
    return Reply((), "reset") if request.number else Reply.json(200, {})


async def test_a_repeat_meets_no_second_stale_connection():
    """Battery 26, ORCH-3610: after a stale connection the next request has a new one, whatever else is kept."""
    async with LoopbackEngine(resets_what_was_kept) as engine, HttpClient(engine.url) as client:
        await asyncio.gather(*(client.request("POST", "/", {}) for _ in range(3)))
        with pytest.raises(WorkerReset, match="the kept connection was closed") as raised:
            await client.request("POST", "/", {})
        repeated = [await client.request("POST", "/", {}) for _ in range(3)]

    assert raised.value.stale_connection
    assert [response.status for response in repeated] == [200, 200, 200]
    assert [request.number for request in engine.requests] == [0, 0, 0, 1, 0, 0, 0]


async def test_a_look_meets_no_second_stale_connection():
    """Battery 26: with three stale connections kept, a GET is answered: a sound engine is not told to be down."""
    async with LoopbackEngine(resets_what_was_kept) as engine, HttpClient(engine.url) as client:
        await asyncio.gather(*(client.request("GET", "/health") for _ in range(3)))
        looked = await client.request("GET", "/health")

    assert looked.status == 200
    assert [request.number for request in engine.requests] == [0, 0, 0, 1, 1, 0]


async def test_connections_are_kept_again_after_a_while():
    """Half a second after a stale connection, requests share connections as before."""
    answers = iter([Reply.json(200, {}), Reply((), "reset"), *[Reply.json(200, {})] * 3])
    async with LoopbackEngine(lambda _: next(answers)) as engine, HttpClient(engine.url) as client:
        await client.request("POST", "/", {})
        with pytest.raises(WorkerReset):
            await client.request("POST", "/", {})
        await client.request("POST", "/", {})
        await asyncio.sleep(_DISTRUST)
        await client.request("POST", "/", {})
        await client.request("POST", "/", {})

        assert [request.number for request in engine.requests] == [0, 1, 0, 0, 1]
        assert engine.connections_made == 3


@pytest.mark.parametrize(
    "unasked",
    [
        b'HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n"evil"',
        b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["answer", "time is up"],
)
async def test_what_comes_unasked_is_nobodys_answer(unasked: bytes):
    """Battery 26, ORCH-3610: a kept connection on which something came while nobody asked is stale, and let go of."""
    sent, connections = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        if connections == 1:
            await asyncio.sleep(0.05)
            writer.write(unasked)
            sent.set()
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, HttpClient(f"http://{host}:{port}") as client:
        await client.request("GET", "/health")
        await sent.wait()
        await asyncio.sleep(0.05)
        with pytest.raises(WorkerReset) as raised:
            await client.request("POST", "/mine", {})
        mine = await client.request("POST", "/mine", {})

    assert raised.value.stale_connection
    assert mine.body == b"{}"
    assert connections == 2


async def test_half_a_head_is_nobodys_answer():
    """Battery 26, ORCH-3610: of an answer that comes unasked, half before a request, nothing is taken."""
    sent = asyncio.Event()
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 6"

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        if not sent.is_set():
            await asyncio.sleep(0.05)
            writer.write(head[:20])
            sent.set()
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head[20:] + b'\r\n\r\n"evil"')
        await reader.read()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    async with server, HttpClient(f"http://{host}:{port}") as client:
        await client.request("GET", "/health")
        await sent.wait()
        await asyncio.sleep(0.05)
        with pytest.raises(WorkerError):
            await client.request("POST", "/mine", {})
        mine = await client.request("POST", "/mine", {})

    assert mine.body == b"{}"
