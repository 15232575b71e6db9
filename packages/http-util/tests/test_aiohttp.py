"""What aiohttp does that we lean on or stay away from, so that a change upstream is seen (battery 21)."""

import asyncio
import inspect
import secrets
from pathlib import Path

import aiohttp
import pytest
from aiohttp import StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.connector import Connection
from aiohttp.http import HttpProcessingError
from aiohttp.streams import EmptyStreamReader
from llama_orch_adapter_testkit import LoopbackEngine, Reply, Request

from .clients import answering, written  # type: ignore[import-not-found]  # test folders are no packages

CANARY = secrets.token_hex(16)


async def a_reader() -> StreamReader:
    loop = asyncio.get_running_loop()
    return StreamReader(BaseProtocol(loop), 2**16, loop=loop)


async def test_a_reader_has_the_parts_that_are_waited_on() -> None:
    """`_buffer` holds what came, `_waiter` is woken by what comes, `_read_nowait` takes it."""
    reader = await a_reader()
    waiter = asyncio.get_running_loop().create_future()
    reader._waiter = waiter
    assert not reader._buffer

    reader.feed_data(b"a")
    reader.feed_data(b"b")
    assert waiter.done()
    assert reader._waiter is None
    assert reader._buffer
    assert reader._read_nowait(-1) == b"ab"
    assert not reader._buffer
    reader.feed_eof()
    assert reader.is_eof()
    assert reader.at_eof()


async def test_a_readers_buffer_stays_the_same_object() -> None:
    """`_buffer` is looked at through one reference to it, so it is never replaced."""
    reader = await a_reader()
    buffer = reader._buffer
    reader.feed_data(b"ab")
    reader._read_nowait(-1)
    reader.feed_data(b"c")

    assert reader._buffer is buffer


async def test_a_waiter_is_told_of_a_failure() -> None:
    """`set_exception` reaches who waits, and what came before it can still be taken."""
    reader = await a_reader()
    reader.feed_data(b"a")
    reader._waiter = waiter = asyncio.get_running_loop().create_future()
    reader.set_exception(aiohttp.ClientPayloadError())

    assert isinstance(waiter.exception(), aiohttp.ClientPayloadError)
    assert isinstance(reader.exception(), aiohttp.ClientPayloadError)
    assert reader._read_nowait(-1) == b"a"


def test_the_names_that_are_used() -> None:
    """Each is where we take it from."""
    used = {"_buffer", "_waiter", "_protocol", "_size", "_high_water", "_high_water_chunks", "_http_chunk_splits"}
    assert used <= set(StreamReader.__slots__)
    assert {"begin_http_chunk_receiving", "end_http_chunk_receiving", "feed_data"} <= set(vars(StreamReader))
    assert "_reading_paused" in BaseProtocol.__slots__
    assert all(hasattr(StreamReader, name) for name in ("_read_nowait", "on_eof", "is_eof", "at_eof", "set_exception"))
    assert all(hasattr(ResponseHandler, name) for name in ("closed", "force_close", "exception"))
    assert hasattr(ResponseHandler, "start_timeout")
    assert inspect.getsource(aiohttp.ClientResponse.start).count("if self._continue is not None") == 1
    assert all(hasattr(Connection, name) for name in ("protocol", "transport"))
    assert inspect.iscoroutinefunction(aiohttp.ClientResponse.start)
    assert not hasattr(EmptyStreamReader(), "_buffer")
    assert not issubclass(HttpProcessingError, aiohttp.ClientError)


async def test_what_came_unasked_waits() -> None:
    """`_tail` holds what came before anybody asked, `_buffer` the answers that nobody took; `_protocol` has both."""
    handler = ResponseHandler(asyncio.get_running_loop())
    assert (handler.read_timeout, handler._read_timeout_handle) == (None, None)
    handler.data_received(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert handler._tail

    handler.set_response_params()
    assert not handler._tail
    assert len(handler._buffer) == 1
    assert "self._protocol = connection.protocol" in inspect.getsource(aiohttp.ClientResponse.start)


async def test_a_redirect_posts_again() -> None:
    """Left to itself it follows a 307 to another origin with a POST's body and headers."""
    async with answering(Reply.json(200, {})) as other:
        there = Reply.raw(f"HTTP/1.1 307 Go\r\nLocation: {other.url}/\r\nContent-Length: 0\r\n\r\n".encode())
        async with answering(there) as engine, aiohttp.ClientSession() as session:
            headers = {"X-Api-Key": CANARY}
            async with session.post(engine.url, data=b"a", headers=headers, allow_redirects=False) as response:
                assert (response.status, other.requests) == (307, [])
            async with session.post(engine.url, data=b"a", headers=headers) as response:
                assert response.status == 200

        assert (other.requests[0].body, other.requests[0].headers["x-api-key"]) == (b"a", CANARY)


async def test_the_101st_request_waits() -> None:
    """By default a session has a hundred connections: whoever comes next waits, in silence."""
    async with answering(Reply.silence()) as engine, aiohttp.ClientSession() as session:
        asking = [asyncio.create_task(session.get(engine.url)) for _ in range(101)]
        while len(engine.requests) < 100:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        seen = len(engine.requests)
        for each in asking:
            each.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    assert seen == 100


async def test_a_long_stream_has_five_minutes() -> None:
    """By default whatever takes longer than 300 s altogether is ended."""
    async with aiohttp.ClientSession() as session:
        assert session.timeout.total == 300


async def test_an_end_without_a_length_is_no_error() -> None:
    """A body that is delimited by the close of its connection may be cut without anybody noticing."""
    async with answering(written("HTTP/1.1 200 OK", b"data: 1")) as engine, aiohttp.ClientSession() as session:
        async with session.get(engine.url) as response:
            assert await response.read() == b"data: 1"


async def test_what_an_error_holds() -> None:
    """The `repr` of its error shows the request's headers, and the `str` its query."""
    async with answering(Reply.json(500, {})) as engine, aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientResponseError) as caught:
            await session.get(f"{engine.url}/?q=asked", headers={"X-Api-Key": CANARY}, raise_for_status=True)

    assert CANARY in repr(caught.value)
    assert "q=asked" in str(caught.value)


async def test_trusting_the_environment_sends_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With `trust_env` a netrc file's credentials go to the engine."""
    netrc = tmp_path / "netrc"
    netrc.write_text(f"default login user password {CANARY}\n")
    monkeypatch.setenv("NETRC", str(netrc))
    async with answering(Reply.json(200, {})) as engine:
        for trusts in (True, False):
            async with aiohttp.ClientSession(trust_env=trusts) as session, session.get(engine.url):
                pass

        assert ["authorization" in request.headers for request in engine.requests] == [True, False]


@pytest.mark.parametrize(("method", "sent"), [("GET", 2), ("POST", 1)])
async def test_who_is_repeated(method: str, sent: int) -> None:
    """A GET on a kept connection that was reset is sent again, once; a POST is not."""

    def resets_what_was_kept(request: Request) -> Reply:
        return Reply((), "reset") if request.number else Reply.json(200, {})

    async with LoopbackEngine(resets_what_was_kept) as engine, aiohttp.ClientSession() as session:
        async with session.get(engine.url):
            pass
        try:
            async with session.request(method, engine.url):
                pass
        except (aiohttp.ClientOSError, aiohttp.ServerDisconnectedError):
            assert method == "POST"

        assert len(engine.requests) == 1 + sent
