"""A stream of HTTP/2 that is dropped without being closed: its peer is told, and nothing of it is kept (battery 12)."""

import asyncio
import gc
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from llama_orch_http_util import HttpClient
from llama_orch_http_util._http2_stream import Exchange

from .http2_far_end import RAW, Far, FarEnd, drained, pools, trusting, until  # type: ignore[import-not-found]  # test folders are no packages
from .http2_in_memory import HEAD, greeted  # type: ignore[import-not-found]  # as above


async def script(stream: Far) -> None:
    """Two events at once; no more comes of a stream that is to be left."""
    stream.head()
    await stream.send(b"data: 1\n\ndata: 2\n\n")
    if stream.path == "/left":
        await asyncio.Event().wait()
    await stream.send(b"data: [DONE]\n\n", end=True)


@pytest.mark.parametrize("read", [False, True])
async def test_a_forgotten_stream_is_reset(read: bool, tmp_path: Path) -> None:
    """A stream that nobody holds any more is reset, whether it was ever read or not; its connection lives on."""
    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        events = await client.open_stream("/left", {}, RAW)
        if read:
            await anext(events)
        (pool,) = pools()
        assert pool.open_streams == 1
        del events
        await far.asked[0].reset.wait()

        assert far.asked[0].code == ErrorCodes.CANCEL
        assert pool.open_streams == 0
        assert await drained(client) == [1, 2]
        assert len(far.connections) == 1


async def test_a_thousand_forgotten_streams(tmp_path: Path) -> None:
    """A thousand streams, dropped in turn, leave no exchange and no stream behind."""
    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        for _ in range(1000):
            await client.open_stream("/left", {}, RAW)
        (pool,) = pools()
        await until(lambda: not pool.open_streams)
        gc.collect()

        assert not [each for each in gc.get_objects() if isinstance(each, Exchange)]


async def test_a_stream_that_is_waited_for_is_held(tmp_path: Path) -> None:
    """Whoever waits for the next event holds the stream, though nobody else does."""
    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        events = await client.open_stream("/left", {}, RAW)
        await anext(events)
        waiting = asyncio.create_task(anext(events))
        del events
        await asyncio.sleep(0)
        gc.collect()
        await asyncio.sleep(0.05)

        assert not far.asked[0].reset.is_set()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        del waiting
        await far.asked[0].reset.wait()


@pytest.mark.parametrize("end", ["closed", "finished"])
async def test_an_answer_that_is_over_tells_nothing(end: str) -> None:
    """To forget an answer that was closed, or had come to its end, sends nothing."""
    connection, wire, server = greeted()
    exchange = connection.open(HEAD, body=False, idle=60)
    await asyncio.sleep(0)
    server.receive_data(bytes(wire.written))
    server.send_headers(exchange.number, [(":status", "200")], end_stream=end == "finished")
    connection.data_received(server.data_to_send())
    answer = exchange.answer()
    if end == "closed":
        answer.close()
    await asyncio.sleep(0)
    before = len(wire.written)
    del answer
    await asyncio.sleep(0)

    assert len(wire.written) == before
    connection.close()


def test_a_forgotten_stream_outlives_its_loop() -> None:
    """Nothing is said of a stream that is forgotten after its loop was closed."""

    async def main() -> object:
        connection, _, _ = greeted()
        return connection.open(HEAD, body=False, idle=60).answer()

    answer = asyncio.run(main())
    del answer
    gc.collect()
