"""Answers whose framing is odd, forbidden or made to be read in two ways: each is told, and none is waited for."""

import asyncio

import pytest
from llama_orch_adapter_api import AdapterError, WorkerError
from llama_orch_adapter_testkit import Reply
from llama_orch_http_util import HttpClient, HttpConfig

from .clients import ANYTHING, BOTH_WAYS, Fail, answering  # type: ignore[import-not-found]  # test folders are no packages

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
BODY = b"data: 1\n\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"9\r\n" + BODY + b"\r\n0\r\n\r\n"

TAKEN = {
    "folded header": OK + b"X-A: a\r\n b\r\nContent-Length: 9\r\n\r\n" + BODY,
    "folded length": OK + b"Content-Length:\r\n 9\r\n\r\n" + BODY,
    "chunk extension": CHUNKED + b'9;a=b;c="d"\r\n' + BODY + b"\r\n0\r\n\r\n",
    "long chunk extension": CHUNKED + b"9;a=" + b"x" * 200_000 + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "trailer": CHUNKED + b"9\r\n" + BODY + b"\r\n0\r\nX-T: a\r\n\r\n",
    "identity": OK + b"Transfer-Encoding: Identity\r\nConnection: close\r\n\r\n" + BODY,
}


@pytest.mark.parametrize("raw", TAKEN.values(), ids=TAKEN)
async def test_odd_framing_that_is_understood(raw: bytes) -> None:
    """What old servers and careful proxies write is read for what it says."""
    async with answering(Reply((raw,), "close")) as engine:
        for whole in (True, False):
            async with HttpClient(engine.url, HttpConfig(sock_idle=5)) as client:  # with a connection of its own
                if whole:
                    assert (await client.request("POST", "/tasks", {})).body == BODY
                else:
                    async with client.stream("/tasks", {}, ANYTHING) as events:
                        assert [batch async for batch in events] == [[1]]


REFUSED = {
    "two lengths": OK + b"Content-Length: 9\r\nContent-Length: 5\r\n\r\n" + BODY,
    "one length twice": OK + b"Content-Length: 9\r\nContent-Length: 9\r\n\r\n" + BODY,
    "list of lengths": OK + b"Content-Length: 9, 9\r\n\r\n" + BODY,
    "length with a sign": OK + b"Content-Length: +9\r\n\r\n" + BODY,
    "length beyond all": OK + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY,
    "length and chunks": OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "chunks and length": OK + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n" + CHUNKS,
    "chunk size of another notation": CHUNKED + b"0x" + CHUNKS,
    "chunk size with a sign": CHUNKED + b"+" + CHUNKS,
    "no chunk size": CHUNKED + b"\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunk size too small": CHUNKED + b"5\r\n" + BODY + b"\r\n0\r\n\r\n",
    "chunks ended by LF": CHUNKED + CHUNKS.replace(b"\r\n", b"\n"),
    "trailers without end": CHUNKED + b"9\r\n" + BODY + b"\r\n0\r\n" + b"X-T: a\r\n" * 100_000,
    "headers without end": OK + b"X-A: a\r\n" * 100_000,
    "CR in a header": OK + b"X-A: a\rb\r\nContent-Length: 9\r\n\r\n" + BODY,
    "zero in a header": OK + b"X-A: a\0b\r\nContent-Length: 9\r\n\r\n" + BODY,
}
PACKED = {
    "packed": OK + b"Transfer-Encoding: gzip\r\n\r\n" + BODY,
    "packed, in chunks": OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS,
    "packed, in two fields": OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n\r\n" + CHUNKS,
    "chunks, packed": OK + b"Transfer-Encoding: chunked, gzip\r\n\r\n" + CHUNKS,
    "chunks in chunks": OK + b"Transfer-Encoding: chunked, chunked\r\n\r\n" + CHUNKS,
    "nearly chunks": OK + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS,
}


async def check(fail: Fail, raw: bytes, details: set[str]) -> WorkerError:
    """The failure, the same whether the connection then ends or stays open."""
    for then in ("close", "hang"):
        async with answering(Reply((raw,), then)) as engine, HttpClient(engine.url) as client:  # type: ignore[arg-type]
            async with asyncio.timeout(5):
                error: WorkerError = await fail(client)

            assert (type(error), error.detail in details) == (AdapterError, True), error
    return error


async def events_of(client: HttpClient) -> WorkerError:
    """The failure of a stream, in its head or later."""
    with pytest.raises(WorkerError) as caught:
        async with client.stream("/tasks", {}, ANYTHING) as events:
            async for _ in events:
                pass
    return caught.value


@pytest.mark.parametrize("raw", REFUSED.values(), ids=REFUSED)
async def test_framing_that_is_no_http(raw: bytes) -> None:
    """What could be read in two ways, or never ends, is not understood: nothing of it is taken for an answer."""
    error = await check(events_of, raw, {"decode"})

    assert error.message.startswith("the answer is not HTTP (")


@BOTH_WAYS
@pytest.mark.parametrize("raw", PACKED.values(), ids=PACKED)
async def test_packed_for_the_transfer(raw: bytes, fail: Fail) -> None:
    """A body that was packed on its way is refused as one that was packed before it (RFC 9112 §6.1)."""
    error = await check(fail, raw, {"encoding", "decode"})

    assert "which was not asked for" in error.message or error.message.startswith("the answer is not HTTP (")
