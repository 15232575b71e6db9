"""The frame path of HTTP/2 under whatever a peer may send: a stream ends or goes on, and nothing else happens."""

import asyncio
import os
import random
from collections import Counter

import pytest
from h2.config import H2Configuration
from h2.connection import H2Connection
from hyperframe.frame import GoAwayFrame
from llama_orch_adapter_api import WorkerError
from llama_orch_adapter_testkit import cases, dice, mutilated, splits
from llama_orch_http_util._http2_stream import Exchange
from llama_orch_http_util._setbacks import Setback

from .http2_in_memory import HEAD, LIMITS, connected, greeted  # type: ignore[import-not-found]  # test folders are no packages


def conversation(chance: random.Random) -> list[bytes]:
    """What a server says to three requests: SETTINGS, heads, events, ends, and this and that between them."""
    server = H2Connection(H2Configuration(client_side=False))
    client = H2Connection()
    client.initiate_connection()
    client.increment_flow_control_window(1 << 20)
    server.initiate_connection()
    said = [server.data_to_send()]
    for number in (1, 3, 5):
        client.send_headers(number, HEAD, end_stream=True)
    server.receive_data(client.data_to_send())
    for number in (1, 3, 5):
        length = [("content-length", str(chance.choice([0, 9, 18, 45])))] if chance.random() < 0.3 else []
        head = [(":status", "200"), ("content-type", "text/event-stream"), ("x", "y" * 50), *length]
        server.send_headers(number, head)
    said.append(server.data_to_send())
    for _ in range(chance.randint(1, 12)):
        server.send_data(
            chance.choice([1, 3, 5]), b"data: 1\n\n" * chance.randint(1, 5), pad_length=chance.choice([None, 9])
        )
        said.append(server.data_to_send())
        if chance.random() < 0.2:
            server.ping(b"12345678")
        if chance.random() < 0.1:
            server.update_settings({4: chance.randint(1, 1 << 20)})
        if chance.random() < 0.1:
            said.append(GoAwayFrame(0, chance.choice([1, 3, 2**31 - 1]), chance.choice([0, 1])).serialize())
    server.end_stream(1)
    server.send_headers(3, [("x-trailer", "1")], end_stream=True)
    server.reset_stream(5, chance.choice([0, 1, 2, 7, 8, 13]))
    said.append(server.data_to_send())
    return said


async def ending(exchange: Exchange) -> tuple[bytes, str]:
    """What a stream gave, and how it ended."""
    body = b""
    try:
        await exchange.head()
        while part := await exchange.read():
            body += part
    except Setback as setback:
        return body, setback.reason
    except WorkerError as error:
        return body, error.detail
    return body, "ended"


async def endings_of(pieces: list[bytes], pauses: list[bool], *, direct: bool, leaves: bool) -> list[tuple[bytes, str]]:
    """What the streams of a conversation gave; once the connection is over, so are they, and nothing is left."""
    connection, wire = connected(direct=direct)
    if pieces:
        connection.data_received(pieces[0])
    exchanges = [connection.open(HEAD, body=False, idle=60) for _ in range(3) if connection.can_open]
    reading = [asyncio.ensure_future(ending(exchange)) for exchange in exchanges]
    for piece, pause in zip(pieces[1:], pauses, strict=False):
        connection.data_received(piece)
        if pause:
            await asyncio.sleep(0)
    if leaves and exchanges:
        exchanges.pop(0).close()
        reading.pop(0).cancel()
    connection.connection_lost(None)
    ended = [await task for task in reading]

    assert wire.aborted
    assert connection.open_streams == 0
    assert all(exchange._timer.cancelled() for exchange in exchanges)
    return ended


@pytest.mark.nightly
@pytest.mark.timeout(7200 if os.environ.get("NIGHTLY") else 120)
async def test_frames_that_are_spoilt() -> None:
    """Case 9: spoilt frames in any pieces raise nothing, and mean past h2 what they mean through it."""
    chance = dice()
    asyncio.get_running_loop().set_debug(False)  # which looks at every callback, for three times as long
    seen: Counter[str] = Counter()
    for _ in range(cases(1500, nightly=150_000)):
        said = b"".join(conversation(chance))
        if chance.random() < 0.9:
            said = mutilated(chance, said)
        pieces = splits(said, (chance.randint(0, len(said)) for _ in range(chance.randint(0, 6))))
        pauses = [chance.random() < 0.3 for _ in pieces]
        leaves = chance.random() < 0.3
        direct, through = [await endings_of(pieces, pauses, direct=how, leaves=leaves) for how in (True, False)]

        assert direct == through
        seen.update(how for _, how in direct)

    print(f"case 9: how streams of spoilt conversations ended: {dict(seen)}")
    assert {"ended", "truncated", "broken", "violated"} <= set(seen)


@pytest.mark.parametrize("kind", range(12))
async def test_every_frame_on_every_kind_of_stream(kind: int) -> None:
    """Frames of each kind, on streams that are open, ended, left or never were, end the connection at most."""
    for number in (0, 1, 3, 5, 7, 2):
        for flags in (0x0, 0x1, 0x4, 0x5, 0x8, 0x2D):
            for payload in (b"", b"\0" * 4, b"\0" * 8, b"\0" * 5 + b"\xff" * 40):
                connection, wire, server = greeted()
                exchanges = [connection.open(HEAD, body=False, idle=60) for _ in range(3)]
                await asyncio.sleep(0)
                server.receive_data(bytes(wire.written))
                server.send_headers(3, [(":status", "204")], end_stream=True)
                connection.data_received(server.data_to_send())
                exchanges[2].close()
                head = len(payload).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big")
                connection.data_received(head + payload)
                await asyncio.sleep(0)
                connection.close()

                assert exchanges[1].ended
                assert wire.aborted


async def test_events_before_a_breach_are_kept() -> None:
    """What came before a bad frame, in the same bytes, is given; h2 by itself would forget it."""
    connection, wire, server = greeted()
    exchange = connection.open(HEAD, body=False, idle=60)
    await asyncio.sleep(0)
    server.receive_data(bytes(wire.written))
    server.send_headers(1, [(":status", "200")])
    server.send_data(1, b"the last words")
    connection.data_received(server.data_to_send() + b"\0\0\0\x04\1\0\0\0\1")

    await exchange.head()
    assert await exchange.read() == b"the last words"
    for _ in range(2):
        with pytest.raises(WorkerError, match=r"the answer broke off \(PROTOCOL_ERROR\)"):
            await exchange.read()
    assert b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\1" in wire.written  # GOAWAY, PROTOCOL_ERROR


@pytest.mark.parametrize("direct", [True, False])
async def test_a_flood_before_the_reader_comes(direct: bool) -> None:
    """A peer that sends more than its window breaches the protocol: what a stream holds is bounded, come what may."""
    connection, wire, server = greeted(direct=direct)
    exchange = connection.open(HEAD, body=False, idle=60)
    await asyncio.sleep(0)
    server.receive_data(bytes(wire.written))
    server.send_headers(1, [(":status", "200")])
    connection.data_received(server.data_to_send())
    for _ in range(40):
        connection.data_received(b"\0\x40\0\0\0\0\0\0\1" + b"x" * 16_384)

    assert wire.aborted
    assert sum(map(len, exchange._parts)) <= LIMITS.window
    assert b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\3" in wire.written  # GOAWAY, FLOW_CONTROL_ERROR
