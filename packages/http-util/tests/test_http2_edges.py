"""The edges of a connection: its last stream number, a full socket, a stream closed twice, a peer that allows none."""

import asyncio
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from h2.events import ConnectionTerminated, DataReceived, WindowUpdated
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes
from hpack import Encoder
from hyperframe.frame import GoAwayFrame
from llama_orch_adapter_api import PoolUnavailable, WorkerReset
from llama_orch_http_util import HttpClient
from llama_orch_http_util._setbacks import Setback

from .http2_far_end import Far, FarEnd, silent, trusting  # type: ignore[import-not-found]  # test folders are no packages
from .http2_in_memory import HEAD, greeted  # type: ignore[import-not-found]  # as above


async def test_the_last_number() -> None:
    """A connection whose numbers are used up takes no more streams, and is closed when the last one has ended."""
    connection, wire, server = greeted()
    connection._wire._h2.highest_outbound_stream_id = 2**31 - 3
    exchange = connection.open(HEAD, body=False, idle=60)
    await asyncio.sleep(0)

    assert exchange.number == 2**31 - 1
    assert not connection.can_open
    server.receive_data(bytes(wire.written))
    server.send_headers(exchange.number, [(":status", "204")], end_stream=True)
    connection.data_received(server.data_to_send())
    await exchange.head()
    assert await exchange.read() == b""
    assert wire.aborted


async def test_a_head_that_is_refused() -> None:
    """After a head that h2 refuses nothing is sent with what it remembers of it; streams that are open go on."""
    connection, wire, server = greeted()
    exchange = connection.open(HEAD, body=False, idle=60)
    with pytest.raises(ProtocolError):
        connection.open([("x-remembered", "1"), *HEAD], body=False, idle=60)
    await asyncio.sleep(0)

    assert not connection.can_open
    server.receive_data(bytes(wire.written))
    server.send_headers(exchange.number, [(":status", "200")], end_stream=True)
    connection.data_received(server.data_to_send())
    assert await exchange.read() == b""
    assert wire.aborted


async def test_a_full_socket() -> None:
    """While the socket takes no more, a body waits; when it does again, the rest is sent."""
    connection, wire, server = greeted()
    exchange = connection.open(HEAD, body=True, idle=60)
    connection.pause_writing()
    uploading = asyncio.create_task(exchange.upload(b"x" * 40_000))
    await asyncio.sleep(0.01)
    before = len(wire.written)
    connection.resume_writing()
    await uploading
    await asyncio.sleep(0)

    assert before < 1000
    heard = server.receive_data(bytes(wire.written))
    assert sum(len(event.data) for event in heard if isinstance(event, DataReceived)) == 40_000
    connection.close()


async def test_a_peer_with_room_for_all() -> None:
    """However much a peer would take, a turn of the loop sends so much and no more, of all bodies together."""
    connection, wire, server = greeted()
    server.update_settings({SettingCodes.INITIAL_WINDOW_SIZE: 2**31 - 1, SettingCodes.MAX_FRAME_SIZE: 2**24 - 1})
    server.increment_flow_control_window(2**31 - 1 - 65_535)
    connection.data_received(server.data_to_send())
    exchanges = [connection.open(HEAD, body=True, idle=60) for _ in range(3)]
    uploading = [asyncio.create_task(exchange.upload(b"x" * (4 << 20))) for exchange in exchanges]
    seen, most, turns = 0, 0, 0
    while not all(task.done() for task in uploading) or seen < 12 << 20:
        await asyncio.sleep(0)
        most, seen, turns = max(most, len(wire.written) - seen), len(wire.written), turns + 1

    print(f"3 bodies of 4 MiB were sent in {turns} turns of the loop, at most {most} bytes in one")
    assert most < 260 * 1024
    connection.close()


async def test_a_stream_closed_twice() -> None:
    """A stream may be closed again; the peer is told once."""
    connection, wire, _ = greeted()
    exchange = connection.open(HEAD, body=False, idle=60)
    for _ in range(2):
        exchange.close()
    await asyncio.sleep(0)

    assert wire.written.count(b"\0\0\4\3\0\0\0\0\1\0\0\0\x08") == 1  # RST_STREAM, CANCEL
    connection.close()


async def test_what_still_comes_on_a_stream_that_was_left() -> None:
    """What was under way when a stream was left is thrown away in silence; its room on the connection comes back."""
    connection, wire, server = greeted()
    kept, left = (connection.open(HEAD, body=False, idle=60) for _ in range(2))
    await asyncio.sleep(0)
    server.receive_data(bytes(wire.written))
    for exchange in (kept, left):
        server.send_headers(exchange.number, [(":status", "200")])
    connection.data_received(server.data_to_send())
    left.close()
    await asyncio.sleep(0)
    wire.written.clear()
    for _ in range(1100):  # more than the stream may bring, and more than all together
        connection.data_received(b"\0\x40\0\0\0\0\0\0\3" + b"x" * 16_384)

    updates = [event.delta for event in server.receive_data(bytes(wire.written)) if isinstance(event, WindowUpdated)]
    assert sum(updates) + connection._wire._direct_owed == 1100 * 16_384
    assert len(wire.written) == 13 * len(updates)
    server.end_stream(kept.number)
    connection.data_received(server.data_to_send())
    assert kept.ended
    connection.close()


async def test_nothing_follows_a_goodbye() -> None:
    """The last frame of a connection is its GOAWAY, whatever else waited to be sent."""
    connection, wire, server = greeted()
    exchange = connection.open(HEAD, body=False, idle=60)
    await asyncio.sleep(0)
    server.receive_data(bytes(wire.written))
    server.send_headers(exchange.number, [(":status", "200")])
    server.send_data(exchange.number, b"x" * 16_384)
    server.send_data(exchange.number, b"x" * 16_384)
    connection.data_received(server.data_to_send())
    wire.written.clear()
    await exchange.read()
    connection.close()

    heard = server.receive_data(bytes(wire.written))
    assert [type(event) for event in heard] == [WindowUpdated, ConnectionTerminated]


async def test_an_end_with_a_1xx_head() -> None:
    """An answer that ends with a head which is no answer's is a breach, and nobody waits for ever."""
    connection, wire, _ = greeted()
    exchange = connection.open(HEAD, body=False, idle=60)
    block = Encoder().encode([(":status", "103")])
    connection.data_received(len(block).to_bytes(3, "big") + b"\1\5\0\0\0\1" + block)

    with pytest.raises(Setback) as caught:
        await exchange.head()
    assert caught.value.reason == "violated"
    assert wire.aborted


async def test_many_streams_that_were_left() -> None:
    """Of the streams that were left so many are remembered; h2 answers for the others."""
    connection, wire, _ = greeted()
    for _ in range(1100):
        connection.open(HEAD, body=False, idle=60).close()
        await asyncio.sleep(0)
    for number in (1, 2 * 1100 - 1):
        wire.written.clear()
        connection.data_received(b"\0\0\1\0\0" + number.to_bytes(4, "big") + b"x")
        assert bool(wire.written) == (number == 1)
    assert len(connection._wire._left) == 1024
    assert not wire.aborted
    connection.close()


async def test_a_connection_that_is_used_for_long() -> None:
    """Of streams that ended so many are remembered, and no more: a connection does not grow with its requests."""
    asyncio.get_running_loop().set_debug(False)  # which would make it three times as long
    connection, _, _ = greeted()
    for _ in range(8500):
        exchange = connection.open(HEAD, body=False, idle=60)
        connection.data_received(b"\0\0\1\1\5" + exchange.number.to_bytes(4, "big") + b"\x89")  # :status 204
        assert exchange.ended
    await asyncio.sleep(0)

    assert len(connection._wire._h2._closed_streams) <= 8192
    assert len(connection._wire._h2.streams) <= 1
    connection.close()


@pytest.mark.parametrize(
    ("code", "reason"), [(ErrorCodes.NO_ERROR, "useless"), (ErrorCodes.PROTOCOL_ERROR, "rejected")]
)
async def test_a_goaway_before_any_stream(code: ErrorCodes, reason: str) -> None:
    """A connection that its peer ends before it is used says why it takes no stream."""
    connection, wire, _ = greeted()
    connection.data_received(GoAwayFrame(0, 0, code).serialize())

    assert not connection.is_usable
    assert connection.setback().reason == reason
    assert wire.aborted


@pytest.mark.parametrize("version", ["auto", "2"])
async def test_a_peer_that_allows_no_stream(version: str, tmp_path: Path) -> None:
    """A peer that allows no stream at all is passed by, with as many connections as may be opened, and no more."""

    async def script(_: Far) -> None:
        """Nobody gets here."""

    config = trusting(tmp_path, http_version=version, http2_connections=2)
    async with FarEnd(script, streams=0) as far, HttpClient(far.url, config) as client:
        if version == "auto":
            assert (await client.request("GET", "/props")).http_version == "1.1"
        else:
            with pytest.raises(PoolUnavailable, match="all HTTP/2 connections have all the streams they may"):
                await client.request("GET", "/props")

        assert len(far.connections) == 2


async def test_the_time_to_connect_is_not_that_to_greet(tmp_path: Path) -> None:
    """A peer that is slow with its SETTINGS has its own limit, and what is left of the connection is dropped."""

    async def script(_: Far) -> None:
        """Nobody gets here."""

    config = trusting(tmp_path, http_version="2", http2_settings_timeout=0.1, connect=60)
    async with FarEnd(script, greet=silent) as far, HttpClient(far.url, config) as client:
        with pytest.raises(WorkerReset, match=r"the connection broke \(no SETTINGS\)"):
            await client.request("GET", "/props")
        while far.live:
            await asyncio.sleep(0.005)
