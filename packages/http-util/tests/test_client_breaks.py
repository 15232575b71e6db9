"""Connections that are not made, break, or answer in something that is not HTTP, and how each is told."""

import asyncio
import gc
import socket

import pytest
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerReset
from llama_orch_adapter_testkit import LoopbackEngine, Reply
from llama_orch_http_util import HttpClient

from .clients import ANYTHING, BOTH_WAYS, GET, POST, Fail, answering, failure, stream_failure, written  # type: ignore[import-not-found]  # test folders are no packages


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


@pytest.mark.parametrize("reply", [Reply.silence(), written("HTTP/1.1 200 OK\nContent-Length: 9", b"{", hang=True)])
async def test_closed_by_ourselves(reply: Reply) -> None:
    """A client that is closed while an answer is awaited says so: no breaker counts it."""
    async with answering(reply) as engine:
        client = HttpClient(engine.url)
        asking = asyncio.create_task(client.request("POST", "/tasks", {}))
        await engine.request()
        await asyncio.sleep(0.01)
        await client.aclose()
        with pytest.raises(WorkerReset, match="this client was closed") as caught:
            await asking

        assert (caught.value.detail, caught.value.engine_fault, caught.value.retriable) == ("drained", False, True)


async def test_a_stream_closed_by_ourselves() -> None:
    """So does a client that is closed while a stream is read."""
    async with answering(Reply.sse([{"n": 0}], hang=True)) as engine:
        client = HttpClient(engine.url)
        async with client.stream("/tasks", {}, ANYTHING) as events:
            assert await anext(events) == [{"n": 0}]
            await client.aclose()
            with pytest.raises(WorkerReset, match="this client was closed") as caught:
                await anext(events)

        assert (caught.value.detail, caught.value.phase, caught.value.answered) == ("drained", "decode", True)
