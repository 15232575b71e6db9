"""Each phase of a request has its limit, and says in which one the time ran out (ORCH-3610)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import DecodeTimeout
from llama_orch_adapter_testkit import run_virtual
from llama_orch_http_util import HttpClient, HttpConfig

ANYTHING = msgspec.json.Decoder(Any)
CONFIG = HttpConfig(sock_idle=30)


async def a_stream(client: HttpClient, body: object) -> None:
    async with client.stream("/tasks", body, ANYTHING):
        pass


Send = Callable[[HttpClient, object], Awaitable[object]]

WAYS: dict[str, Send] = {
    "request": lambda client, body: client.request("POST", "/tasks", body),
    "stream": a_stream,
}
BOTH_WAYS = pytest.mark.parametrize("send", WAYS.values(), ids=WAYS)


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


@BOTH_WAYS
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


@BOTH_WAYS
def test_a_peer_that_reads_late(send: Send) -> None:
    """A large request that its peer takes in time is answered, though it had to wait."""

    async def main() -> None:
        loop, peer = asyncio.get_running_loop(), Deaf()
        async with served(peer) as url, HttpClient(url, CONFIG) as client:
            loop.call_later(20, peer.listen)
            await send(client, {"prompt": "x" * (20 << 20)})

            assert 20 <= loop.time() < 30

    run_virtual(main())
