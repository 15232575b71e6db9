"""Answers over HTTP/2 that are none: each ends in an error of its own, and in nobody else's."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from h2.errors import ErrorCodes
from h2.events import StreamReset
from hpack import Encoder
from llama_orch_adapter_api import WorkerReset
from llama_orch_http_util import HttpClient
from llama_orch_http_util._http2_heads import Malformed, check_trailers, head_of
from llama_orch_http_util._setbacks import Setback

from .http2_far_end import Far, FarEnd, drained, trusting  # type: ignore[import-not-found]  # test folders are no packages
from .http2_in_memory import HEAD, greeted  # type: ignore[import-not-found]  # as above

OK = (":status", "200")
HEADS: dict[str, list[tuple[str, str]]] = {
    "no status": [("x-a", "b")],
    "a status below 100": [(":status", "099")],
    "a status of 000": [(":status", "000")],
    "a status that is no number": [(":status", "2x0")],
    "two statuses": [OK, (":status", "201")],
    "a header in capitals": [OK, ("X-A", "b")],
    "a line end in a header": [OK, ("x-a", "b\r\nx-c: d")],
    "a space in a name": [OK, ("x a", "b")],
    "a header of a connection": [OK, ("transfer-encoding", "chunked")],
    "a status after a header": [("x-a", "b"), OK],
    "a length that is no number": [OK, ("content-length", "5x")],
    "a length below 0": [OK, ("content-length", "-1")],
    "a length without end": [OK, ("content-length", "9" * 5000)],
    "two lengths": [OK, ("content-length", "5"), ("content-length", "6")],
}


def frame(kind: int, flags: int, number: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + number.to_bytes(4, "big") + payload


def headers(number: int, fields: list[tuple[str, str]], *, end: bool = False) -> bytes:
    """A HEADERS frame, whatever is in it."""
    return frame(1, 4 + end, number, Encoder().encode(fields))


def data(number: int, body: bytes, *, end: bool = False) -> bytes:
    return frame(0, int(end), number, body)


def told(length: int, *more: tuple[str, str]) -> list[tuple[str, str]]:
    """A head that tells its body's length."""
    return [OK, ("content-length", str(length)), *more]


ANSWERS: dict[str, bytes] = {
    **{name: headers(1, fields) + data(1, b"hello", end=True) for name, fields in HEADS.items()},
    **{f"{name}, and no body": headers(1, fields, end=True) for name, fields in HEADS.items()},
    "a body before its head": data(1, b"hello"),
    "a shorter body": headers(1, told(5)) + data(1, b"hell", end=True),
    "a shorter body, and trailers": headers(1, told(5)) + data(1, b"hell") + headers(1, [("x-t", "1")], end=True),
    "a length, and no body": headers(1, told(5), end=True),
    "a longer body": headers(1, told(5)) + data(1, b"hello") + data(1, b"!"),
    "a body after none was told": headers(1, told(0)) + data(1, b"!"),
    "a body where none may be": headers(1, [(":status", "204")]) + data(1, b"!"),
    "a status in the trailers": headers(1, [OK]) + data(1, b"hell") + headers(1, [OK], end=True),
}


async def outcome(reading: Any) -> bytes | str:
    """The body, or how it failed."""
    body = b""
    try:
        await reading.head()
        while part := await reading.read():
            body += part
    except Setback as setback:
        return setback.reason
    except WorkerReset as error:
        return error.detail
    return body


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("said", ANSWERS.values(), ids=ANSWERS)
async def test_a_malformed_answer(said: bytes, direct: bool) -> None:
    """A malformed answer ends its stream with PROTOCOL_ERROR; 99 others on its connection come to their end."""
    connection, wire, server = greeted(direct=direct)
    spoilt, *others = [connection.open(HEAD, body=False, idle=60) for _ in range(100)]
    await asyncio.sleep(0)
    server.receive_data(bytes(wire.written))
    wire.written.clear()
    connection.data_received(said)
    await asyncio.sleep(0)
    resets = [event for event in server.receive_data(bytes(wire.written)) if isinstance(event, StreamReset)]
    assert {event.error_code for event in resets} <= {ErrorCodes.PROTOCOL_ERROR}
    for other in others:
        connection.data_received(headers(other.number, told(5)) + data(other.number, b"hello", end=True))

    assert await outcome(spoilt) in ("violated", "truncated")
    assert [await outcome(other) for other in others] == [b"hello"] * 99
    assert (wire.aborted, connection.open_streams, connection.can_open) == (False, 0, True)
    connection.close()


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(
    ("method", "said"),
    [
        ("HEAD", headers(1, told(5), end=True)),
        ("HEAD", headers(1, told(5)) + data(1, b"", end=True)),
        ("GET", headers(1, [(":status", "304"), ("content-length", "5")], end=True)),
        ("GET", headers(1, [(":status", "204")], end=True)),
        ("GET", headers(1, told(0), end=True)),
        ("GET", headers(1, told(0, ("content-length", "00")), end=True)),
        ("GET", headers(1, [(":status", "103"), ("content-length", "7")]) + headers(1, told(0), end=True)),
        ("GET", headers(1, told(0)) + headers(1, [("x-t", "1")], end=True)),
    ],
)
async def test_an_answer_without_a_body(method: str, said: bytes, direct: bool) -> None:
    """What has no body for a reason ends well, whatever length it tells."""
    connection, wire, _ = greeted(direct=direct)
    exchange = connection.open([(":method", method), *HEAD[1:]], body=False, idle=60)
    connection.data_received(said)

    assert await outcome(exchange) == b""
    assert exchange.ended
    assert not wire.aborted
    connection.close()


async def test_what_follows_a_malformed_head() -> None:
    """What still comes after a malformed head is thrown away, and the request's rest is not sent."""
    connection, wire, server = greeted()
    exchange = connection.open(HEAD, body=True, idle=60)
    uploading = asyncio.create_task(exchange.upload(b"x" * 1_000_000))
    await asyncio.sleep(0)
    server.receive_data(bytes(wire.written))
    wire.written.clear()
    connection.data_received(headers(1, HEADS["a header in capitals"]) + data(1, b"x" * 16_384) * 10)
    await uploading

    assert await outcome(exchange) == "violated"
    assert frame(3, 0, 1, b"\0\0\0\1") in wire.written  # RST_STREAM, PROTOCOL_ERROR
    assert not wire.aborted
    connection.close()


async def test_others_live_on(tmp_path: Path) -> None:
    """Through sockets: while one engine's answers break off, 99 streams beside them have all their events."""
    go = asyncio.Event()

    async def script(stream: Far) -> None:
        if stream.path == "/spoilt":
            stream.connection.raw(headers(stream.number, told(5)) + data(stream.number, b"hell", end=True))
            return
        stream.head()
        await stream.events([0])
        await go.wait()
        await stream.events([1, 2])
        await stream.send(b"data: [DONE]\n\n", end=True)

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        others = [asyncio.create_task(drained(client)) for _ in range(99)]
        while len(far.asked) < 99:
            await asyncio.sleep(0.005)
        for _ in range(10):
            with pytest.raises(WorkerReset, match=r"the answer broke off \(PROTOCOL_ERROR\)"):
                await client.request("POST", "/spoilt", {})
        go.set()

        assert await asyncio.gather(*others) == [[0, 1, 2]] * 99
        assert (len(far.connections), client.fallbacks) == (1, {})


def test_what_a_head_says() -> None:
    """A status, the first of each header, and the body's length."""
    fields = [(b":status", b"200"), (b"x-a", b"\xc3\xa9"), (b"x-a", b"2")]
    head = head_of(fields, [b"07", b"7"], bodiless=False)

    assert head == (200, {"x-a": "é", "content-length": "7"}, 7)
    assert head_of(fields, [], bodiless=False).length is None
    assert head_of(fields, [b"7"], bodiless=True) == (200, {"x-a": "é", "content-length": "7"}, 0)


def test_trailers() -> None:
    """Trailers hold headers alone."""
    check_trailers([(b"x-a", b"b")])
    with pytest.raises(Malformed):
        check_trailers([(b":status", b"200")])
