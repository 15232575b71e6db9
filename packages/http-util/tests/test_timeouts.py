"""Each phase of a request has its limit, and says in which one the time ran out (ORCH-3610)."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, nullcontext

import pytest
from llama_orch_adapter_api import DecodeTimeout, PoolUnavailable
from llama_orch_adapter_testkit import Reply, run_virtual
from llama_orch_http_util import HttpClient, HttpConfig

from .clients import (  # type: ignore[import-not-found]  # test folders are no packages
    ANYTHING,
    BOTH_WAYS,
    Fail,
    answering,
    failure,
)


def never_found(loop: asyncio.AbstractEventLoop, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a host whose name is looked up for ever."""

    async def look_up(*_: object, **__: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    return "http://engine:8080"


@contextmanager
def full() -> Iterator[str]:
    """The URL of a port where nobody takes connections and no more of them can wait."""
    with ExitStack() as sockets:
        listening = sockets.enter_context(socket.socket())
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = sockets.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@BOTH_WAYS
@pytest.mark.parametrize("where", ["name", "TCP"])
def test_connecting_takes_too_long(where: str, fail: Fail, monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking the name up and connecting may take `connect` seconds; then the replica is unreachable."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with nullcontext(never_found(loop, monkeypatch)) if where == "name" else full() as url:
            async with HttpClient(url, HttpConfig(connect=3)) as client:
                error = await fail(client)

        assert (type(error), error.detail, error.phase) == (PoolUnavailable, "unreachable", "connect")
        assert (error.answered, error.stale_connection) == (False, False)
        assert "it took too long to connect" in error.message
        assert loop.time() == pytest.approx(3, abs=0.1)

    run_virtual(main())


SILENCES = {
    "no head": b"",
    "in the head": b"HTTP/1.1 200 OK\r\nContent-Le",
    "after a 1xx head": b"HTTP/1.1 103 Early Hints\r\n\r\n",
    "no body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n",
    "in the body": b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{",
}


@pytest.mark.parametrize("answered", SILENCES.values(), ids=SILENCES)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_silent_engine(answered: bytes, method: str) -> None:
    """An engine that falls silent before its answer is whole is a `DecodeTimeout` after `sock_idle` seconds."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        config = HttpConfig(sock_idle=30)
        async with answering(Reply.raw(answered, hang=True)) as engine, HttpClient(engine.url, config) as client:
            begun = loop.time()
            error = await failure(client, method)

            assert (type(error), error.detail, error.phase) == (DecodeTimeout, "first_token", "first_token")
            assert 30 <= loop.time() - begun < 31
            await (await engine.request()).disconnected()

    run_virtual(main())


async def test_a_short_answer_sets_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that is here at once costs one timer, which is gone with it."""
    loop = asyncio.get_running_loop()
    timers: list[asyncio.TimerHandle] = []
    call_later = loop.call_later

    def counted(delay: float, call: Callable[..., object], *arguments: object) -> asyncio.TimerHandle:
        handle = call_later(delay, call, *arguments)
        if "_on_read_timeout" in repr(call):
            timers.append(handle)
        return handle

    monkeypatch.setattr(loop, "call_later", counted)
    async with answering(Reply.json(200, {})) as engine, HttpClient(engine.url) as client:
        for number in range(1, 4):
            await client.request("GET", "/health")
            assert [each.cancelled() for each in timers] == [True] * number


async def test_a_refusal_whose_body_stalls_keeps_its_status() -> None:
    """The status says what matters: an error's body is waited for a second at most."""
    reply = Reply.raw(b"HTTP/1.1 503 Busy\r\nContent-Length: 99\r\n\r\n{", hang=True)
    async with answering(reply) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

    assert (type(error), error.detail) == (PoolUnavailable, "overloaded")


CONFIG = HttpConfig(sock_idle=30)


async def a_stream(client: HttpClient, body: object) -> None:
    async with client.stream("/tasks", body, ANYTHING):
        pass


Send = Callable[[HttpClient, object], Awaitable[object]]

WAYS: dict[str, Send] = {
    "request": lambda client, body: client.request("POST", "/tasks", body),
    "stream": a_stream,
}
SENDING = pytest.mark.parametrize("send", WAYS.values(), ids=WAYS)


class Deaf(asyncio.Protocol):
    """A peer that takes a connection, reads nothing of it until it is told to, and answers when all has come."""

    def __init__(self) -> None:
        self._left = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.pause_reading()

    def listen(self) -> None:
        """Read from now on."""
        self._transport.resume_reading()

    def data_received(self, data: bytes) -> None:
        if data.endswith(b'x"}'):
            self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n")

    def connection_lost(self, _: Exception | None) -> None:
        self._left.set()

    async def left(self) -> None:
        """Return as soon as the connection is closed."""
        await self._left.wait()


@asynccontextmanager
async def served(peer: Deaf) -> AsyncIterator[str]:
    """The URL at which the peer takes one connection."""
    server = await asyncio.get_running_loop().create_server(lambda: peer, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()


@SENDING
@pytest.mark.parametrize("size", [100, 900_000, 1 << 20, 20 << 20])
def test_a_peer_that_does_not_read(size: int, send: Send) -> None:
    """A request of any size that its peer does not take ends after `sock_idle` seconds, and with it the connection."""

    async def main() -> None:
        loop, peer = asyncio.get_running_loop(), Deaf()
        async with served(peer) as url, HttpClient(url, CONFIG) as client:
            begun = loop.time()
            with pytest.raises(DecodeTimeout) as caught:
                await send(client, {"prompt": "x" * size})

            error = caught.value
            assert (error.detail, error.phase, error.answered) == ("first_token", "first_token", False)
            assert 30 <= loop.time() - begun < 31
            assert error.message == f"the socket was silent too long · {client.where} · check the engine"
            peer.listen()
            await peer.left()

    run_virtual(main())


@SENDING
def test_a_peer_that_reads_late(send: Send) -> None:
    """A large request that its peer takes in time is answered, though it had to wait."""

    async def main() -> None:
        loop, peer = asyncio.get_running_loop(), Deaf()
        async with served(peer) as url, HttpClient(url, CONFIG) as client:
            loop.call_later(20, peer.listen)
            await send(client, {"prompt": "x" * (20 << 20)})

            assert 20 <= loop.time() < 30

    run_virtual(main())
