"""A connection of HTTP/2: what its streams get, how each ends, and what the others notice of it (cases 2, 4, 6, 7)."""

import asyncio
import secrets
from pathlib import Path

import pytest
from h2.errors import ErrorCodes
from llama_orch_adapter_api import AdapterError, DecodeTimeout, PoolUnavailable, Secret, WorkerError, WorkerReset
from llama_orch_http_util import HttpClient

from .http2_far_end import (  # type: ignore[import-not-found]  # test folders are no packages
    RAW,
    SSE,
    Far,
    FarEnd,
    drained,
    pools,
    trusting,
    until,
)

KIB = 1024


async def held_open(stream: Far) -> None:
    """Say nothing, or one event and no more."""
    if stream.path == "/health":
        await stream.json({})
        return
    if stream.path != "/silent":
        stream.head()
        await stream.events([1])
    await asyncio.Event().wait()


async def failure_of(client: HttpClient, path: str = "/tasks") -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await drained(client, path)
    return caught.value


async def test_a_request_and_a_stream(tmp_path: Path) -> None:
    """A request, its key and its answer go over HTTP/2 as they go over 1.1, and no host header with them."""
    key = Secret(secrets.token_hex(8))

    async def script(stream: Far) -> None:
        await stream.whole.wait()
        if stream.method == "GET":
            await stream.json({"n": 1})
        else:
            stream.head()
            await stream.send(b"data: %s\n\ndata: [DONE]\n\n" % stream.body, end=True)

    async with FarEnd(script) as far, HttpClient(far.url + "/base/", trusting(tmp_path), api_key=key) as client:
        response = await client.request("GET", "/props?a=b c")
        async with client.stream("/tasks", {"n": 2}, RAW) as stream:
            assert [bytes(event) async for batch in stream for event in batch] == [b'{"n":2}']
            assert stream.http_version == "2"

        assert (response.status, response.body, response.http_version) == (200, b'{"n": 1}', "2")
        get, post = far.asked
        assert (get.method, get.path, post.method, post.path) == ("GET", "/base/props?a=b+c", "POST", "/base/tasks")
        assert post.headers == {
            ":scheme": "https",
            ":authority": f"127.0.0.1:{far.port}",
            "accept-encoding": "identity",
            "user-agent": "llama-orch",
            "authorization": f"Bearer {key.reveal()}",
            "content-type": "application/json",
            "content-length": "7",
        }
        assert get.never_indexed == post.never_indexed == ["authorization"]  # no compression context learns the key
        assert len(far.connections) == 1


@pytest.mark.parametrize("way", ["before the head", "in mid-stream", "leaving the block"])
async def test_a_stream_that_is_left(way: str, tmp_path: Path) -> None:
    """Case 2: the peer sees the reset of a stream that is left; the other 99 and the connection live on."""
    events: asyncio.Queue[int] = asyncio.Queue()
    clock = asyncio.get_running_loop().time
    moments: list[float] = []

    async def script(stream: Far) -> None:
        if stream.path == "/silent":
            await asyncio.Event().wait()
        stream.head()
        await stream.events([1])
        if stream.path == "/left":
            await asyncio.Event().wait()
        await stream.whole.wait()
        await asyncio.sleep(0.3)
        await stream.send(b"data: 2\n\ndata: [DONE]\n\n", end=True)

    async def leave(client: HttpClient) -> None:
        async with client.stream("/silent" if way == "before the head" else "/left", {}, RAW) as stream:
            async for _ in stream:
                events.put_nowait(1)
                if way == "leaving the block":
                    moments.append(clock())
                    break

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        others = [asyncio.create_task(drained(client)) for _ in range(99)]
        await until(lambda: len(far.asked) == 99)
        leaving = asyncio.create_task(leave(client))
        if way == "before the head":
            await until(lambda: len(far.asked) == 100)
        else:
            await events.get()
        if way != "leaving the block":
            moments.append(clock())
            leaving.cancel()
        left = far.asked[99]
        await left.reset.wait()
        seen_after = clock() - moments[0]
        await asyncio.wait([leaving])
        print(f"case 2, {way}: reset seen after {seen_after * 1e3:.1f} ms")

        assert left.code == ErrorCodes.CANCEL
        assert seen_after < 1
        assert await asyncio.gather(*others) == [[1, 2]] * 99
        assert len(far.connections) == 1
        assert pools()[0].open_streams == 0
        assert (await client.request("GET", "/tasks")).http_version == "2"


@pytest.mark.parametrize("stalled", [4, 20])
async def test_readers_that_stall(stalled: int, tmp_path: Path) -> None:
    """Case 4: readers that stall hold at most a window each, and none of the others."""
    sent: dict[int, int] = {}

    async def script(stream: Far) -> None:
        stream.head()
        if stream.path == "/tasks":
            await stream.events(range(50))
            await stream.send(b"data: [DONE]\n\n", end=True)
        while stream.path == "/flood":
            await stream.send(b"data: " + b"7" * (16 * KIB) + b"\n\n")
            sent[stream.number] = sent.get(stream.number, 0) + 1

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        blocks = [client.stream("/flood", {}, RAW) for _ in range(stalled)]
        streams = [await block.__aenter__() for block in blocks]
        await until(lambda: len(sent) == stalled and min(sent.values()) >= 3)
        clock = asyncio.get_running_loop().time
        began = clock()
        others = await asyncio.gather(*(drained(client) for _ in range(20)))
        took = (clock() - began) * 1e3
        held = [sum(map(len, stream._answer._exchange._parts)) for stream in streams]
        print(f"case 4: {stalled} stalled readers hold {max(held) / KIB:.0f} KiB each; 20 others took {took:.0f} ms")

        assert others == [list(range(50))] * 20
        assert max(held) <= 64 * KIB
        assert max(sent.values()) <= 4
        first = 0
        async for batch in streams[0]:
            first += len(batch)
            if first >= 20:
                break
        for block in blocks:
            await block.__aexit__(None, None, None)
        assert len(far.connections) == 1
        assert await drained(client) == list(range(50))


async def test_a_frozen_peer(tmp_path: Path) -> None:
    """Case 6: a peer that has stopped answering is found by PING; whoever waits for it is told."""
    config = trusting(tmp_path, http2_ping_interval=0.1)
    async with FarEnd(held_open) as far, HttpClient(far.url, config) as client:
        async with client.stream("/tasks", {}, RAW) as stream:
            assert await anext(stream) == [RAW.decode(b"1")]
            before_head = asyncio.create_task(failure_of(client, "/silent"))
            await until(lambda: far.connections[0].pings >= 2)
            far.connections[0].deaf = True
            began = asyncio.get_running_loop().time()
            with pytest.raises(WorkerReset, match=r"the answer broke off \(no answer to a PING\)") as caught:
                await anext(stream)
            print(
                f"case 6, frozen: found after {asyncio.get_running_loop().time() - began:.2f} s at a PING every 0.1 s"
            )
        other = await before_head

        assert (caught.value.detail, caught.value.phase) == ("truncated", "decode")
        assert (type(other), other.detail, other.answered, other.stale_connection) == (
            WorkerReset,
            "reset",
            False,
            False,
        )
        assert (await client.request("GET", "/health")).status == 200


async def test_a_peer_that_was_frozen_before(tmp_path: Path) -> None:
    """A request to a peer that is frozen already met no stale connection: nobody closed it, and no retry is free."""
    config = trusting(tmp_path, http2_ping_interval=0.1)
    async with FarEnd(held_open) as far, HttpClient(far.url, config) as client:
        await client.request("GET", "/health")
        far.connections[0].deaf = True
        error = await failure_of(client, "/silent")

        assert (type(error), error.detail, error.stale_connection) == (WorkerReset, "reset", False)
        assert "the connection broke (no answer to a PING)" in error.message


async def test_a_peer_that_answers_pings_is_patient(tmp_path: Path) -> None:
    """A peer that is busy for long, and answers PINGs, is not given up; an unused connection is closed."""
    config = trusting(tmp_path, http2_ping_interval=0.05)
    async with FarEnd(held_open) as far, HttpClient(far.url, config) as client:
        async with client.stream("/tasks", {}, RAW):
            await until(lambda: far.connections[0].pings >= 5)
        assert far.live
        await until(lambda: not far.live)
        assert pools()[0].connections == 0
        assert (await client.request("GET", "/health")).status == 200


@pytest.mark.parametrize(("path", "detail"), [("/silent", "first_token"), ("/tasks", "idle")])
async def test_the_idle_limit(path: str, detail: str, tmp_path: Path) -> None:
    """A stream that is silent too long is given up, before its head and after, and reset; the connection lives on."""
    async with FarEnd(held_open) as far, HttpClient(far.url, trusting(tmp_path, sock_idle=0.2)) as client:
        error = await failure_of(client, path)

        assert (type(error), error.detail, error.answered) == (DecodeTimeout, detail, path == "/tasks")
        await until(far.asked[0].reset.is_set)
        assert (await client.request("GET", "/health")).http_version == "2"
        assert len(far.connections) == 1


@pytest.mark.parametrize("begun", [False, True])
async def test_a_killed_peer(begun: bool, tmp_path: Path) -> None:
    """Case 6: when the connection breaks, every stream ends in a WorkerReset, and the next request works."""
    async with FarEnd(held_open) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        reading = [asyncio.create_task(failure_of(client, "/tasks" if begun else "/silent")) for _ in range(50)]
        await until(lambda: len(far.asked) == 50)
        await asyncio.sleep(0.05)
        far.connections[0].transport.abort()
        began = asyncio.get_running_loop().time()
        errors = await asyncio.gather(*reading)
        took = asyncio.get_running_loop().time() - began
        print(f"case 6, killed: 50 streams told after {took * 1e3:.0f} ms")

        assert took < 2
        assert {(type(error), error.detail) for error in errors} == {(WorkerReset, "truncated" if begun else "reset")}
        assert (await client.request("GET", "/health")).http_version == "2"
        assert client.fallbacks == {}


@pytest.mark.parametrize("code", ["INTERNAL_ERROR", "CANCEL", "NO_ERROR"])
async def test_a_stream_that_is_cut(code: str, tmp_path: Path) -> None:
    """Case 7: a stream that the peer resets gives what had come, then an error, never a clean end."""

    async def script(stream: Far) -> None:
        stream.head()
        await stream.events([1, 2])
        stream.refuse(ErrorCodes[code])

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        async with client.stream("/tasks", {}, RAW) as stream:
            assert await anext(stream) == [RAW.decode(b"1"), RAW.decode(b"2")]
            with pytest.raises(WorkerReset) as caught:
                await anext(stream)

        print(f"case 7: {caught.value.message}")
        told = f"the answer broke off ({code}) · {client.where} · look at the engine's own log"
        assert (caught.value.message, caught.value.detail, caught.value.phase) == (told, "truncated", "decode")
        assert (caught.value.answered, caught.value.engine_fault) == (True, True)
        assert client.fallbacks == {}
        assert far.live


async def test_a_body_as_the_peer_has_room(tmp_path: Path) -> None:
    """A large body is sent as the peer takes it, whole; meanwhile others are served."""

    async def script(stream: Far) -> None:
        await stream.whole.wait()
        await stream.json({"size": len(stream.body)})

    text = "x" * (3 << 20)
    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        large = asyncio.create_task(client.request("POST", "/tasks", text))
        small = await client.request("GET", "/health")

        assert (await large).body == b'{"size": %d}' % (len(text) + 2)
        assert small.body == b'{"size": 0}'
        assert {stream.headers.get("content-length") for stream in far.asked} == {None, str(len(text) + 2)}


async def test_a_refusal_before_the_whole_body(tmp_path: Path) -> None:
    """An engine that refuses a body half-way is heard at once; the rest is not sent, and the connection lives on."""

    async def script(stream: Far) -> None:
        stream.head(413, {})
        await stream.send(b'{"error":"too large"}', end=True)

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        with pytest.raises(AdapterError, match="the engine answered 413: too large"):
            await client.request("POST", "/tasks", "x" * (3 << 20))

        await until(far.asked[0].reset.is_set)
        assert len(far.asked[0].body) < 3 << 20
        assert len(far.connections) == 1


async def test_heads_and_endings_of_all_kinds(tmp_path: Path) -> None:
    """1xx heads and trailers are passed over; an answer may have no body; padding costs nobody's window."""

    async def script(stream: Far) -> None:
        h2 = stream.connection.h2
        if stream.path == "/empty":
            stream.head(204, {"x-odd": "\xe9"}, end=True)
            return
        h2.send_headers(stream.number, [(":status", "103"), ("link", "</a>")])
        stream.head(200, SSE)
        for number in range(400):
            while h2.local_flow_control_window(stream.number) < 300:
                stream.room.clear()
                await stream.room.wait()
            h2.send_data(stream.number, b"data: %d\n\n" % number, pad_length=200)
            stream.connection.flush()
            await asyncio.sleep(0)
        h2.send_headers(stream.number, [("x-took", "1")], end_stream=True)
        stream.connection.flush()

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path, http2_window=2048)) as client:
        empty = await client.request("GET", "/empty")
        numbers: list[int] = []
        with pytest.raises(WorkerReset, match="the stream ended without a finish event"):
            async with client.stream("/tasks", {}, RAW) as stream:
                numbers += [int(bytes(event)) async for batch in stream for event in batch]
                raise stream.ended_early()

        assert (empty.status, empty.body) == (204, b"")
        assert numbers == list(range(400))
        assert len(far.connections) == 1


async def test_what_the_engine_answers_means_the_same(tmp_path: Path) -> None:
    """Statuses and engines' words mean over HTTP/2 what they mean over 1.1; an encoding is refused as there."""

    async def script(stream: Far) -> None:
        if stream.path == "/encoded":
            stream.head(200, {"content-encoding": "gzip"}, end=True)
        else:
            stream.head(503, {"retry-after": "7"})
            await stream.send(b'{"error":{"message":"Loading model"}}', end=True)

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        with pytest.raises(PoolUnavailable, match="the engine answered 503: Loading model") as caught:
            await client.request("GET", "/props")
        with pytest.raises(AdapterError, match="the answer is encoded as gzip"):
            await client.request("GET", "/encoded")

        assert (caught.value.detail, caught.value.retry_after) == ("loading", 7.0)
