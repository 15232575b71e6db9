"""What comes of a body is taken at once, within aiohttp's bounds."""

import asyncio
from collections.abc import Callable
from functools import partial

import aiohttp
import pytest
from aiohttp import StreamReader
from aiohttp.client_proto import ResponseHandler
from aiohttp.streams import EMPTY_PAYLOAD, EmptyStreamReader
from llama_orch_http_util import HttpClient
from llama_orch_http_util._body import Body
from llama_orch_http_util._session import READ_BUFFER

from .clients import answering, written  # type: ignore[import-not-found]  # test folders are no packages

HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
Take = Callable[[], bytes]


def chunked(*parts: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts)


async def heard(data: bytes) -> tuple[ResponseHandler, StreamReader]:
    """aiohttp's end of a connection on which this came after a head, and its reader."""
    handler = ResponseHandler(asyncio.get_running_loop())
    handler.set_response_params(read_bufsize=READ_BUFFER)
    handler.data_received(HEAD + data)
    _, reader = await handler.read()
    return handler, reader


def as_it_is(reader: StreamReader) -> Take:
    return partial(reader._read_nowait, -1)


def ours(reader: StreamReader) -> Take:
    body = Body.of(reader)
    return as_it_is(reader) if body is None else body.take_all


@pytest.mark.parametrize("early", [False, True], ids=["after the head", "with the head"])
@pytest.mark.parametrize(
    ("size", "parts", "pauses"),
    [
        (1, 1, False),
        (240, 2, False),
        (4096, 30, False),
        (4096, 100, True),
        (200_000, 1, True),
        (200_000, 3, True),
        (30, 4000, False),
        (1, 4097, True),
        (1, 9000, True),
    ],
)
async def test_what_comes_is_taken_as_one(*, size: int, parts: int, pauses: bool, early: bool) -> None:
    """All comes out, and reading pauses and goes on, as where aiohttp hands out part by part."""
    bodies = [bytes([number % 256]) * size for number in range(parts)]
    later = ((b"c", b"d"), False), ((b"e",) * 5000, True), ((b"f" * 200_000, b"g"), True), ((b"h", b"i"), False)
    told = []
    for way in (as_it_is, ours):
        handler, reader = await heard(chunked(*bodies) if early else b"")
        take = way(reader)
        seen = []
        for number, (sent, stops) in enumerate([(bodies, pauses), *later]):
            if number or not early:
                handler.data_received(chunked(*sent))
            assert handler._reading_paused is stops
            taken = b""
            while reader._buffer:  # again, for what the parser held back while reading was paused
                taken += take()
            assert not handler._reading_paused
            seen.append(taken)
        handler.data_received(b"0\r\n\r\n")
        told.append((seen, reader._size, reader.at_eof()))

    assert told == [([b"".join(bodies), *(b"".join(sent) for sent, _ in later)], 0, True)] * 2


async def test_what_wakes_its_reader_counts() -> None:
    """A part that woke who waits pauses nothing by itself, but counts for the next one, taken or not."""
    handler, reader = await heard(b"")
    body = Body.of(reader)
    assert body is not None
    body._waiter = waiter = asyncio.get_running_loop().create_future()
    handler.data_received(chunked(b"a" * 2 * READ_BUFFER))
    assert waiter.done()
    assert not handler._reading_paused

    handler.data_received(chunked(b"b"))
    assert handler._reading_paused
    assert body.take_all() == b"a" * 2 * READ_BUFFER + b"b"
    assert not handler._reading_paused


async def test_who_stopped_waiting_is_not_woken() -> None:
    """A part that comes when a reader was cancelled waits for the next one."""
    handler, reader = await heard(b"")
    body = Body.of(reader)
    assert body is not None
    body._waiter = waiter = asyncio.get_running_loop().create_future()
    waiter.cancel()
    handler.data_received(chunked(b"a"))

    assert body.exception() is None
    assert body.take_all() == b"a"


async def test_nothing_is_no_part() -> None:
    """A parser may feed nothing: nobody is woken to an empty part, which would be the end of the body."""
    _, reader = await heard(b"")
    body = Body.of(reader)
    assert body is not None
    body._waiter = waiter = asyncio.get_running_loop().create_future()

    assert body.feed_data(b"") is False
    assert not waiter.done()
    assert not body._buffer


async def test_a_body_that_fails_gives_what_came() -> None:
    """What had come before a failure is taken nevertheless."""
    handler, reader = await heard(b"")
    body = Body.of(reader)
    assert body is not None
    handler.data_received(chunked(b"a", b"b"))
    body.set_exception(aiohttp.ClientPayloadError())

    assert body.take_all() == b"ab"


async def test_who_has_no_body_shares_aiohttps() -> None:
    """The one empty reader of all answers without a body stays as it is."""
    async with answering(written("HTTP/1.1 204 No Content")) as engine, HttpClient(engine.url) as client:
        assert (await client.request("GET", "/health")).body == b""

    assert type(EMPTY_PAYLOAD) is EmptyStreamReader
