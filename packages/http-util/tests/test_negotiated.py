"""Which version an https engine is spoken to, and how requests get from one to the other unnoticed (cases 1 and 8)."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme
from h2.errors import ErrorCodes
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerReset
from llama_orch_adapter_testkit import Reply
from llama_orch_http_util import HttpClient, HttpConfig

from .http2_far_end import (  # type: ignore[import-not-found]  # test folders are no packages
    RAW,
    Far,
    FarEnd,
    Http2Far,
    drained,
    silent,
    trusting,
)


async def answer(stream: Far) -> None:
    """A whole answer, or a stream of three."""
    if stream.method == "GET":
        await stream.json({"http": 2})
    else:
        stream.head()
        await stream.events(range(3))
        await stream.send(b"data: [DONE]\n\n", end=True)


def told(kind: str, client: HttpClient) -> list[str]:
    return [f"{kind}: HTTP/1.1 is spoken for 300 s · {client.where}"]


@pytest.mark.parametrize(
    ("versions", "wanted", "spoken"),
    [
        (("h2", "http/1.1"), "auto", "2"),
        (("http/1.1", "h2"), "auto", "1.1"),
        (("http/1.1",), "auto", "1.1"),
        (("h2", "http/1.1"), "1.1", "1.1"),
        (("h2",), "2", "2"),
    ],
)
async def test_the_version(versions: tuple[str, ...], wanted: str, spoken: str, tmp_path: Path) -> None:
    """Case 1, ORCH-3610: HTTP/2 where the peer offers it, 1.1 where not or where configured; the answer tells."""
    said: list[str] = []
    config = trusting(tmp_path, http_version=wanted)
    async with FarEnd(answer, versions=versions) as far, HttpClient(far.url, config, narrate=said.append) as client:
        for _ in range(3):
            assert (await client.request("GET", "/props")).http_version == spoken

        print(f"case 1: {versions} offered, {wanted} wanted: {spoken} spoken")
        assert len(far.asked) == (3 if spoken == "2" else 0)
        assert (said, client.fallbacks) == ([], {})


async def test_an_origin_without_http2_is_remembered(tmp_path: Path) -> None:
    """An origin that answers 1.1 costs one handshake in the cool-down, whichever client asks, and how many at once."""
    async with FarEnd(answer, versions=("http/1.1",)) as far:
        config = trusting(tmp_path)
        for _ in range(2):
            async with HttpClient(far.url, config) as client:
                await asyncio.gather(*(client.request("GET", "/props") for _ in range(5)))

        print(f"case 1: 10 requests of 2 clients to a 1.1 origin opened {far.accepted} connections, one of them to ask")
        assert far.accepted == 1 + 2 * 5
        assert len(far.http1_requests) == 10


async def test_only_http2(tmp_path: Path) -> None:
    """Case 1: "2" on an origin that speaks 1.1 alone is told with the mend, and no request is sent."""
    config = trusting(tmp_path, http_version="2")
    async with FarEnd(answer, versions=("http/1.1",)) as far, HttpClient(far.url, config) as client:
        for _ in range(2):
            with pytest.raises(AdapterError) as caught:
                await client.request("GET", "/props")

            error = caught.value
            assert (error.detail, error.phase, error.answered, error.retriable) == (
                *("unsupported", "connect", False, False),
            )
            mend = 'set http.http_version to "auto"'
            assert error.message == f"it does not speak HTTP/2 (OtherVersion) · {client.where} · {mend}"
        assert far.http1_requests == []


async def test_a_wrong_authority(tmp_path: Path) -> None:
    """Case 1: a certificate that is not trusted is refused before a byte of the request, as over 1.1."""
    path = tmp_path / "other.pem"
    path.write_bytes(trustme.CA().cert_pem.bytes())
    async with FarEnd(answer) as far:
        errors = []
        for version in ("auto", "2", "1.1"):
            async with HttpClient(far.url, HttpConfig(ca_file=path, http_version=version)) as client:
                with pytest.raises(AdapterError, match="its certificate is not trusted") as caught:
                    await client.request("GET", "/props")
                errors.append((caught.value.message, caught.value.detail, caught.value.phase, caught.value.answered))

        assert len(set(errors)) == 1
        assert far.asked == []


async def test_a_stream_is_not_buffered(tmp_path: Path) -> None:
    """Case 1: each event is here before the next one is sent."""
    go = asyncio.Event()

    async def script(stream: Far) -> None:
        stream.head()
        for number in range(20):
            await stream.send(b"data: %d\n\n" % number)
            await go.wait()
            go.clear()
        await stream.send(b"data: [DONE]\n\n", end=True)

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        numbers = []
        async with client.stream("/tasks", {}, RAW) as stream:
            async for batch in stream:
                numbers.append([int(bytes(event)) for event in batch])
                go.set()

        assert numbers == [[number] for number in range(20)]


def hangs_up(far: Http2Far) -> None:
    """Closed before SETTINGS."""
    far.transport.close()


def speaks_http1(far: Http2Far) -> None:
    """Another protocol than was chosen."""
    far.transport.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def pings_first(far: Http2Far) -> None:
    """A frame that may not come first."""
    far.transport.write(b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + b"12345678")


@pytest.mark.parametrize("greet", [silent, hangs_up, speaks_http1, pings_first])
async def test_failure_before_settings(greet: Callable[[Http2Far], None], tmp_path: Path) -> None:
    """Case 8: a peer that offers HTTP/2 and cannot is asked over 1.1 at once, with a POST too; told once, counted."""
    said: list[str] = []
    config = trusting(tmp_path, http2_settings_timeout=0.3)
    stream = Reply.sse([{"n": 0}, "[DONE]"])
    async with (
        FarEnd(answer, greet=greet, http1=lambda _: stream) as far,
        HttpClient(far.url, config, narrate=said.append) as client,
    ):
        clock = asyncio.get_running_loop().time
        began = clock()

        async def read() -> int:
            async with client.stream("/tasks", {}, RAW) as events:
                assert events.http_version == "1.1"
                return sum([len(batch) async for batch in events])

        assert await asyncio.gather(*(read() for _ in range(10))) == [1] * 10
        print(f"case 8, {greet.__doc__} 10 POSTs were answered over 1.1 after {(clock() - began) * 1e3:.0f} ms")
        await read()

        assert said == told("it offers HTTP/2, and sends no SETTINGS", client)
        assert client.fallbacks == {"unstarted": 10}
        assert len(far.connections) == 1
        assert len(far.http1_requests) == 11


@pytest.mark.parametrize(
    ("code", "reason", "words", "asked"),
    [
        ("HTTP_1_1_REQUIRED", "http_1_1_required", "it asks for HTTP/1.1", 1),
        ("REFUSED_STREAM", "refused", "it refuses HTTP/2 streams", 2),
    ],
)
async def test_a_refused_request(code: str, reason: str, words: str, asked: int, tmp_path: Path) -> None:
    """Case 8: a POST that HTTP/2 refuses is answered over 1.1, and nobody notices but the narration."""
    said: list[str] = []

    async def script(stream: Far) -> None:
        await stream.whole.wait()
        stream.refuse(ErrorCodes[code])

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path), narrate=said.append) as client:
        for _ in range(3):
            assert (await client.request("POST", "/tasks", {})).http_version == "1.1"

        print(f"case 8, {code}: asked {asked} times over 2, answered over 1.1")
        assert said == told(words, client)
        assert client.fallbacks == {reason: 1}
        assert (len(far.asked), len(far.http1_requests)) == (asked, 3)
        assert {request.body for request in far.http1_requests} == {b"{}"}


async def test_a_request_refused_once(tmp_path: Path) -> None:
    """A stream that is refused once is sent again over HTTP/2, and that is no attempt of anybody's."""
    seen: list[Far] = []

    async def script(stream: Far) -> None:
        seen.append(stream)
        if len(seen) % 2:
            stream.refuse(ErrorCodes.REFUSED_STREAM)
        else:
            await answer(stream)

    said: list[str] = []
    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path), narrate=said.append) as client:
        for _ in range(3):
            assert await drained(client) == [0, 1, 2]

        assert (said, client.fallbacks, far.http1_requests) == ([], {}, [])


def bad_headers(stream: Far) -> None:
    """A header block that HPACK cannot read."""
    stream.connection.raw(b"\x00\x00\x04\x01\x04" + stream.number.to_bytes(4, "big") + b"\xff\xff\xff\xff")


def goaway(stream: Far) -> None:
    """An error of the connection, told by the peer."""
    stream.connection.goaway(stream.number, ErrorCodes.COMPRESSION_ERROR)
    stream.connection.transport.close()


def bad_settings(stream: Far) -> None:
    """Something else that may not be: a window of more than 2^31 - 1."""
    stream.connection.raw(b"\x00\x00\x06\x04\x00\x00\x00\x00\x00" + b"\x00\x04\xff\xff\xff\xff")


def no_number(stream: Far) -> None:
    """A status that is no number."""
    stream.connection.h2.send_headers(stream.number, [(":status", "2x0")])
    stream.connection.flush()


def resets(stream: Far) -> None:
    """The peer does not understand the stream."""
    stream.refuse(ErrorCodes.PROTOCOL_ERROR)


@pytest.mark.parametrize("breach", [bad_headers, goaway, bad_settings, no_number, resets])
async def test_a_breach_before_the_head(breach: Callable[[Far], None], tmp_path: Path) -> None:
    """Case 8: after an error of HTTP/2 before the head the origin is marked; a GET is replayed, a POST is raised."""
    said: list[str] = []

    async def script(stream: Far) -> None:
        await stream.whole.wait()
        breach(stream)

    config = trusting(tmp_path)
    for method in ("GET", "POST"):
        async with FarEnd(script) as far, HttpClient(far.url, config, narrate=said.append) as client:
            if method == "GET":
                assert (await client.request("GET", "/props")).http_version == "1.1"
            else:
                with pytest.raises(WorkerReset) as caught:
                    await client.request("POST", "/tasks", {})
                assert (caught.value.detail, caught.value.answered) == ("reset", False)
                assert "the connection broke (" in caught.value.message
            assert (await client.request("POST", "/tasks", {})).http_version == "1.1"

            print(f"case 8, {breach.__doc__} {method}: {dict(client.fallbacks)}")
            assert said.pop() == told("its HTTP/2 breaks the protocol", client)[0]
            assert client.fallbacks == ({"violated": 1} if method == "GET" else {})
            assert len(far.asked) == 1
    assert said == []


async def test_a_peer_that_rejects(tmp_path: Path) -> None:
    """Case 8: a connection ended for an error, before any stream was looked at: a POST too goes to 1.1 at once."""

    async def script(stream: Far) -> None:
        stream.connection.goaway(0, ErrorCodes.PROTOCOL_ERROR)

    said: list[str] = []
    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path), narrate=said.append) as client:
        answers = await asyncio.gather(*(client.request("POST", "/tasks", {}) for _ in range(5)))

        assert {each.http_version for each in answers} == {"1.1"}
        assert said == told("it ended an HTTP/2 connection for an error", client)
        assert client.fallbacks == {"rejected": 5}


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("looked_at", [False, True])
async def test_a_goodbye_that_asks_for_http1(looked_at: bool, method: str, tmp_path: Path) -> None:
    """Case 8: HTTP_1_1_REQUIRED may be a connection's last word, too; a POST it may have looked at is raised."""

    async def script(stream: Far) -> None:
        await stream.whole.wait()
        stream.connection.goaway(looked_at, ErrorCodes.HTTP_1_1_REQUIRED)
        stream.connection.transport.close()

    said: list[str] = []
    raised = looked_at and method == "POST"
    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path), narrate=said.append) as client:
        if raised:
            with pytest.raises(WorkerReset, match="HTTP_1_1_REQUIRED"):
                await client.request(method, "/tasks")
        assert (await client.request(method, "/tasks")).http_version == "1.1"

        print(f"case 8, HTTP_1_1_REQUIRED in a GOAWAY, {looked_at=}, {method}: {dict(client.fallbacks)}")
        words = "its HTTP/2 breaks the protocol" if looked_at else "it asks for HTTP/1.1"
        assert said == told(words, client)
        assert client.fallbacks == ({} if raised else {"violated" if looked_at else "http_1_1_required": 1})
        assert len(far.asked) == 1


@pytest.mark.parametrize("head", [False, True])
async def test_an_engine_that_dies(head: bool, tmp_path: Path) -> None:
    """Case 8: INTERNAL_ERROR is the engine's fault: raised, not replayed, and the origin keeps its good name."""

    async def script(stream: Far) -> None:
        if head:
            stream.head()
        stream.refuse(ErrorCodes.INTERNAL_ERROR)

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        for _ in range(2):
            with pytest.raises(WorkerReset, match="INTERNAL_ERROR") as caught:
                await drained(client)
            assert (caught.value.detail, caught.value.engine_fault) == ("truncated" if head else "reset", True)
            assert caught.value.__context__ is None  # which would hold on to the request

        print(f"case 8, INTERNAL_ERROR {'after' if head else 'before'} the head: raised, no mark")
        assert (len(far.asked), far.http1_requests, client.fallbacks) == (2, [], {})


async def test_a_mark_ends(tmp_path: Path) -> None:
    """After the cool-down HTTP/2 is tried again; what fails again is told again."""
    broken = True

    async def script(stream: Far) -> None:
        if broken:
            stream.refuse(ErrorCodes.HTTP_1_1_REQUIRED)
        else:
            await answer(stream)

    said: list[str] = []
    config = trusting(tmp_path, http2_cool_down=0.2)
    async with FarEnd(script) as far, HttpClient(far.url, config, narrate=said.append) as client:
        versions = []
        for pause in (0, 0, 0.25, 0.25):
            await asyncio.sleep(pause)
            versions.append((await client.request("GET", "/props")).http_version)
            broken = len(versions) < 3

        assert versions == ["1.1", "1.1", "1.1", "2"]
        assert said == [f"it asks for HTTP/1.1: HTTP/1.1 is spoken for 0.2 s · {client.where}"] * 2


@pytest.mark.parametrize("code", ["HTTP_1_1_REQUIRED", "REFUSED_STREAM", "PROTOCOL_ERROR"])
async def test_no_fallback_where_only_http2_is_wanted(code: str, tmp_path: Path) -> None:
    """With "2" what HTTP/2 refuses is an error, and nothing is remembered against the origin."""

    async def script(stream: Far) -> None:
        stream.refuse(ErrorCodes[code])

    config = trusting(tmp_path, http_version="2")
    async with FarEnd(script) as far, HttpClient(far.url, config) as client:
        with pytest.raises(WorkerReset, match=code):
            await client.request("GET", "/props")
        asked = len(far.asked)
        with pytest.raises(WorkerReset, match=code):
            await client.request("GET", "/props")

        assert len(far.asked) == 2 * asked
        assert (far.http1_requests, client.fallbacks) == ([], {})


async def test_a_server_that_goes_away(tmp_path: Path) -> None:
    """A server that ends between its handshake and its SETTINGS is unreachable, and no peer of HTTP/1.1 for that."""
    gone = True

    def greet(far: Http2Far) -> None:
        if gone:
            far.server._server.close()
            far.transport.abort()
        else:
            far.flush()

    async with FarEnd(answer, greet=greet) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        with pytest.raises(PoolUnavailable) as caught:
            await client.request("GET", "/props")
        gone = False
        await far.again()
        assert (await client.request("GET", "/props")).http_version == "2"

        assert (caught.value.detail, caught.value.phase) == ("unreachable", "connect")
