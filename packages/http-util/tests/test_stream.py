"""The events of one response: in order, typed, ended by `[DONE]` or the body's end, and closed by any road."""

import asyncio
import gc
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar, cast

import msgspec
import pytest
from llama_orch_adapter_api import AdapterError, DecodeTimeout, PoolUnavailable, WorkerError, WorkerReset
from llama_orch_adapter_testkit import Capture, LoopbackEngine, Reply, captures, run_virtual, sse_cuts
from llama_orch_http_util import EventStream, HttpClient, HttpConfig, StreamRequest
from llama_orch_http_util._http1 import Http1Answer

from .clients import endless, measured  # type: ignore[import-not-found]  # test folders are no packages
from .sse_reference import parse  # type: ignore[import-not-found]  # as above

T = TypeVar("T")

PATH = "/v1/completions"
DONE = "[DONE]"


class Piece(msgspec.Struct, frozen=True):
    """An event of the streams here."""

    n: int
    t: str = ""


PIECES = msgspec.json.Decoder(Piece)
RAW = msgspec.json.Decoder(msgspec.Raw)
ANYTHING = msgspec.json.Decoder(Any)


def pieces(*numbers: int) -> list[Mapping[str, object]]:
    return [{"n": number} for number in numbers]


def answering(*replies: Reply) -> LoopbackEngine:
    """An engine that gives these replies to POSTs, one after the other."""
    return LoopbackEngine({("POST", PATH): replies})


def ask(client: HttpClient) -> StreamRequest[Piece]:
    return client.stream(PATH, {"prompt": "a"}, PIECES)


async def rest_of(events: EventStream[Piece]) -> list[int]:
    return [piece.n async for batch in events for piece in batch]


async def read_into(seen: list[T], request: StreamRequest[T]) -> None:
    async with request as events:
        async for batch in events:
            seen += batch


async def read(client: HttpClient) -> list[int]:
    seen: list[Piece] = []
    await read_into(seen, ask(client))
    return [piece.n for piece in seen]


async def broken(client: HttpClient) -> tuple[list[int], WorkerError]:
    """The numbers of a stream that breaks, and how it broke."""
    seen: list[Piece] = []
    with pytest.raises(WorkerError) as caught:
        await read_into(seen, ask(client))
    return [piece.n for piece in seen], caught.value


def in_one_piece(body: bytes, *, content_type: str = "text/event-stream") -> Reply:
    """A body of known length that comes in one write, beginning in the head's."""
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
    return Reply.raw(head.encode() + body)


def closed_at_the_end(body: bytes) -> Reply:
    """A body whose end is the connection's."""
    return Reply.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n" + body)


@pytest.mark.parametrize("ending", [[DONE], []], ids=["done", "end of the body"])
async def test_events_in_order(ending: list[str]) -> None:
    """Events come in order and typed; the stream ends at `[DONE]`, or with the body where there is none."""
    async with answering(Reply.sse([*pieces(0, 1, 2), *ending])) as engine, HttpClient(engine.url) as client:
        assert await read(client) == [0, 1, 2]


async def test_events_that_come_together() -> None:
    """Events of one write are handed over as one list."""
    body = b'data: {"n":0}\n\ndata: {"n":1}\n\ndata: {"n":2}\n\ndata: [DONE]\n\n'
    async with answering(in_one_piece(body)) as engine, HttpClient(engine.url) as client, ask(client) as events:
        assert [batch async for batch in events] == [[Piece(0), Piece(1), Piece(2)]]


async def test_no_list_is_empty() -> None:
    """Comments and pieces of events give no empty lists: each list has at least one event."""
    payloads: list[bytes | str | Mapping[str, object]] = [
        b":\n\n",
        b'data: {"n":',
        b"0}\n\n",
        b": ping\n\n",
        {"n": 1},
        DONE,
    ]
    async with answering(Reply.sse(payloads)) as engine, HttpClient(engine.url) as client, ask(client) as events:
        assert [batch async for batch in events] == [[Piece(0)], [Piece(1)]]


TOGETHER = b'data: {"n":0}\n\ndata: {"n":1}\n\ndata: {"n":2}\n\n'


async def test_events_one_at_a_time() -> None:
    """`each` gives the events singly, in order, to the end of the stream and no further."""
    async with answering(in_one_piece(TOGETHER)) as engine, HttpClient(engine.url) as client, ask(client) as events:
        assert [event async for event in events.each()] == [Piece(0), Piece(1), Piece(2)]
        assert [event async for event in events.each()] == []


async def test_singly_and_in_lists() -> None:
    """Nothing is lost between the two ways: what one leaves of a list the other gives next."""
    async with answering(in_one_piece(TOGETHER * 2)) as engine, HttpClient(engine.url) as client, ask(client) as events:
        async for event in events.each():
            assert event == Piece(0)
            break
        assert await anext(events.each()) == Piece(1)

        assert [batch async for batch in events] == [[Piece(2), Piece(0), Piece(1), Piece(2)]]


async def test_a_failure_comes_after_single_events() -> None:
    """Singly too, the good events of a chunk come before the bad one."""
    body = b'data: {"n":0}\n\ndata: {"n":1}\n\ndata: bad JSON\n\n'
    async with answering(in_one_piece(body)) as engine, HttpClient(engine.url) as client, ask(client) as events:
        singly = events.each()

        assert [await anext(singly), await anext(singly)] == [Piece(0), Piece(1)]
        for _ in range(2):
            with pytest.raises(AdapterError, match="is not understood"):
                await anext(singly)


async def test_null_is_passed_over() -> None:
    """`data: null`, which llama.cpp sends, is no event."""
    payloads: list[str | Mapping[str, object]] = ["null", {"n": 0}, "null", {"n": 1}, "null", DONE]
    async with answering(Reply.sse(payloads)) as engine, HttpClient(engine.url) as client:
        assert await read(client) == [0, 1]


async def test_short_events() -> None:
    """An event no longer than `[DONE]` is an event all the same."""
    payloads = ["1", '"a"', "[1, 2]", "{}", "true", DONE]
    seen: list[Any] = []
    async with answering(Reply.sse(payloads)) as engine, HttpClient(engine.url) as client:
        await read_into(seen, client.stream(PATH, {}, ANYTHING))

    assert seen == [1, "a", [1, 2], {}, True]


@pytest.mark.parametrize("late", [{"n": 7}, "not JSON", DONE, "null", b"data: no end"], ids=repr)
@pytest.mark.parametrize("together", [True, False])
async def test_what_follows_done_is_ignored(late: Any, together: bool) -> None:
    """After `[DONE]` nothing is delivered and nothing can fail, whether it comes with it or later."""
    reply = Reply.sse([{"n": 0}, DONE, late])
    if together:
        reply = Reply.raw(b"".join(reply.pieces))
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        assert await read(client) == [0]


async def test_an_ended_stream_stays_ended() -> None:
    """Who asks on after the end gets the end again."""
    async with (
        answering(Reply.sse([{"n": 0}, DONE])) as engine,
        HttpClient(engine.url) as client,
        ask(client) as events,
    ):
        assert await rest_of(events) == [0]
        assert await rest_of(events) == []


@pytest.mark.parametrize("capture", captures.streams(), ids=str)
@pytest.mark.parametrize("cuts", ["none", "bytes", "character"])
async def test_real_streams(capture: Capture, cuts: str) -> None:
    """What real engines sent comes out as an independent parser reads it, wherever it is cut."""
    expected: list[bytes] = []
    for event in parse(capture.body).events:
        if event.data == DONE.encode():
            break
        if event.data != b"null":
            expected.append(event.data)
    start = capture.response.index(b"\r\n\r\n") + 4
    at = [start + cut for cut in sse_cuts(capture.body).get(cuts, [])]
    ends: AbstractContextManager[object] = (
        nullcontext() if capture.complete else pytest.raises(WorkerReset, match="the answer broke off")
    )
    seen: list[msgspec.Raw] = []
    async with answering(Reply.capture(capture, cuts=at)) as engine, HttpClient(engine.url) as client:
        with ends:
            await read_into(seen, client.stream(PATH, {}, RAW))

    assert [bytes(event) for event in seen] == expected


BAD = {
    "no JSON": "not JSON",
    "another type": {"n": "0"},
    "not an object": "[1, 2, 3]",
    "a missing field": {"m": 0},
    "empty": b"data:\n\n",
    "not UTF-8": b'data: {"n":0,"t":"\xff"}\n\n',
    "half an event": '{"n":',
    "NaN": '{"n": NaN}',
    "too large a number": '{"n": 1e400}',
    "10**5000": '{"n": 1' + "0" * 5000 + "}",
    "deep": '{"n":' + "[" * 100_000 + "]" * 100_000 + "}",
    "half a surrogate": '{"n": 0, "t": "\\ud800"}',
}


@pytest.mark.parametrize("bad", BAD.values(), ids=BAD)
@pytest.mark.parametrize("together", [True, False])
async def test_a_bad_event(bad: Any, together: bool) -> None:
    """An event that is not what was asked for is an `AdapterError`; the good ones before it come first (battery 6)."""
    reply = Reply.sse([*pieces(0, 1), bad, {"n": 2}, DONE])
    if together:
        reply = Reply.raw(b"".join(reply.pieces))
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        numbers, error = await broken(client)

        assert numbers == [0, 1]
        assert (type(error), error.detail) == (AdapterError, "decode")
        assert "an event of the stream is not understood" in error.message


async def test_a_failure_is_told_again() -> None:
    """Who asks on after a failure gets the failure again, not a good end."""
    reply = Reply.sse([{"n": 0}, "bad", DONE])
    async with answering(reply) as engine, HttpClient(engine.url) as client, ask(client) as events:
        assert await anext(events) == [Piece(0)]
        for _ in range(2):
            with pytest.raises(AdapterError, match="an event of the stream is not understood"):
                await anext(events)


@pytest.mark.parametrize(
    ("payload", "what", "bound"),
    [
        (b"data: " + b"x" * 95, "line of the stream is larger than 100 bytes", "max_line"),
        (b":" + b"x" * 100, "line of the stream is larger than 100 bytes", "max_line"),
        (b"data: 456789\n" * 40, "event of the stream is larger than 200 bytes", "max_event"),
    ],
    ids=["line", "comment", "event"],
)
async def test_over_a_bound(payload: bytes, what: str, bound: str) -> None:
    """A line or an event over its bound is refused before it is whole; the good events before it come first."""
    config = HttpConfig(max_line=100, max_event=200)
    async with answering(Reply.sse([{"n": 0}, payload], hang=True)) as engine, HttpClient(engine.url, config) as client:
        numbers, error = await broken(client)

        assert numbers == [0]
        assert (type(error), error.detail, error.phase) == (AdapterError, "too_large", "decode")
        assert error.message == f"{what} · {client.where} · raise http.{bound} if it may be"
        await engine.deserted()


async def test_an_endless_line() -> None:
    """A line without end, of a gigabyte, is given up at its bound; the loop goes on meanwhile (batteries 4 and 6)."""
    reply = endless("HTTP/1.1 200 OK\nContent-Type: text/event-stream")
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        async with measured() as seen:
            _, error = await broken(client)

        assert error.detail == "too_large"
        assert seen["peak"] < 16 << 20
        assert seen["stall"] < 0.2
        await (await engine.request()).disconnected()


@pytest.mark.parametrize(
    ("reply", "detail"),
    [
        (Reply.sse(pieces(0, 1), terminated=False), "truncated"),
        (Reply.raw(b"".join(Reply.sse(pieces(0, 1)).pieces)[:-9]), "truncated"),
        (Reply.sse(pieces(0, 1), reset=True), "reset"),
    ],
    ids=["closed", "cut", "reset"],
)
async def test_a_broken_connection(reply: Reply, detail: str) -> None:
    """A connection that breaks in mid-stream is a `WorkerReset` in the phase decode, after the events that came."""
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        numbers, error = await broken(client)

    assert numbers[:1] == [0]
    assert (type(error), error.phase) == (WorkerReset, "decode")
    assert error.detail in {detail, "truncated"}


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_slow_reader_loses_nothing_of_a_broken_stream(reset: bool) -> None:
    """Battery 15: events that had come before the connection broke are handed over before the error."""
    going = asyncio.Event()

    async def gate(number: int) -> None:
        if number == 1:
            await going.wait()

    seen: list[int] = []
    reply = Reply.sse(pieces(*range(6)), gate=gate, terminated=False, reset=reset)
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        with pytest.raises(WorkerReset):
            async with ask(client) as events:
                content = cast("Http1Answer", events._answer)._content
                async for batch in events:
                    seen += [piece.n for piece in batch]
                    going.set()
                    while content.exception() is None:  # the rest comes, and the break, while nobody reads
                        await asyncio.sleep(0)

    assert seen == list(range(6))


@pytest.mark.parametrize(("tail", "held"), [(b"", ""), (b'data: {"n":', " inside an event (11 bytes of it had come)")])
async def test_a_stream_that_only_the_connection_ends(tail: bytes, held: str) -> None:
    """A body that ends with its connection ends in order; what to raise without a finish event, `ended_early` says."""
    reply = closed_at_the_end(b'data: {"n":0}\n\n' + tail)
    async with answering(reply) as engine, HttpClient(engine.url) as client, ask(client) as events:
        assert await rest_of(events) == [0]
        error = events.ended_early()

    assert (error.detail, error.phase) == ("truncated", "decode")
    assert error.message.startswith(f"the stream ended without a finish event{held} · {client.where}")


@pytest.mark.parametrize("reply", [Reply.sse([{"n": 0}, DONE]), Reply.sse(pieces(0))], ids=["done", "no done"])
async def test_a_finished_stream_leaves_its_connection(reply: Reply) -> None:
    """The connection of a stream that came to its end is used for the next one."""
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        assert await read(client) == [0]
        assert await read(client) == [0]

        assert engine.connections_made == 1
        assert engine.open_connections == 1


async def test_the_last_chunk_may_come_late() -> None:
    """The chunk that ends the body may come after `[DONE]`; the connection is used again all the same."""
    whole = b"".join(Reply.sse([{"n": 0}, DONE]).pieces)
    reply = Reply.raw(whole, cuts=[len(whole) - 5, len(whole) - 2])
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        assert await read(client) == [0]
        assert await read(client) == [0]

        assert engine.connections_made == 1


async def test_what_follows_a_complete_answer_is_given() -> None:
    """Events that come after the answer was called complete are events all the same, to the end of the stream."""
    reply = Reply.sse([*pieces(0, 1, 2), DONE])
    async with answering(reply) as engine, HttpClient(engine.url) as client, ask(client) as events:
        assert await anext(events) == [Piece(0)]
        events.complete()

        assert await rest_of(events) == [1, 2]


def test_a_complete_answer_is_not_waited_on_for_long() -> None:
    """A stream whose answer is complete ends a second later, though its engine never ends it."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with answering(Reply.sse(pieces(0), hang=True)) as engine, HttpClient(engine.url) as client:
            begun = loop.time()
            async with ask(client) as events:
                assert await anext(events) == [Piece(0)]
                events.complete()
                assert await rest_of(events) == []

            assert loop.time() - begun == pytest.approx(1, abs=0.1)
            await (await engine.request()).disconnected()

    run_virtual(main())


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
async def test_a_break_takes_nothing_from_a_complete_answer(reset: bool) -> None:
    """A connection that breaks after the answer was complete ends the stream in order."""
    reply = Reply.sse(pieces(0), terminated=False, reset=reset)
    async with answering(reply) as engine, HttpClient(engine.url) as client, ask(client) as events:
        assert await anext(events) == [Piece(0)]
        events.complete()

        assert await rest_of(events) == []
        assert await rest_of(events) == []


def test_the_last_chunk_may_never_come() -> None:
    """Who waits in vain for the chunk that ends the body drops the connection after 50 ms."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with answering(Reply.sse([{"n": 0}, DONE], hang=True)) as engine, HttpClient(engine.url) as client:
            begun = loop.time()
            assert await read(client) == [0]

            assert loop.time() - begun == pytest.approx(0.05)
            await (await engine.request()).disconnected()

    run_virtual(main())


@pytest.mark.parametrize("reset", [True, False])
async def test_the_connection_may_break_after_done(reset: bool) -> None:
    """A connection that breaks between `[DONE]` and the body's end takes nothing from a good stream."""
    reply = Reply.sse([{"n": 0}, DONE], terminated=False) if not reset else Reply.sse([{"n": 0}, DONE], reset=True)
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        assert await read(client) == [0]
        await engine.deserted()


async def test_cancelled_while_waiting_for_the_last_chunk() -> None:
    """A cancellation that meets the closing of a finished stream still drops the connection."""
    async with answering(Reply.sse([{"n": 0}, DONE], hang=True)) as engine, HttpClient(engine.url) as client:
        events = await client.open_stream(PATH, {}, PIECES)
        assert await rest_of(events) == [0]
        closing = asyncio.create_task(events.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing

        await (await engine.request()).disconnected()


async def test_leaving_early_drops_the_connection() -> None:
    """Who leaves a stream before its end closes the connection, and the engine sees it."""
    async with answering(Reply.sse(pieces(0), hang=True)) as engine, HttpClient(engine.url) as client:
        async with ask(client) as events:
            assert await anext(events) == [Piece(0)]

        await (await engine.request()).disconnected()


async def test_an_exception_drops_the_connection() -> None:
    """An exception of the consumer closes the connection and is passed on as it is."""
    async with answering(Reply.sse(pieces(0), hang=True)) as engine, HttpClient(engine.url) as client:
        with pytest.raises(ZeroDivisionError):
            async with ask(client) as events:
                raise ZeroDivisionError(await anext(events))

        await (await engine.request()).disconnected()


@pytest.mark.parametrize("reply", [Reply.sse(pieces(0), hang=True), Reply.silence()], ids=["in mid-stream", "no head"])
async def test_a_cancellation_drops_the_connection(reply: Reply) -> None:
    """A cancelled reader closes the connection, whether it waits for the head or for the next event."""
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        reading = asyncio.create_task(read(client))
        request = await engine.request()
        await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

        await request.disconnected()


async def test_closing_twice() -> None:
    """A closed stream can be closed again, before and after its end."""
    async with (
        answering(Reply.sse(pieces(0), hang=True), Reply.sse([DONE])) as engine,
        HttpClient(engine.url) as client,
    ):
        for _ in range(2):
            events = await client.open_stream(PATH, {}, PIECES)
            await events.aclose()
            await events.aclose()

        assert len(engine.requests) == 2


async def test_a_stream_that_was_never_asked_for() -> None:
    """A stream request that nobody entered has sent nothing and needs no closing."""
    async with answering(Reply.sse([DONE])) as engine, HttpClient(engine.url) as client:
        request = ask(client)
        await request.__aexit__(None, None, None)

        assert engine.requests == []


async def test_a_connection_of_its_own() -> None:
    """With `reuse_after_stream` off a stream says Connection: close and its connection is not used again."""
    says_keep_alive = captures.load("llamacpp", "v1_chat_stream")
    async with answering(Reply.capture(says_keep_alive)) as engine:
        async with HttpClient(engine.url, reuse_after_stream=False) as client:
            for _ in range(3):
                async with client.stream(PATH, {}, RAW) as events:
                    assert [batch async for batch in events]

        assert [request.headers["connection"] for request in engine.requests] == ["close"] * 3
        assert engine.connections_made == 3


async def test_requests_share_while_streams_do_not() -> None:
    """`reuse_after_stream` is about streams alone: other requests keep their connection."""
    script = {("POST", PATH): Reply.sse([DONE]), ("GET", "/health"): Reply.json(200, {})}
    async with LoopbackEngine(script) as engine, HttpClient(engine.url, reuse_after_stream=False) as client:
        await client.request("GET", "/health")
        await read(client)
        await client.request("GET", "/health")

        closing = [request.headers.get("connection") for request in engine.requests]
        assert closing == [None, "close", None]


async def test_streams_keep_their_connection_unasked() -> None:
    """A client that was told nothing sends no Connection header."""
    async with answering(Reply.sse([DONE])) as engine, HttpClient(engine.url) as client:
        await read(client)

        assert "connection" not in engine.requests[0].headers


def test_a_silent_socket() -> None:
    """A socket that says nothing for `sock_idle` seconds in mid-stream is a `DecodeTimeout` (idle)."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        config = HttpConfig(sock_idle=30)
        async with answering(Reply.sse(pieces(0), hang=True)) as engine, HttpClient(engine.url, config) as client:
            begun = loop.time()
            numbers, error = await broken(client)

            assert numbers == [0]
            assert (type(error), error.detail, error.phase) == (DecodeTimeout, "idle", "decode")
            assert 30 <= loop.time() - begun < 31
            await (await engine.request()).disconnected()

    run_virtual(main())


def test_a_slow_stream_is_not_a_silent_one() -> None:
    """The limit counts from the last byte: a stream may take any time in all."""

    async def main() -> None:
        async def wait(_: int) -> None:
            await asyncio.sleep(29)

        loop = asyncio.get_running_loop()
        reply = Reply.sse([*pieces(*range(50)), DONE], gate=wait)
        async with answering(reply) as engine, HttpClient(engine.url, HttpConfig(sock_idle=30)) as client:
            assert await read(client) == list(range(50))
            assert loop.time() > 50 * 29

    run_virtual(main())


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply.json(200, {"choices": []}), "application/json"),
        (in_one_piece(b"<html>", content_type="text/html; charset=utf-8"), "text/html; charset=utf-8"),
        (in_one_piece(b"", content_type="text/event-stream-of-mine"), "text/event-stream-of-mine"),
        (in_one_piece(b"", content_type="text/\u202eplain"), r"text/\u202eplain"),
        (in_one_piece(b"", content_type="x/" + "y" * 4000), "x/" + "y" * 297 + "…"),
        (Reply.raw(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), "no type"),
    ],
    ids=["JSON", "HTML", "longer", "bidi character", "long", "none"],
)
async def test_an_answer_that_is_no_stream(reply: Reply, told: str) -> None:
    """A good answer that is no event stream is refused by its type."""
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        _, error = await broken(client)

        assert (type(error), error.detail) == (AdapterError, "decode")
        assert error.message.startswith(f"the answer is {told}, not an event stream · {client.where} · ")


@pytest.mark.parametrize("kind", ["text/event-stream", "text/event-stream; charset=utf-8", "Text/Event-Stream"])
async def test_content_types_of_streams(kind: str) -> None:
    """A stream is known by its type, in any case and with any parameter."""
    reply = in_one_piece(b'data: {"n":0}\n\n', content_type=kind)
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        assert await read(client) == [0]


NDJSON_NAMES = ["x-ndjson", "ndjson", "jsonl", "x-jsonl", "jsonlines", "x-jsonlines"]


def lines(body: bytes, *, kind: str = "application/x-ndjson", ended: bool = True) -> Reply:
    """An answer in lines of JSON; its end is told by its length, or by its connection."""
    if ended:
        return in_one_piece(body, content_type=kind)
    return Reply.raw(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode() + body)


@pytest.mark.parametrize("name", [*NDJSON_NAMES, "X-NDJSON; charset=utf-8"])
async def test_lines_of_json(name: str) -> None:
    """An answer in lines of JSON, whatever the type is called, is a stream of events like any other."""
    reply = lines(b'{"n":0}\n{"n":1}\r\n\n{"n":2}\n', kind=f"application/{name}")
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        assert await read(client) == [0, 1, 2]
        assert await read(client) == [0, 1, 2]

        assert engine.connections_made == 1


@pytest.mark.parametrize("ended", [True, False])
async def test_a_last_line_without_an_end(ended: bool) -> None:
    """The end of the body ends its last line."""
    async with answering(lines(b'{"n":0}\n{"n":1}', ended=ended)) as engine, HttpClient(engine.url) as client:
        assert await read(client) == [0, 1]


async def test_half_a_last_line() -> None:
    """A body that ends inside a line was cut: a `WorkerReset`, after the events that came."""
    async with answering(lines(b'{"n":0}\n{"n":', ended=False)) as engine, HttpClient(engine.url) as client:
        numbers, error = await broken(client)

    assert numbers == [0]
    assert (type(error), error.detail, error.phase) == (WorkerReset, "truncated", "decode")
    assert "inside an event (5 bytes of it had come)" in error.message


async def test_a_broken_connection_between_lines() -> None:
    """What waits when the connection breaks is no event, though it would read as one."""
    begun = b'HTTP/1.1 200 OK\r\nContent-Type: application/jsonl\r\nContent-Length: 99\r\n\r\n{"n":0}\n{"n":1}'
    async with answering(Reply.raw(begun)) as engine, HttpClient(engine.url) as client:
        numbers, error = await broken(client)

    assert numbers == [0]
    assert (type(error), error.phase) == (WorkerReset, "decode")


async def test_a_bad_line() -> None:
    """A line that is not what was asked for, or over its bound, is refused after the good ones before it."""
    config = HttpConfig(max_line=50)
    replies = [lines(b'{"n":0}\nbad\n{"n":1}\n'), lines(b'{"n":0}\n{"n":1,"t":"%b"}\n{"n":2}\n' % (b"x" * 50))]
    async with answering(*replies) as engine, HttpClient(engine.url, config) as client:
        for detail in ("decode", "too_large"):
            numbers, error = await broken(client)

            assert numbers == [0]
            assert (type(error), error.detail) == (AdapterError, detail)


async def test_the_version_of_a_stream() -> None:
    """A stream tells which HTTP its engine speaks."""
    old = Reply.raw(b'HTTP/1.0 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: {"n":0}\n\n')
    async with answering(Reply.sse([DONE]), old) as engine, HttpClient(engine.url) as client:
        for version in ("1.1", "1.0"):
            async with ask(client) as events:
                assert events.http_version == version


async def test_a_refused_stream() -> None:
    """An engine that refuses is told with its status and words, before any event."""
    reply = Reply.json(429, {"error": {"message": "too many"}}, headers={"Retry-After": "7"})
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        numbers, error = await broken(client)

        assert numbers == []
        assert (type(error), error.detail, error.retry_after) == (PoolUnavailable, "overloaded", 7.0)
        assert error.message == f"the engine answered 429: too many · {client.where} · wait, or add replicas"


@pytest.mark.parametrize("head", ["200 OK\r\nContent-Type: text/html", "503 Busy"])
async def test_an_answer_not_read_to_its_end(head: str) -> None:
    """The connection of an answer that is refused while it still comes is dropped."""
    endless = f"HTTP/1.1 {head}\r\nContent-Length: 1000000\r\n\r\n".encode() + b"x" * 100_000
    async with answering(Reply.raw(endless, hang=True)) as engine, HttpClient(engine.url) as client:
        await broken(client)

        await (await engine.request()).disconnected()


@pytest.mark.parametrize("status", [201, 202, 204, 206])
async def test_other_good_statuses_are_no_stream(status: int) -> None:
    """A stream comes with 200; another status that reads as success is not understood."""
    empty = Reply.raw(b"HTTP/1.1 %d Fine\r\nContent-Length: 0\r\n\r\n" % status)
    async with answering(empty) as engine, HttpClient(engine.url) as client:
        _, error = await broken(client)

        assert (type(error), error.detail) == (AdapterError, "decode")
        assert f"the engine answered {status}" in error.message


async def test_what_is_sent() -> None:
    """The body goes as JSON, with its length, to the path that was asked for."""
    body = {"prompt": "naïve 🦙", "stream": True}
    async with answering(Reply.sse([DONE])) as engine, HttpClient(engine.url + "/") as client:
        async with client.stream(PATH, body, PIECES) as events:
            assert events.where == client.where == engine.url.removeprefix("http://")
        request = engine.requests[0]

        assert request.json() == body
        assert request.headers["content-type"] == "application/json"
        assert request.headers["content-length"] == str(len(request.body))
        assert request.path == PATH


async def test_a_large_request() -> None:
    """A body of several megabytes arrives whole, with its length and without a warning."""
    body = {"prompt": "0123456789abcdef" * (3 << 16)}
    async with answering(Reply.sse([{"n": 0}, DONE])) as engine, HttpClient(engine.url) as client:
        async with client.stream(PATH, body, PIECES) as events:
            assert await rest_of(events) == [0]
        request = engine.requests[0]

        assert request.headers["content-length"] == str(len(json.dumps(body, separators=(",", ":"))))
        assert request.json() == body


async def test_a_stopped_consumer_stops_the_engine() -> None:
    """While nobody reads, no more than a megabyte or so is under way, so that TCP pushes back (battery 28's part)."""
    event = b"data: " + b"1" * 1000 + b"\n\n"
    chunk = b"%x\r\n%b\r\n" % (len(event) * 64, event * 64)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    written = 0

    async def count(_: int) -> None:
        nonlocal written
        written += len(chunk)

    flood = Reply((head, *[chunk] * 1000), "close", count)
    async with answering(flood) as engine, HttpClient(engine.url) as client:
        async with client.stream(PATH, {}, RAW) as events:
            await anext(events)
            before = -1
            while before != written:
                before = written
                await asyncio.sleep(0.05)

            assert written < 8 << 20
        await (await engine.request()).disconnected()


async def test_an_abandoned_stream_is_closed_by_its_block() -> None:
    """Streams left by `break` leave neither a connection nor an object that complains when it is collected."""
    async with answering(Reply.sse(pieces(0, 1), hang=True)) as engine, HttpClient(engine.url) as client:
        for _ in range(5):
            async with ask(client) as events:
                async for _batch in events:
                    break
        gc.collect()
        await engine.deserted()

        assert engine.connections_made == 5


@pytest.mark.parametrize("late", ["nonsense", b": ping\n\n"], ids=["no JSON", "heartbeats"])
async def test_what_follows_a_whole_answer_changes_nothing(late: str | bytes) -> None:
    """After `complete` neither a bad event is told, nor is a stream that goes on saying nothing waited for."""

    async def gate(number: int) -> None:
        await asyncio.sleep(0.2 if number > 1 else 0)

    replies = Reply.sse([*pieces(0), *[late] * 40], gate=gate, terminated=False, hang=True)
    async with answering(replies) as engine, HttpClient(engine.url) as client:
        began = asyncio.get_running_loop().time()
        async with ask(client) as events:
            assert [piece.n for piece in await anext(events)] == [0]
            events.complete()
            assert await rest_of(events) == []
        took = asyncio.get_running_loop().time() - began

    assert took < 3
