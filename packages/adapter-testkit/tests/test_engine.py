import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path

import pytest
from llama_orch_adapter_testkit import (
    Capture,
    LoopbackEngine,
    Reply,
    Request,
    Script,
    all_kinds_of_cuts,
    captures,
    splits,
)

ALL = [captures.load(engine, name) for engine in ("llamacpp", "vllm") for name in captures.names(engine)]
STREAM = captures.load("vllm", "v1_chat_stream")
KILLED = captures.load("llamacpp", "v1_completions_stream_server_killed9")
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@asynccontextmanager
async def client(engine: LoopbackEngine) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    host, port = engine.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def ask(engine: LoopbackEngine, request: bytes = LAST_GET) -> bytes:
    """Everything that comes for a request until the engine closes the connection."""
    async with client(engine) as (reader, writer):
        writer.write(request)
        return await reader.read()


def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close with a TCP reset."""
    sock = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Pieces(asyncio.Protocol):
    """A client that keeps what it receives as it comes."""

    def __init__(self) -> None:
        self.pieces: list[bytes] = []
        self.lost = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(LAST_GET)

    def data_received(self, data: bytes) -> None:
        self.pieces.append(data)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost.set_result(error)


def is_dropped(sock: socket.socket) -> bool:
    try:
        return sock.recv(1) == b""
    except ConnectionError:
        return True


def open_descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def received_pieces(engine: LoopbackEngine) -> tuple[list[bytes], Exception | None]:
    host, port = engine.url.removeprefix("http://").split(":")
    _, protocol = await asyncio.get_running_loop().create_connection(Pieces, host, int(port))
    return protocol.pieces, await protocol.lost


@pytest.mark.parametrize("one", ALL, ids=str)
async def test_a_capture_is_replayed_byte_for_byte(one: Capture):
    """However a captured answer is cut into pieces, the client receives its very bytes."""
    kinds = {"whole": [], **all_kinds_of_cuts(one.response)}
    replies = [Reply.capture(one, cuts=cuts) for cuts in kinds.values()]
    async with LoopbackEngine({("GET", "/"): replies}) as engine:
        received = {kind: await ask(engine) for kind in kinds}

    assert received == dict.fromkeys(kinds, one.response)


@pytest.mark.parametrize("one", captures.streams(), ids=str)
async def test_each_piece_comes_by_itself(one: Capture):
    """A client on the same loop receives the pieces as they were cut, neither merged nor split."""
    kinds = all_kinds_of_cuts(one.response)
    replies = [Reply.capture(one, cuts=cuts) for cuts in kinds.values()]
    async with LoopbackEngine({("GET", "/"): replies}) as engine:
        received = {kind: (await received_pieces(engine))[0] for kind in kinds}

    assert received == {kind: splits(one.response, cuts) for kind, cuts in kinds.items()}


@pytest.mark.parametrize("length", [0, 1, 150, 700, len(STREAM.response) - 1, len(STREAM.response)])
async def test_a_reply_is_cut_after_so_many_bytes(length: int):
    """`stop_after` sends exactly that many bytes and closes, though the client would have stayed."""
    async with LoopbackEngine({("GET", "/"): Reply.capture(STREAM, stop_after=length)}) as engine:
        received = await ask(engine, GET)

    assert received == STREAM.response[:length]


@pytest.mark.parametrize("length", [0, 1, 700, len(STREAM.response)])
async def test_a_reset_is_a_reset(length: int):
    """With `reset` the client receives the bytes before it, then ConnectionResetError."""
    reply = Reply.capture(STREAM, cuts=range(100, 1000, 100), stop_after=length, reset=True)
    async with LoopbackEngine({("GET", "/"): reply}) as engine:
        pieces, error = await received_pieces(engine)

    assert b"".join(pieces) == STREAM.response[:length]
    assert isinstance(error, ConnectionResetError)


async def test_a_cut_capture_ends_as_it_did():
    """A capture of a killed engine ends by closing: the client sees EOF without the last chunk."""
    async with LoopbackEngine({("GET", "/"): Reply.capture(KILLED)}) as engine:
        received = await ask(engine, GET)

    assert received == KILLED.response


@pytest.mark.parametrize(
    "reply",
    [
        Reply.silence(),
        Reply.capture(STREAM, hang=True),
        Reply.capture(STREAM, stop_after=300, hang=True),
        Reply.sse(["one"], hang=True),
    ],
    ids=["silence", "whole", "part", "sse"],
)
@pytest.mark.parametrize("resets", [False, True])
async def test_the_engine_sees_its_client_leave(reply: Reply, resets: bool):
    """While a reply hangs the connection stays open; closing or resetting it is seen as `disconnected`."""
    expected = b"".join(reply.pieces)
    async with LoopbackEngine({("GET", "/"): reply}) as engine:
        async with client(engine) as (reader, writer):
            writer.write(GET)
            received = await reader.readexactly(len(expected))
            request = await engine.request()
            before = (request.ending, engine.open_connections)
            if resets:
                hang_up(writer)
        await request.disconnected()
        await engine.deserted()

        assert received == expected
        assert before == (None, 1)
        assert (request.ending, engine.open_connections) == ("left", 0)


async def test_a_reply_goes_at_its_readers_pace():
    """A reply larger than the sockets' buffers waits for its reader and arrives whole."""
    data = bytes(range(256)) * 100_000
    reply = Reply.raw(data, cuts=[1, len(data) - 1])
    async with LoopbackEngine({("GET", "/"): reply}) as engine, client(engine) as (reader, writer):
        writer.write(GET)
        request = await engine.request()
        first = await reader.readexactly(1000)
        waiting = request.ending
        rest = await reader.read()

    assert first + rest == data
    assert waiting is None


async def test_a_client_that_stops_reading_is_seen_to_leave():
    """A reply that the client's full buffers hold back ends when the client goes."""
    async with LoopbackEngine({("GET", "/"): Reply.raw(bytes(50_000_000))}) as engine:
        async with client(engine) as (_, writer):
            writer.transport.pause_reading()
            writer.write(GET)
            request = await engine.request()
        await request.disconnected()

    assert request.ending == "left"


async def test_a_reply_brought_to_its_end_was_not_left():
    """`disconnected` raises, and does not hang, where the client took the whole reply."""
    async with LoopbackEngine({("GET", "/"): Reply.json(200, {})}) as engine:
        await ask(engine)

        with pytest.raises(RuntimeError, match="GET / was answered; its client did not leave before that"):
            await engine.requests[0].disconnected()


async def test_events_are_let_out_one_by_one():
    """An asyncio.Event as gate lets one payload out each time it is set, the head before any."""
    gate = asyncio.Event()
    async with (
        LoopbackEngine({("GET", "/"): Reply.sse(["a", "b"], gate=gate)}) as engine,
        client(engine) as (reader, writer),
    ):
        writer.write(GET)
        head = await reader.readuntil(b"\r\n\r\n")
        request = await engine.request()
        gate.set()
        first = await reader.readuntil(b"\n\n\r\n")
        waiting = request.ending
        gate.set()
        rest = await reader.readuntil(b"0\r\n\r\n")

        assert b"Content-Type: text/event-stream\r\n" in head
        assert (first, rest) == (b"9\r\ndata: a\n\n\r\n", b"9\r\ndata: b\n\n\r\n0\r\n\r\n")
        assert waiting is None


async def test_a_gate_may_be_a_function():
    """A function as gate is awaited with the number of each payload before it is written."""
    asked: list[int] = []

    async def gate(index: int) -> None:
        asked.append(index)

    async with LoopbackEngine({("GET", "/"): Reply.sse(["a", "b", "c"], gate=gate)}) as engine:
        await ask(engine)

    assert asked == [0, 1, 2]


async def test_payloads_are_json_text_or_bytes():
    """A mapping is written as JSON, text as it is, bytes without anything added."""
    payloads = [{"t": "ö"}, "[DONE]", b": ping\n\n"]
    async with LoopbackEngine({("GET", "/"): Reply.sse(payloads)}) as engine:
        one = Capture.of("loopback", "sse", b"", await ask(engine))

    assert one.body.decode() == 'data: {"t":"ö"}\n\ndata: [DONE]\n\n: ping\n\n'
    assert one.complete


@pytest.mark.parametrize(("options", "error"), [({"terminated": False}, None), ({"reset": True}, ConnectionResetError)])
async def test_an_event_stream_may_break_off(options: dict[str, bool], error: type[Exception] | None):
    """Without its last chunk an event stream ends by closing or by a reset."""
    async with LoopbackEngine({("GET", "/"): Reply.sse(["a"], **options)}) as engine:
        pieces, lost = await received_pieces(engine)

    assert pieces[1:] == [b"9\r\ndata: a\n\n\r\n"]
    assert type(lost) is (error or type(None))


async def test_a_connection_is_kept():
    """Requests on one connection are answered in order, pipelined ones too."""
    replies = [Reply.json(200, number) for number in (1, 2, 3)]
    async with LoopbackEngine({("GET", "/"): replies}) as engine, client(engine) as (reader, writer):
        writer.write(GET)
        first = await reader.readuntil(b"\r\n\r\n1")
        writer.write(GET + LAST_GET)
        rest = await reader.read()

    assert first.startswith(b"HTTP/1.1 200 OK\r\n")
    assert [piece[-1:] for piece in rest.split(b"HTTP/1.1 200 OK")[1:]] == [b"2", b"3"]
    assert (len(engine.requests), engine.connections_made) == (3, 1)


@pytest.mark.parametrize(
    ("request_bytes", "reply"),
    [
        (b"GET / HTTP/1.1\r\nConnection: Close\r\n\r\n", Reply.json(200, {})),
        (b"GET / HTTP/1.0\r\n\r\n", Reply.json(200, {})),
        (GET, Reply.json(200, {}, headers={"Connection": "close"})),
        (GET, Reply.raw(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")),
        (GET, Reply.raw(b"no HTTP at all")),
    ],
    ids=["asked", "http10", "told", "unframed", "garbage"],
)
async def test_a_connection_is_closed_where_it_must_be(request_bytes: bytes, reply: Reply):
    """`Connection: close` of either side, HTTP/1.0 and a body without framing end the connection after the reply."""
    async with LoopbackEngine({("GET", "/"): reply}) as engine:
        received = await ask(engine, request_bytes)

    assert received == b"".join(reply.pieces)


async def test_requests_are_kept():
    """A request is recorded with method, path, query, headers and body, however its bytes arrive."""
    sent = b'POST /v1/x?a=1&b= HTTP/1.1\r\nX-Key: K\r\nContent-Length: 9\r\nConnection: close\r\n\r\n{"n": 12}'
    async with LoopbackEngine({}) as engine:
        async with client(engine) as (reader, writer):
            for piece in splits(sent, range(len(sent))):
                writer.write(piece)
                await asyncio.sleep(0)
            await reader.read()
        request = engine.requests[0]

    assert (request.method, request.path, request.query) == ("POST", "/v1/x", {"a": "1", "b": ""})
    assert request.headers == {"x-key": "K", "content-length": "9", "connection": "close"}
    assert (request.body, request.json()) == (b'{"n": 12}', {"n": 12})


async def test_a_chunked_request_is_put_together():
    """A request body sent in chunks is recorded without their framing."""
    async with LoopbackEngine({}) as engine:
        await ask(engine, b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")

    assert engine.requests[0].body == b"abc"


async def test_captured_requests_are_understood():
    """Each captured request that the real engines were sent is read as one request, its body whole."""
    sent = [one.request for one in ALL if one.request]
    async with LoopbackEngine(lambda _: Reply.raw(b"")) as engine:
        for request in sent:
            await ask(engine, request)

    assert [request.method for request in engine.requests] == [request.split(b" ")[0].decode() for request in sent]
    assert [r.body for r in engine.requests] == [request.partition(b"\r\n\r\n")[2] for request in sent]


async def test_a_script_may_go_in_turns():
    """Of several replies each request gets the next, the last one serves all further, and paths count by themselves."""
    turns = {("GET", "/"): [Reply.json(503, "later"), Reply.json(200, "now")], ("GET", "/other"): Reply.json(200, "x")}
    async with LoopbackEngine(turns) as engine:
        await ask(engine, b"GET /other HTTP/1.0\r\n\r\n")
        answers = [(await ask(engine)).partition(b"\r\n")[0] for _ in range(3)]

    assert answers == [b"HTTP/1.1 503 Service Unavailable", b"HTTP/1.1 200 OK", b"HTTP/1.1 200 OK"]


async def test_a_script_may_be_a_function():
    """A function sees the request and gives its reply; a status need not have a name."""
    async with LoopbackEngine(lambda request: Reply.json(529, request.query)) as engine:
        answer = await ask(engine, b"GET /?a=b HTTP/1.0\r\n\r\n")

    assert answer.startswith(b"HTTP/1.1 529 ")
    assert answer.endswith(b'\r\n\r\n{"a":"b"}')


async def test_what_is_not_scripted_is_not_found():
    """A path without a script gets a 404 that says so."""
    async with LoopbackEngine({}) as engine:
        one = Capture.of("loopback", "absent", b"", await ask(engine))

    assert (one.status, one.body) == (404, b'{"error":"nothing is scripted for GET /"}')


async def test_a_redirect_has_its_location():
    """A redirect carries status and location, and no body."""
    async with LoopbackEngine({("GET", "/"): Reply.redirect("http://127.0.0.1:1/", status=302)}) as engine:
        one = Capture.of("loopback", "redirect", b"", await ask(engine))

    assert (one.status, one.headers["location"], one.body) == (302, "http://127.0.0.1:1/", b"")


async def failing_gate(index: int) -> None:
    raise LookupError("from the gate")


def failing_script(request: Request) -> Reply:
    raise LookupError("from the script")


@pytest.mark.parametrize("script", [failing_script, {("GET", "/"): Reply.sse(["a"], gate=failing_gate)}])
async def test_a_failing_script_fails_the_test(script: Script):
    """An exception in the script or in a gate closes the connection and comes out where the block ends."""
    with pytest.raises(LookupError, match="from the"):
        async with LoopbackEngine(script) as engine:
            await ask(engine)

    assert engine.requests[0].ending == "stopped"


async def test_the_blocks_own_failure_is_not_hidden():
    """An exception of the block itself is not replaced by one of the script."""

    async def fail_twice() -> None:
        async with LoopbackEngine(failing_script) as engine:
            await ask(engine)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_twice()


def test_a_reply_cannot_both_reset_and_hang():
    """Two endings at once are refused."""
    with pytest.raises(ValueError, match="both reset and hang"):
        Reply.sse([], reset=True, hang=True)


def test_nothing_is_left_behind():
    """Leaving the block ends idle, hanging, waiting, blocked and just begun exchanges; no task or socket stays."""
    script = {
        ("GET", "/idle"): Reply.json(200, {}),
        ("GET", "/hang"): Reply.silence(),
        ("GET", "/gate"): Reply.sse(["a"], gate=asyncio.Event()),
        ("GET", "/full"): Reply.raw(bytes(50_000_000)),
    }

    async def main() -> tuple[LoopbackEngine, int, set[asyncio.Task[object] | None]]:
        async with AsyncExitStack() as clients:
            async with LoopbackEngine(script) as engine:
                for begun in ("GET /idle", "GET /hang", "GET /gate", "GET /full", "GE", ""):
                    _, writer = await clients.enter_async_context(client(engine))
                    writer.transport.pause_reading()
                    writer.write(f"{begun} HTTP/1.1\r\n\r\n".encode() if "/" in begun else begun.encode())
                await engine.request(3)
                connected = engine.open_connections
            return engine, connected, asyncio.all_tasks() - {asyncio.current_task()}

    before = open_descriptors()
    engine, connected, tasks = asyncio.run(main())

    assert (connected, engine.open_connections, tasks) == (6, 0, set())
    assert {request.path: request.ending for request in engine.requests} == {
        "/idle": "answered",
        "/hang": "stopped",
        "/gate": "stopped",
        "/full": "stopped",
    }
    assert open_descriptors() == before


@pytest.mark.parametrize("turns", range(12))
async def test_a_connection_being_accepted_is_not_left_behind(turns: int):
    """At whatever turn of the loop, before or during the end of the block, a client connects: it is dropped."""
    loop = asyncio.get_running_loop()

    def connect(after: int) -> None:
        if after:
            loop.call_soon(connect, after - 1)
        else:
            sock.connect_ex((host, int(port)))

    with socket.socket() as sock:
        sock.setblocking(False)
        async with LoopbackEngine({}) as engine:
            host, port = engine.url.removeprefix("http://").split(":")
            connect(turns)
            for _ in range(5):
                await asyncio.sleep(0)
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for _ in range(5):
            await asyncio.sleep(0)
        dropped = is_dropped(sock)

    assert dropped
    assert not tasks
    assert engine.open_connections == 0


async def test_a_stopped_engine_refuses():
    """After the block nothing listens on the port."""
    async with LoopbackEngine({}) as engine:
        pass

    with pytest.raises(ConnectionRefusedError):
        await ask(engine)
