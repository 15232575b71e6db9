"""HTTP/2 with a second real server, whose HTTP is written in Rust: the cases that need no proxy."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from llama_orch_adapter_api import AdapterError, WorkerError, WorkerReset
from llama_orch_http_util import HttpClient, HttpConfig

from .http2_far_end import RAW, pools, until  # type: ignore[import-not-found]  # test folders are no packages

CA = trustme.CA()
EVENTS = [msgspec.Raw(b'{"n":1}'), msgspec.Raw(b'{"n":2}')]


class Granian:
    """The server in its own process group, and where it is."""

    def __init__(self, folder: Path) -> None:
        cert = CA.issue_cert("127.0.0.1")
        key = serialization.load_pem_private_key(cert.private_key_pem.bytes(), None)
        form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (folder / "key.pem").write_bytes(key.private_bytes(*form))
        (folder / "cert.pem").write_bytes(b"".join(part.bytes() for part in cert.cert_chain_pems))
        CA.cert_pem.write_to_path(folder / "ca.pem")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port: int = free.getsockname()[1]
        self.url = f"https://127.0.0.1:{self._port}"
        self.ca_file = folder / "ca.pem"
        self._command = [
            *(sys.executable, "-m", "granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", str(self._port)),
            *("--ssl-certificate", folder / "cert.pem", "--ssl-keyfile", folder / "key.pem", "--no-ws"),
            *("--working-dir", Path(__file__).parent, "served_by_granian:app"),
        ]

    async def start(self) -> None:
        """Start it, and wait until it listens."""
        quiet = asyncio.subprocess.DEVNULL
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=quiet, stderr=quiet, start_new_session=True
        )
        async with asyncio.timeout(15):
            while True:
                try:
                    _, writer = await asyncio.open_connection("127.0.0.1", self._port)
                except OSError:
                    await asyncio.sleep(0.05)
                else:
                    writer.close()
                    return

    def freeze(self) -> None:
        """Stop it where it stands."""
        os.killpg(self._process.pid, signal.SIGSTOP)

    async def kill(self) -> None:
        """End all of it at once."""
        os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()


@pytest.fixture
def granian(tmp_path: Path) -> Granian:
    """Not yet started."""
    return Granian(tmp_path)


@asynccontextmanager
async def client_of(granian: Granian, **settings: object) -> AsyncIterator[HttpClient]:
    await granian.start()
    try:
        patient = {
            "connect": 10.0,
            "http2_settings_timeout": 10.0,
            **settings,
        }  # granian shares the machine with the tests
        async with HttpClient(granian.url, HttpConfig(ca_file=granian.ca_file, **patient)) as client:
            yield client
    finally:
        if granian._process.returncode is None:
            await granian.kill()


async def events_of(client: HttpClient, path: str) -> list[msgspec.Raw]:
    async with client.stream(path, {"prompt": "x" * 100_000}, RAW) as stream:
        assert stream.http_version == "2"
        return [event async for batch in stream for event in batch]


async def test_streams(granian: Granian) -> None:
    """Cases 1 and 5: HTTP/2 is spoken, events come as they are sent, and 300 streams at once all come to their end."""
    asyncio.get_running_loop().set_debug(False)  # 30 MB of requests, which it would look at piece by piece
    async with client_of(granian) as client:
        async with client.stream("/tasks", {}, RAW) as stream:
            assert [await anext(stream), await anext(stream)] == [EVENTS[:1], EVENTS[1:]]
        async with HttpClient(granian.url) as stranger:
            with pytest.raises(AdapterError) as caught:
                await stranger.request("GET", "/health")
        assert caught.value.detail == "tls"
        print("case 1, granian: 2 spoken, an unknown authority refused, events not buffered")
        answers = await asyncio.gather(*(events_of(client, "/tasks") for _ in range(300)))

        print(f"case 5, granian: 300 streams at once, on {pools()[0].connections} connections")
        assert answers == [EVENTS] * 300


async def test_cancel(granian: Granian) -> None:
    """Case 2: the application is told of each stream that is left; the others and the connection live on."""
    async with client_of(granian) as client:
        others = [asyncio.create_task(events_of(client, "/tasks")) for _ in range(20)]
        for _ in range(5):
            async with client.stream("/long", {}, RAW) as stream:
                assert await anext(stream) == EVENTS[:1]
        began = asyncio.get_running_loop().time()
        async with asyncio.timeout(5):
            while (await client.request("GET", "/left")).body != b"5":
                pass
        took = asyncio.get_running_loop().time() - began

        print(f"case 2, granian: the application knew of 5 cancels {took * 1e3:.1f} ms after the last, when asked")
        assert took < 1
        assert await asyncio.gather(*others) == [EVENTS] * 20
        assert [pool.connections for pool in pools()] == [1]
        assert client.fallbacks == {}


@pytest.mark.parametrize("stalled", [4, 20])
async def test_stalled_readers(stalled: int, granian: Granian) -> None:
    """Case 4: readers that stall hold a window each and none of the others."""
    async with client_of(granian) as client:
        blocks = [client.stream("/flood", {}, RAW) for _ in range(stalled)]
        streams = [await block.__aenter__() for block in blocks]

        def held() -> list[int]:
            return [sum(map(len, stream._answer._exchange._parts)) for stream in streams]

        await until(lambda: min(held()) > 60_000)
        began = asyncio.get_running_loop().time()
        others = await asyncio.gather(*(events_of(client, "/tasks") for _ in range(40)))
        took = asyncio.get_running_loop().time() - began

        print(
            f"case 4, granian: {stalled} stalled hold {max(held())} bytes each at most; 40 others: {took * 1e3:.0f} ms"
        )
        assert others == [EVENTS] * 40
        assert max(held()) <= 65_536
        assert sum([len(batch) async for batch in streams[0]]) == 64
        for block in blocks:
            await block.__aexit__(None, None, None)
        assert [pool.connections for pool in pools()] == [1]


async def test_an_application_that_fails(granian: Granian) -> None:
    """Case 7: an application that fails in mid-stream is never a clean end: the error, or the missing `[DONE]`."""
    async with client_of(granian) as client:
        async with client.stream("/breaks", {}, RAW) as stream:
            assert await anext(stream) == EVENTS[:1]
            with pytest.raises(WorkerReset) as caught:
                async for _ in stream:
                    pass
                raise stream.ended_early()

        print(f"case 7, granian: {caught.value.message}")
        assert caught.value.detail == "truncated"
        assert (await client.request("GET", "/health")).http_version == "2"


@pytest.mark.parametrize("way", ["killed", "frozen"])
async def test_an_end_without_words(way: str, granian: Granian) -> None:
    """Case 6: a server that is killed or frozen ends every stream in a WorkerReset; started again, it is used again."""
    begun: list[msgspec.Raw] = []

    async def failing(client: HttpClient) -> WorkerError:
        async with client.stream("/long", {}, RAW) as stream:
            begun.extend(await anext(stream))
            with pytest.raises(WorkerError) as caught:
                await anext(stream)
        return caught.value

    async with client_of(granian, http2_ping_interval=0.3) as client:
        reading = [asyncio.create_task(failing(client)) for _ in range(50)]
        await until(lambda: len(begun) == 50)
        began = asyncio.get_running_loop().time()
        if way == "killed":
            await granian.kill()
        else:
            granian.freeze()
        errors = await asyncio.gather(*reading)
        took = asyncio.get_running_loop().time() - began
        if way == "killed":
            await granian.start()
            assert (await client.request("GET", "/health")).http_version == "2"

        print(f"case 6, granian {way}: 50 streams told after {took * 1e3:.0f} ms")
        assert {(type(error), error.detail) for error in errors} == {(WorkerReset, "truncated")}
        assert took < 5
