"""What a hostile peer of HTTP/2 can cost: so many frames that nobody asked for, so much memory, so much of the loop."""

import asyncio
import time

import pytest
from h2.events import RequestReceived
from hpack import Encoder
from llama_orch_http_util._http2 import Connection
from llama_orch_http_util._http2_stream import Exchange

from .http2_in_memory import HEAD, Wire, greeted  # type: ignore[import-not-found]  # test folders are no packages


def block(fields: list[tuple[str, str]], kind: bytes = b"\1\4", before: bytes = b"") -> bytes:
    """A frame of stream 1 with these headers."""
    payload = before + Encoder().encode(fields)
    return len(payload).to_bytes(3, "big") + kind + b"\0\0\0\1" + payload


FLOODS = {
    "PING": b"\0\0\x08\x06\0\0\0\0\0" + b"12345678",
    "SETTINGS": b"\0\0\0\x04\0\0\0\0\0",
    "SETTINGS of a table": b"\0\0\6\x04\0\0\0\0\0\0\1\0\0\0\0" + b"\0\0\6\x04\0\0\0\0\0\0\1\0\0\x10\0",
    "PRIORITY": b"\0\0\5\2\0\0\0\0\1\0\0\0\0\1",
    "empty DATA": b"\0\0\0\0\0\0\0\0\1",
    "1xx heads": block([(":status", "103")]),
    "GOAWAY": b"\0\0\x08\x07\0\0\0\0\0\x7f\xff\xff\xff\0\0\0\0",
    "WINDOW_UPDATE": b"\0\0\4\x08\0\0\0\0\0\0\0\0\1",
    "WINDOW_UPDATE of a stream": b"\0\0\4\x08\0\0\0\0\1\0\0\0\1",
    "an unknown kind": b"\0\0\0\x20\0\0\0\0\0",
}


def asked(*, direct: bool = True) -> tuple[Connection, Wire, Exchange]:
    """A connection with one request under way."""
    connection, wire, _ = greeted(direct=direct)
    return connection, wire, connection.open(HEAD, body=False, idle=60)


@pytest.mark.parametrize("frame", FLOODS.values(), ids=FLOODS)
async def test_a_flood(frame: bytes) -> None:
    """A peer that sends frames without end is left, before its answers fill a buffer or the loop stands."""
    asyncio.get_running_loop().set_debug(False)  # the figure is to be the driver's
    connection, wire, exchange = asked()
    if frame == FLOODS["empty DATA"]:
        connection.data_received(block([(":status", "200")]))
    before = len(wire.written)
    began = time.perf_counter()
    connection.data_received(frame * (262_144 // len(frame)))
    took = time.perf_counter() - began

    print(f"256 KiB of {frame[:9].hex()} held the loop for {took * 1e3:.0f} ms, and {len(wire.written) - before} bytes")
    assert wire.aborted
    assert len(wire.written) - before < 32 * 1024
    assert wire.written.endswith(b"\0\0\0\x0b")  # GOAWAY, ENHANCE_YOUR_CALM
    assert exchange._setback is not None
    assert exchange._setback.reason == "violated"


async def test_what_many_requests_bring() -> None:
    """A connection that is used for long is not taken for a flood: each request brings its own patience."""
    connection, wire, server = greeted()
    for _ in range(1500):
        exchange = connection.open(HEAD, body=False, idle=60)
        await asyncio.sleep(0)
        heard = server.receive_data(bytes(wire.written))
        wire.written.clear()
        assert any(isinstance(event, RequestReceived) for event in heard)
        server.send_headers(exchange.number, [(":status", "103")])
        server.send_headers(exchange.number, [(":status", "200")])
        server.send_data(exchange.number, b"an event")
        server.ping(b"12345678")
        server.end_stream(exchange.number)
        connection.data_received(server.data_to_send())
        assert await exchange.read() == b"an event"

    assert not wire.aborted
    connection.close()


async def test_what_a_body_brings() -> None:
    """A peer that takes a large body in small pieces, and says so for each of them, is not taken for a flood."""
    connection, wire, server = greeted()
    exchange = connection.open(HEAD, body=True, idle=60)
    uploading = asyncio.create_task(exchange.upload(b"x" * 8 * 1024 * 1024))
    updates = taken = 0
    while taken < 8 * 1024 * 1024:
        await asyncio.sleep(0)
        for event in server.receive_data(bytes(wire.written)):
            taken += getattr(event, "flow_controlled_length", 0)
        wire.written.clear()
        while taken >= 1024 * (updates + 1):
            updates += 1
            for number in (0, exchange.number):
                server.increment_flow_control_window(1024, number or None)
        connection.data_received(server.data_to_send())
    await uploading

    assert updates == 8192
    assert not wire.aborted
    connection.close()


async def test_patience_comes_back_with_time() -> None:
    """A peer that sends PINGs now and then is heard for ever."""
    connection, wire, _ = asked()
    for _ in range(5):
        connection.data_received(FLOODS["PING"] * 900)
        connection._look()

    assert not wire.aborted
    connection.close()


@pytest.mark.parametrize("size", [2**32 - 1, 65_536, 4096, 100, 0])
async def test_a_table_of_any_size(size: int) -> None:
    """However many headers a peer would remember, so many are kept here; the peer reads all heads."""
    connection, wire, server = greeted()
    server.decoder.max_allowed_table_size = size
    for told in (0, size):
        connection.data_received(b"\0\0\6\x04\0\0\0\0\0\0\1" + told.to_bytes(4, "big"))
    for number in range(300):
        head = [*HEAD, ("x-request", f"{number:050}")]
        connection.open(head, body=False, idle=60).close()
        await asyncio.sleep(0)
        (event, *_) = [each for each in server.receive_data(bytes(wire.written)) if isinstance(each, RequestReceived)]
        assert (b"x-request", f"{number:050}".encode()) in [
            tuple(part if isinstance(part, bytes) else part.encode() for part in pair) for pair in event.headers
        ]
        wire.written.clear()

    assert connection._wire._h2.encoder.header_table._current_size <= min(size, 4096)
    connection.close()


async def test_headers_without_end() -> None:
    """A header block that is never closed, or grows when it is unpacked, ends the connection within a mebibyte."""
    for opened, more in (
        (block([], b"\1\0"), b"\0\x40\0\x09\0\0\0\0\1" + b"\0" * 16_384),
        (block([], b"\1\0"), b"\0\0\0\x09\0\0\0\0\1"),
        (block([(":status", "200"), *[("x-a", "y" * 3000)] * 40]), b""),
    ):
        connection, wire, _ = asked()
        connection.data_received(opened)
        for _ in range(64):
            connection.data_received(more)

        assert wire.aborted


async def test_a_push() -> None:
    """What is pushed, and was not to be, is refused."""
    connection, wire, _ = asked()
    connection.data_received(block(HEAD, b"\5\4", b"\0\0\0\2"))

    assert wire.aborted
