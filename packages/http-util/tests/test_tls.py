"""TLS: whose certificate is taken, what switches the check off, and how connections end (battery 34, tls_matrix)."""

import asyncio
import hashlib
import logging
import os
import ssl
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal, Self

import msgspec
import pytest
import trustme
from cryptography import x509
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerError
from llama_orch_adapter_testkit import LoopbackEngine, Reply, run_virtual
from llama_orch_http_util import HttpClient, HttpConfig, _session, _tls

RAW = msgspec.json.Decoder(msgspec.Raw)
OK = Reply.json(200, {})
CA = trustme.CA()
OTHER_CA = trustme.CA()
NOW = datetime.now(UTC)
DAY = timedelta(days=1)
INSECURE = HttpConfig(insecure_tls=True)


def issued(name: str = "127.0.0.1", ca: trustme.CA = CA, *, begins: int = -1, ends: int = 1) -> ssl.SSLContext:
    """A server's context with a certificate of `ca`, good from and until so many days from now."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name, not_before=NOW + begins * DAY, not_after=NOW + ends * DAY).configure_cert(context)
    return context


def self_signed() -> ssl.SSLContext:
    """An authority's own certificate as that of a server."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with OTHER_CA.private_key_pem.tempfile() as key, OTHER_CA.cert_pem.tempfile() as cert:
        context.load_cert_chain(cert, key)
    return context


def speaking_only(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A good certificate over one version of TLS."""
    context = issued()
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    return context


def answering(tls: ssl.SSLContext, reply: Reply = OK) -> LoopbackEngine:
    return LoopbackEngine(lambda _: reply, tls=tls)


async def failure(client: HttpClient) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await client.request("GET", "/health")
    return caught.value


def write(path: Path, *authorities: trustme.CA) -> None:
    """Write these authorities, and not in the same moment as before."""
    before = path.stat().st_mtime_ns if path.exists() else 0
    path.write_bytes(b"".join(ca.cert_pem.bytes() for ca in authorities))
    os.utime(path, ns=(0, before + 1))


@pytest.fixture
def ca_file(tmp_path: Path) -> Path:
    """A file with the authority that the good certificates are from."""
    path = tmp_path / "ca.pem"
    write(path, CA)
    return path


@pytest.fixture
def _other_ca_is_the_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The system trusts one authority."""
    path = tmp_path / "system.pem"
    write(path, OTHER_CA)
    paths = ssl.get_default_verify_paths()._replace(openssl_cafile=str(path))
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    _tls._build.cache_clear()
    yield
    _tls._build.cache_clear()


UNTRUSTED: dict[str, tuple[Callable[[], ssl.SSLContext], str]] = {
    "self-signed": (self_signed, "self-signed certificate"),
    "unknown authority": (lambda: issued(ca=OTHER_CA), "unable to get local issuer certificate"),
    "wrong address": (
        lambda: issued("127.0.0.2"),
        "IP address mismatch, certificate is not valid for '127.0.0.1'",
    ),
    "a name, not the address": (
        lambda: issued("engine.example"),
        "IP address mismatch, certificate is not valid for '127.0.0.1'",
    ),
    "expired": (lambda: issued(begins=-2, ends=-1), "certificate has expired"),
    "not yet valid": (lambda: issued(begins=1, ends=2), "certificate is not yet valid"),
}


@pytest.mark.parametrize(("certificate", "why"), UNTRUSTED.values(), ids=UNTRUSTED)
async def test_certificates_that_are_not_trusted(
    certificate: Callable[[], ssl.SSLContext], why: str, ca_file: Path
) -> None:
    """A certificate that is not good is refused before a byte of the request, with the reason and the mend."""
    async with answering(certificate()) as engine, HttpClient(engine.url, HttpConfig(ca_file=ca_file)) as client:
        error = await failure(client)

        assert (type(error), error.detail, error.phase) == (AdapterError, "tls", "connect")
        assert (error.answered, error.retriable, error.engine_fault) == (False, False, False)
        assert error.message == (
            f"its certificate is not trusted ({why}) · {client.where} · "
            "name its certificate authority in http.ca_file, or correct the host name in url"
        )
        assert engine.requests == []


@pytest.mark.parametrize("certificate", [each for each, _ in UNTRUSTED.values()], ids=UNTRUSTED)
async def test_certificates_that_nobody_checks(certificate: Callable[[], ssl.SSLContext]) -> None:
    """With `insecure_tls` any certificate is taken, and each client that takes it says so once."""
    said: list[str] = []
    async with answering(certificate()) as engine:
        async with HttpClient(engine.url, INSECURE, narrate=said.append) as client:
            for _ in range(2):
                assert (await client.request("GET", "/health")).status == 200

            assert said == [f"nobody checks the certificate of {client.where}: http.insecure_tls is on"]


def test_who_is_narrated(caplog: pytest.LogCaptureFixture) -> None:
    """Only a peer whose certificate nobody checks is told of; where nobody is to be told, it is logged."""
    said: list[str] = []
    HttpClient("https://engine", narrate=said.append)
    HttpClient("http://127.0.0.1", INSECURE, narrate=said.append)
    assert said == []
    HttpClient("HTTPS://engine:8443", HttpConfig(insecure_tls=True, allow_insecure_remote=True), narrate=said.append)
    assert said == ["nobody checks the certificate of engine:8443: http.insecure_tls is on"]
    HttpClient("https://localhost", INSECURE)

    assert [(record.name, record.levelno, record.getMessage()) for record in caplog.records] == [
        ("llama_orch_http_util", logging.WARNING, "nobody checks the certificate of localhost: http.insecure_tls is on")
    ]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1], ids=["1.0", "1.1"])
async def test_old_versions(version: ssl.TLSVersion, ca_file: Path) -> None:
    """TLS before 1.2 is refused, good certificate or not, unless `insecure_tls` is on."""
    if not (ssl.HAS_TLSv1 and ssl.HAS_TLSv1_1):
        pytest.skip("this OpenSSL speaks no old version")
    async with answering(speaking_only(version)) as engine:
        async with HttpClient(engine.url, HttpConfig(ca_file=ca_file)) as client:
            error = await failure(client)
        async with HttpClient(engine.url, INSECURE) as client:
            assert (await client.request("GET", "/health")).status == 200

        assert (error.phase, error.answered) == ("connect", False)
        assert len(engine.requests) == 1


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["1.2", "1.3"])
async def test_versions(version: ssl.TLSVersion, ca_file: Path) -> None:
    """TLS 1.2 and 1.3 are spoken, for requests and streams, under the engine's address."""
    stream = Reply.raw(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: 9\r\n\r\ndata: 1\n\n")
    script = {("GET", "/health"): OK, ("POST", "/tasks"): stream}
    async with (
        LoopbackEngine(script, tls=speaking_only(version)) as engine,
        HttpClient(engine.url, HttpConfig(ca_file=ca_file, http_version="1.1")) as client,
    ):
        assert (await client.request("GET", "/health")).http_version == "1.1"
        async with client.stream("/tasks", {}, RAW) as events:
            assert [batch async for batch in events] == [[msgspec.Raw(b"1")]]
        assert engine.connections_made == 1


async def test_a_name_is_checked(ca_file: Path) -> None:
    """The name in the URL is the name that the certificate must have."""
    config = HttpConfig(ca_file=ca_file)
    async with answering(issued("localhost")) as named, answering(issued()) as numbered:
        async with HttpClient(named.url.replace("127.0.0.1", "localhost"), config) as client:
            assert (await client.request("GET", "/health")).status == 200
        async with HttpClient(numbered.url.replace("127.0.0.1", "localhost"), config) as client:
            error = await failure(client)

    assert "Hostname mismatch, certificate is not valid for 'localhost'" in error.message


@pytest.mark.usefixtures("_other_ca_is_the_systems")
async def test_the_systems_authorities(ca_file: Path) -> None:
    """Without `ca_file` the system's authorities are trusted; with it they are not."""
    async with answering(issued(ca=OTHER_CA)) as known, answering(issued()) as own:
        async with HttpClient(known.url) as client:
            assert (await client.request("GET", "/health")).status == 200
        async with HttpClient(known.url, HttpConfig(ca_file=ca_file)) as client:
            assert (await failure(client)).detail == "tls"
        async with HttpClient(own.url) as client:
            assert (await failure(client)).detail == "tls"


def name_in_folder(ca_file: Path) -> str:
    """The name under which OpenSSL looks for an authority: a hash of its subject's, in lower case."""
    subject = x509.load_pem_x509_certificate(ca_file.read_bytes()).subject
    lower = x509.Name([x509.NameAttribute(each.oid, str(each.value).lower()) for each in subject]).public_bytes()
    digest = hashlib.sha1(lower[2:], usedforsecurity=False).digest()  # of a name under 128 bytes
    return f"{int.from_bytes(digest[:4], 'little'):08x}.0"


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize("http_version", ["auto", "1.1"])
async def test_the_environment_names_no_authority(
    name: str, http_version: Literal["auto", "1.1"], ca_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sets the environment cannot have us trust an authority of theirs (no environment trust)."""
    folder = ca_file.with_name("authorities")
    folder.mkdir()
    (folder / name_in_folder(ca_file)).symlink_to(ca_file)
    monkeypatch.setenv(name, str(ca_file if name == "SSL_CERT_FILE" else folder))
    _tls._build.cache_clear()
    config = HttpConfig(http_version=http_version)
    async with answering(issued()) as engine, HttpClient(engine.url, config) as client:
        error = await failure(client)

    assert (error.detail, error.phase) == ("tls", "connect")
    _tls._build.cache_clear()


async def test_several_authorities(ca_file: Path) -> None:
    """Each authority in the file is trusted."""
    write(ca_file, OTHER_CA, CA)
    for ca in (CA, OTHER_CA):
        async with answering(issued(ca=ca)) as engine, HttpClient(engine.url, HttpConfig(ca_file=ca_file)) as client:
            assert (await client.request("GET", "/health")).status == 200


@pytest.mark.parametrize(
    ("spoil", "why"),
    [(Path.unlink, "No such file or directory"), (write, "NO_CERTIFICATE_OR_CRL_FOUND")],
    ids=["absent", "empty"],
)
async def test_a_file_that_is_no_list_of_authorities(spoil: Callable[[Path], None], why: str, ca_file: Path) -> None:
    """A `ca_file` that cannot be used is told with its name and the reason; once mended, it is used."""
    spoil(ca_file)
    async with answering(issued()) as engine, HttpClient(engine.url, HttpConfig(ca_file=ca_file)) as client:
        error = await failure(client)

        assert (type(error), error.detail, error.phase, error.answered) == (AdapterError, "tls", "connect", False)
        assert error.message.startswith(f"http.ca_file {ca_file} cannot be used ({why}")
        assert error.message.endswith(f" · {client.where} · name a file of certificates")
        assert engine.connections_made == 0

        write(ca_file, CA)
        assert (await client.request("GET", "/health")).status == 200


async def test_a_changed_file_is_read_again(ca_file: Path) -> None:
    """A client made after the file was changed trusts what stands in it now."""
    config = HttpConfig(ca_file=ca_file)
    async with answering(issued(ca=OTHER_CA)) as engine:
        async with HttpClient(engine.url, config) as client:
            await failure(client)
        write(ca_file, OTHER_CA)
        async with HttpClient(engine.url, config) as client:
            assert (await client.request("GET", "/health")).status == 200


async def test_the_loop_goes_on_while_the_file_is_read(tmp_path: Path) -> None:
    """Authorities are read off the event loop: here from a pipe that is written to later."""
    pipe = tmp_path / "ca.pem"
    os.mkfifo(pipe)
    config = HttpConfig(ca_file=pipe, http_version="1.1")  # for HTTP/2 it is read once more
    async with answering(issued()) as engine, HttpClient(engine.url, config) as client:
        asking = asyncio.create_task(client.request("GET", "/health"))
        await asyncio.to_thread(pipe.write_bytes, CA.cert_pem.bytes())

        assert (await asking).status == 200


async def test_clients_of_one_setting_share(ca_file: Path) -> None:
    """Clients that trust alike share connections, and one reading of the file, even when they begin at once."""
    write(ca_file, *[OTHER_CA] * 300, CA)  # takes its time
    config = HttpConfig(ca_file=ca_file, http_version="1.1")  # HTTP/2 has a reading of its own
    clients = [HttpClient("https://127.0.0.1:1", config) for _ in range(8)]
    _tls._build.cache_clear()
    await asyncio.gather(*(failure(client) for client in clients))
    async with answering(issued()) as engine:
        for _ in range(2):
            async with HttpClient(engine.url, config) as client:
                await client.request("GET", "/health")

        assert _tls._build.cache_info().misses == 1
        assert engine.connections_made == 1
    for client in clients:
        await client.aclose()


async def test_clients_of_other_settings_do_not(ca_file: Path) -> None:
    """ORCH-3612: on one session each client keeps its own trust; nobody rides on a connection of another's."""
    strict = HttpConfig(ca_file=ca_file, http_version="1.1")
    lax = HttpConfig(insecure_tls=True, http_version="1.1")
    async with answering(issued(ca=OTHER_CA)) as engine:
        async with HttpClient(engine.url, lax) as careless, HttpClient(engine.url, strict) as careful:
            for _ in range(2):
                await careless.request("GET", "/health")
                assert (await failure(careful)).detail == "tls"

            assert [shared.borrowers for shared in _session._sessions.values()] == [2]
            assert engine.connections_made == 1


async def test_no_key_is_logged(ca_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No session key is written out, though the environment asks for it."""
    log = ca_file.with_name("keys")
    monkeypatch.setenv("SSLKEYLOGFILE", str(log))
    _tls._build.cache_clear()
    async with answering(issued()) as engine:
        for config in (HttpConfig(ca_file=ca_file), INSECURE):
            async with HttpClient(engine.url, config) as client:
                await client.request("GET", "/health")

    assert not log.exists()


@asynccontextmanager
async def saying(words: bytes | None, *, reset: bool = False) -> AsyncIterator[str]:
    """The https URL of a server that says this to whoever says anything, and hangs up; None: it says nothing."""
    never = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1 if reset else 65536)
        if words is None:
            await never.wait()
        elif reset:
            writer.transport.abort()
        else:
            writer.write(words)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        never.set()
        server.close()


OLD_VERSION_ALERT = b"\x15\x03\x01\x00\x02\x02\x46"


@pytest.mark.parametrize(
    ("words", "why"),
    [(OLD_VERSION_ALERT, "TLSV1_ALERT_PROTOCOL_VERSION"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "")],
    ids=["an alert", "plain HTTP"],
)
async def test_peers_that_speak_something_else(words: bytes, why: str, ca_file: Path) -> None:
    """A peer that does not speak TLS as we do is a mistake of the set-up: it is told, not tried again."""
    async with saying(words) as url, HttpClient(url, HttpConfig(ca_file=ca_file)) as client:
        error = await failure(client)

    assert (type(error), error.detail, error.phase, error.answered) == (AdapterError, "tls", "connect", False)
    assert error.message.startswith(f"the TLS handshake failed ({why}")
    assert error.message.endswith(f" · {client.where} · check that it speaks TLS, 1.2 or later, on this port")


@pytest.mark.parametrize("reset", [False, True])
async def test_a_handshake_that_breaks_off(reset: bool, ca_file: Path) -> None:
    """A connection that breaks in the handshake is an unreachable replica, which another may stand in for."""
    async with saying(b"", reset=reset) as url, HttpClient(url, HttpConfig(ca_file=ca_file)) as client:
        error = await failure(client)

    assert (type(error), error.detail, error.phase, error.answered) == (
        PoolUnavailable,
        "unreachable",
        "connect",
        False,
    )


def test_a_handshake_that_is_never_answered(ca_file: Path) -> None:
    """The handshake counts to the time that connecting may take."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with saying(None) as url, HttpClient(url, HttpConfig(ca_file=ca_file, connect=3)) as client:
            begun = loop.time()
            error = await failure(client)

            assert (type(error), error.detail, error.phase) == (PoolUnavailable, "unreachable", "connect")
            assert "it took too long to connect" in error.message
            assert loop.time() - begun == pytest.approx(3, abs=0.1)

    run_virtual(main())


class Relay:
    """Passes bytes between a client and an engine, until frozen; then it only notes when the client leaves."""

    def __init__(self, engine: LoopbackEngine) -> None:
        self._port = int(engine.url.rpartition(":")[2])
        self.frozen = False
        self.left = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        engine, to_engine = await asyncio.open_connection("127.0.0.1", self._port)
        back = asyncio.create_task(self._pass(engine, to_client))
        await self._pass(client, to_engine)
        self.left.set()
        back.cancel()
        to_engine.close()
        to_client.close()

    async def _pass(self, source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65536):
                if not self.frozen:
                    to.write(data)
        except ConnectionError:
            pass


@pytest.mark.parametrize("reply", [Reply.silence(), Reply.sse(["1"], hang=True)], ids=["no head", "in mid-stream"])
async def test_a_cancelled_request_is_dropped_at_once(reply: Reply, ca_file: Path) -> None:
    """The connection of a cancelled request ends at once, though its peer does not take leave as TLS would have it."""
    config = HttpConfig(ca_file=ca_file)
    begun = asyncio.Event()

    async def read(client: HttpClient) -> None:
        async with client.stream("/tasks", {}, RAW) as events:
            async for _ in events:
                begun.set()

    async with answering(issued(), reply) as engine, Relay(engine) as relay, HttpClient(relay.url, config) as client:
        reading = asyncio.create_task(read(client))
        await engine.request()
        if reply.pieces:
            await begun.wait()
        relay.frozen = True
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading

        async with asyncio.timeout(5):
            await relay.left.wait()


async def test_a_kept_connection_is_dropped_at_once(ca_file: Path) -> None:
    """A client that lets go of the session does not wait for its idle peers to take leave."""
    config = HttpConfig(ca_file=ca_file)
    async with answering(issued()) as engine, Relay(engine) as relay:
        async with HttpClient(relay.url, config) as client:
            await client.request("GET", "/health")
            relay.frozen = True

        async with asyncio.timeout(5):
            await relay.left.wait()
