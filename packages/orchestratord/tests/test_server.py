"""Listening, TLS, and how a stop goes."""

import asyncio
import contextlib
import os
import signal
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from llama_orch_adapter_host import ConfigError
from llama_orch_orchestratord._config import ServerSettings, TlsSettings
from llama_orch_orchestratord._server import listening, signals, until_urged
from llama_orch_orchestratord._tls import tls_context

from .serving import until, virtual  # type: ignore[import-not-found]  # test folders are no packages

HERE = ServerSettings(listen="127.0.0.1:0")


async def hello(_: web.Request) -> web.Response:
    return web.Response(text="hello")


def app_of(handler: object = hello) -> web.Application:
    app = web.Application()
    app.router.add_get("/", handler)  # type: ignore[arg-type]
    return app


@asynccontextmanager
async def asking(url: str, **how: object) -> AsyncIterator[aiohttp.ClientResponse]:
    async with aiohttp.ClientSession() as session, session.get(url, **how) as response:  # type: ignore[arg-type]
        yield response


async def test_it_tells_where_it_listens() -> None:
    """Port 0 is any free one, and the URL has it; after the block nobody answers there."""
    async with listening(app_of(), HERE) as url:
        async with asking(url) as response:
            assert await response.text() == "hello"
    with pytest.raises(aiohttp.ClientConnectorError):
        async with asking(url):
            pass


async def test_an_address_that_is_taken() -> None:
    """Where somebody listens already, the mend is another address, and what was set up is let go of."""
    gone: list[web.Application] = []
    app = app_of()

    async def note(app: web.Application) -> None:
        gone.append(app)

    app.on_cleanup.append(note)
    async with listening(app_of(), HERE) as url:
        taken = ServerSettings(listen=url.removeprefix("http://"))
        with pytest.raises(ConfigError, match="1:[0-9]+ cannot be listened on: Address already in use; end what"):
            async with listening(app, taken):
                pass

    assert gone == [app]


class Files:
    """A certificate of an authority of the test's own, in files."""

    def __init__(self, folder: Path) -> None:
        self.authority = trustme.CA()
        issued = self.authority.issue_cert("127.0.0.1")
        self.cert, self.key = folder / "cert.pem", folder / "key.pem"
        self.cert.write_bytes(b"".join(each.bytes() for each in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())

    def client(self) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


async def test_it_speaks_tls(files: Files) -> None:
    """Battery 34: with a certificate it is https, of TLS 1.2 and up; older ones are refused."""
    settings = ServerSettings(listen="127.0.0.1:0", tls=TlsSettings(cert=files.cert, key=files.key))
    old = files.client()
    async with listening(app_of(), settings) as url:
        async with asking(url, ssl=files.client()) as response:
            assert await response.text() == "hello"
        with pytest.warns(DeprecationWarning, match="TLSv1_1 is deprecated"):
            old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises(aiohttp.ClientConnectorError):
            async with asking(url, ssl=old):
                pass

    assert url.startswith("https://127.0.0.1:")
    assert tls_context(TlsSettings(cert=files.cert, key=files.key)).minimum_version == ssl.TLSVersion.TLSv1_2


async def test_a_stop_waits_for_no_client(files: Files) -> None:
    """Battery 30: one that answers nothing, over TLS too, and one that comes at that very moment hold nothing up."""
    loop = asyncio.get_running_loop()

    def dial(port: int) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", port))
        silent = files.client().wrap_socket(raw, server_hostname="127.0.0.1")
        silent.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        assert silent.recv(100).startswith(b"HTTP/1.1 200")
        return silent

    settings = ServerSettings(listen="127.0.0.1:0", tls=TlsSettings(cert=files.cert, key=files.key))
    stumbled: list[object] = []
    loop.set_exception_handler(lambda _, context: stumbled.append(context.get("exception")))
    async with listening(app_of(), settings) as url:
        port = int(url.rpartition(":")[2])
        silent = await asyncio.to_thread(dial, port)
        late = await asyncio.to_thread(socket.create_connection, ("127.0.0.1", port))
        began = loop.time()
    took = loop.time() - began
    late.close()
    silent.settimeout(1.0)
    with silent, contextlib.suppress(ConnectionError, ssl.SSLError):
        while await asyncio.to_thread(silent.recv, 65536):
            pass

    assert took < 2.0
    assert not [error for error in stumbled if isinstance(error, AssertionError)]


def test_a_certificate_that_cannot_be_used(files: Files, tmp_path: Path) -> None:
    """A file that is not there, a key of another certificate, one with a password and one that is none are told."""
    (tmp_path / "other").mkdir()
    stranger = Files(tmp_path / "other")
    locked = tmp_path / "locked.pem"
    locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")

    for cert, key, problem in (
        (tmp_path / "no.pem", files.key, r"tls.cert .*no.pem cannot be read: No such file"),
        (files.cert, tmp_path, r"tls.key .* cannot be read: Is a directory"),
        (files.cert, stranger.key, r"cannot be used \(KEY_VALUES_MISMATCH\); give a certificate and its own key"),
        (files.cert, locked, r"cannot be used \(.*\); give .* without a password"),
        (files.key, files.key, r"cannot be used"),
    ):
        with pytest.raises(ConfigError, match=problem):
            tls_context(TlsSettings(cert=cert, key=key))


async def test_signals_ask_and_then_urge() -> None:
    """The first signal asks to stop, the second to do so at once; after the block they are what they were."""
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with signals() as stop:
        urged = asyncio.create_task(stop.urged())
        asked = asyncio.create_task(stop.asked())
        await asyncio.sleep(0)
        os.kill(os.getpid(), signal.SIGTERM)
        await asked
        assert not urged.done()
        os.kill(os.getpid(), signal.SIGINT)
        await urged

    assert stop.first is signal.SIGTERM
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


async def test_before_it_serves_a_signal_cancels() -> None:
    """While an engine loads there is nothing to drain: the signal cancels what is awaited."""

    async def load() -> None:
        with signals():
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()

    with pytest.raises(asyncio.CancelledError):
        await asyncio.create_task(load())


@virtual
async def test_a_second_signal_gives_up_the_draining() -> None:
    """Draining is awaited to its end, or cancelled by a second signal; what it raises is not lost."""
    ended: list[str] = []

    async def drain(seconds: float) -> None:
        try:
            await asyncio.sleep(seconds)
            ended.append("drained")
        except asyncio.CancelledError:
            ended.append("given up")
            raise

    async def fails() -> None:
        raise RuntimeError("no")

    with signals() as stop:
        await until_urged(stop, drain(5))
        stopping = asyncio.create_task(until_urged(stop, drain(5000)))
        asked = asyncio.create_task(stop.asked())
        await asyncio.sleep(1)
        stop.come(signal.SIGINT)
        stop.come(signal.SIGINT)
        await asked
        await stopping
    with pytest.raises(RuntimeError), signals() as stop:
        await until_urged(stop, fails())

    assert ended == ["drained", "given up"]


async def test_a_client_that_leaves_cancels_its_handler() -> None:
    """What a handler waits for in vain is cancelled as soon as the client is gone."""
    begun, gone = asyncio.Event(), asyncio.Event()

    async def wait(_: web.Request) -> web.Response:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            gone.set()
        return web.Response()

    async with listening(app_of(wait), HERE) as url:
        _, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await begun.wait()
        writer.close()
        await until(gone.is_set)
