"""What is read again while it serves: tokens and certificate, or neither of them."""

import asyncio
import os
import secrets
import signal
import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import trustme
from aiohttp import web
from llama_orch_adapter_host import AdapterHost, ConfigError
from llama_orch_orchestratord import ServerConfig, create_app, read_config
from llama_orch_orchestratord._renewal import renew, renewing
from llama_orch_orchestratord._server import listening
from llama_orch_orchestratord._tls import tls_context

from .serving import Engine, plugins_of, until, words  # type: ignore[import-not-found]  # test folders are no packages

OLD, NEW = (secrets.token_urlsafe(24) for _ in range(2))
TOML = """
[server]
listen = "127.0.0.1:0"
tls = { cert = "cert.pem", key = "key.pem" }
[auth]
tokens = [{ file = "token", role = "tasks" }]
"""


class Site:
    """A server with its files in a folder, and who asks it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authorities: dict[str, trustme.CA] = {}
        self.certify("old")
        self.write("token", OLD)
        self.write("orchestratord.toml", TOML)
        self.settings = self.read()
        self.app: web.Application
        self.url = ""

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def certify(self, name: str) -> None:
        """A new certificate, by an authority of this name."""
        self.authorities[name] = authority = trustme.CA()
        issued = authority.issue_cert("127.0.0.1")
        self.write("cert.pem", "".join(each.bytes().decode() for each in issued.cert_chain_pems))
        self.write("key.pem", issued.private_key_pem.bytes().decode())

    def read(self) -> ServerConfig:
        return read_config(self.folder / "orchestratord.toml")

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        host = AdapterHost(plugins=plugins_of(Engine(words())))
        host.bind("chat", "words", {})
        self.app = create_app(host, self.settings)
        async with listening(self.app, self.settings.server) as self.url:
            yield

    async def status(self, token: str, trusted: str) -> int | str:
        """What a new client gets that trusts one authority; "untrusted" where that is not the server's."""
        context = ssl.create_default_context()
        self.authorities[trusted].configure_trust(context)
        try:
            async with (
                aiohttp.ClientSession(headers={"Authorization": f"Bearer {token}"}) as session,
                session.get(f"{self.url}/v1/capabilities", ssl=context) as answer,
            ):
                return answer.status
        except aiohttp.ClientConnectorCertificateError:
            return "untrusted"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def hangup() -> Iterator[None]:
    """Put back what SIGHUP does: a process that has served ignores it."""
    before = signal.getsignal(signal.SIGHUP)
    yield
    signal.signal(signal.SIGHUP, before)


async def test_tokens_and_certificate_are_renewed(site: Site) -> None:
    """From then on a connection gets the new certificate, and a request needs a new token."""
    async with site.serving():
        before = await site.status(OLD, "old")
        site.certify("new")
        site.write("token", NEW)
        unread = await site.status(OLD, "old")
        await renew(site.app, site.settings, site.read)
        after = [await site.status(token, trusted) for token, trusted in ((NEW, "new"), (OLD, "new"), (NEW, "old"))]

    assert (before, unread) == (200, 200)
    assert after == [200, 401, "untrusted"]


async def test_who_is_connected_stays_so(site: Site) -> None:
    """A connection that is open keeps its certificate, and its next request is judged by the new tokens."""
    context = ssl.create_default_context()
    site.authorities["old"].configure_trust(context)
    connector = aiohttp.TCPConnector(ssl=context, limit=1)
    async with site.serving(), aiohttp.ClientSession(connector=connector) as session:
        statuses = []
        for token in (OLD, NEW):
            headers = {"Authorization": f"Bearer {token}"}
            async with session.get(f"{site.url}/v1/capabilities", headers=headers) as answer:
                statuses.append(answer.status)
                await answer.read()
            site.certify("new")
            site.write("token", NEW)
            await renew(site.app, site.settings, site.read)

    assert statuses == [200, 200]


BAD = {
    "token": ("token", "short", "auth.tokens\\[0\\]: the token cannot be used"),
    "certificate": ("cert.pem", "nothing", "tls: .* cannot be used"),
    "config": ("orchestratord.toml", TOML + "wrong = 1", "\\[auth\\] has no 'wrong'"),
    "tls": ("orchestratord.toml", TOML.replace("tls =", "# tls ="), "comes and goes by a restart alone"),
}


@pytest.mark.parametrize(("name", "text", "problem"), BAD.values(), ids=BAD)
async def test_what_is_wrong_changes_nothing(site: Site, name: str, text: str, problem: str) -> None:
    """Where the token or the certificate cannot be used the other one stays, too, and the problem is told."""
    async with site.serving():
        site.certify("new")
        site.write("token", NEW)
        site.write(name, text)
        with pytest.raises(ConfigError, match=problem):
            await renew(site.app, site.settings, site.read)

        assert await site.status(OLD, "old") == 200
        assert await site.status(NEW, "old") == 401


async def test_a_certificate_that_is_just_being_replaced(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is there when it is looked for and gone when it is loaded: told, like any other that cannot be used."""
    certificate, real = site.folder / "cert.pem", ssl.SSLContext.load_cert_chain

    def load(context: ssl.SSLContext, *files: Any, **more: Any) -> None:
        certificate.unlink()
        real(context, *files, **more)

    async with site.serving():
        monkeypatch.setattr(ssl.SSLContext, "load_cert_chain", load)
        with pytest.raises(ConfigError, match=r"cannot be used \(No such file or directory\)"):
            await renew(site.app, site.settings, site.read)

        assert await site.status(OLD, "old") == 200


@pytest.mark.parametrize("name", ["cert", "key"])
def test_a_path_that_cannot_be_one(site: Site, name: str) -> None:
    """A NUL in the path of a file is told like a file that is not there."""
    site.write("orchestratord.toml", TOML.replace(f"{name}.pem", "a\\u0000b"))
    files = site.read().server.tls
    assert files is not None

    with pytest.raises(ConfigError, match=f"tls.{name} .*a\\x00b cannot be read: embedded null byte; give a file"):
        tls_context(files)


async def test_tokens_of_a_server_that_others_reach_do_not_vanish(site: Site) -> None:
    """As at the start: without a token it would be open to all of them."""
    exposed = msgspec.structs.replace(site.settings.server, listen="0.0.0.0:0")
    settings = msgspec.structs.replace(site.settings, server=exposed)
    site.write("orchestratord.toml", TOML.partition("[auth]")[0])
    async with site.serving():
        with pytest.raises(ConfigError, match="but there are no tokens"):
            await renew(site.app, settings, site.read)

        assert await site.status(OLD, "old") == 200
        assert await site.status(NEW, "old") == 401


@pytest.mark.usefixtures("hangup")
async def test_a_signal_renews_each_time(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """At SIGHUP all is read again; one that fails is told, and the next one may succeed."""
    async with site.serving():
        with renewing(site.app, site.settings, site.read, reloads=False):
            site.write("token", "short")
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: "stay as they were" in caplog.text)
            site.write("token", NEW)
            os.kill(os.getpid(), signal.SIGHUP)
            async with asyncio.timeout(10):
                while await site.status(NEW, "old") != 200:
                    pass

    assert "auth.tokens[0]: the token cannot be used" in caplog.text


@pytest.mark.usefixtures("hangup")
async def test_a_signal_is_heard_after_whatever_failed(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    """A fault that nobody thought of is logged with its traceback, and the next signal renews."""
    caplog.set_level("INFO")
    faults: list[Exception] = [RuntimeError("nobody thought of it")]

    def read() -> ServerConfig:
        if faults:
            raise faults.pop()
        return site.read()

    async with site.serving():
        with renewing(site.app, site.settings, read, reloads=False):
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: "report it" in caplog.text)
            os.kill(os.getpid(), signal.SIGHUP)
            await until(lambda: "those of the files now" in caplog.text)

    assert "RuntimeError: nobody thought of it" in caplog.text


@pytest.mark.usefixtures("hangup")
def test_a_stop_is_not_cut_by_the_signal(site: Site) -> None:
    """Once it was heard it ends nothing any more: not while tasks run out, and not when the loop is closed."""
    meanwhile = []

    async def stopped() -> None:
        async with site.serving():
            with renewing(site.app, site.settings, site.read, reloads=False):
                pass
            meanwhile.append(signal.getsignal(signal.SIGHUP))

    asyncio.run(stopped())

    assert [*meanwhile, signal.getsignal(signal.SIGHUP)] == [signal.SIG_IGN] * 2


async def test_a_server_without_files_heeds_no_signal(site: Site) -> None:
    """Closing the terminal ends a server that has nothing to read again."""
    before = signal.getsignal(signal.SIGHUP)
    with renewing(web.Application(), ServerConfig(), site.read, reloads=False):
        assert signal.getsignal(signal.SIGHUP) == before
