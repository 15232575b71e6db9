"""Redirects: an error, and not a byte to where they lead (battery 35, redirect_ssrf)."""

import asyncio
import socket

import pytest
from llama_orch_adapter_api import AdapterError
from llama_orch_adapter_testkit import LoopbackEngine, Reply, Request
from llama_orch_http_util import HttpClient, HttpConfig

from .clients import ANYTHING, BOTH_WAYS, CANARY, KEY, Fail  # type: ignore[import-not-found]  # test folders are no packages


@pytest.fixture
async def connects(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """The addresses that anybody on this loop connects to; none but loopback is let through."""
    loop = asyncio.get_running_loop()
    connect, seen = loop.sock_connect, []

    async def noted(sock: socket.socket, address: tuple[str, int]) -> None:
        seen.append(address)
        if not address[0].startswith("127."):
            raise ConnectionRefusedError
        await connect(sock, address)

    monkeypatch.setattr(loop, "sock_connect", noted)
    return seen


LEADS_TO = {
    "another origin": "http://127.0.0.2:{port}/steal",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata over IPv6": "http://[fd00:ec2::254]/latest/meta-data/",
    "https": "https://127.0.0.1:{port}/steal",
    "another port": "//127.0.0.1:1/steal",
    "itself": "/steal",
}


@BOTH_WAYS
@pytest.mark.parametrize("location", LEADS_TO.values(), ids=LEADS_TO)
@pytest.mark.parametrize("status", [300, 301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(
    status: int, location: str, fail: Fail, connects: list[tuple[str, int]]
) -> None:
    """A redirect is an error, and not a byte goes to where it leads (battery 35, redirect_ssrf)."""

    def redirect(request: Request) -> Reply:
        port = request.headers["host"].rpartition(":")[2]
        return Reply.redirect(f"{location.format(port=port)}?key={CANARY}", status=status)

    async with LoopbackEngine(redirect) as engine, HttpClient(engine.url, api_key=KEY) as client:
        error = await fail(client)

        assert (type(error), error.detail) == (AdapterError, "redirect")
        assert f"the engine answered {status} · {client.where} · " in error.message
        assert CANARY not in error.message
        assert len(engine.requests) == 1
        assert connects == [("127.0.0.1", int(engine.url.rpartition(":")[2]))]


PATHS = ["health", "", ".example/health", "@127.0.0.2/steal", ":1/steal", "//127.0.0.2/steal", "\\steal", "?a", "#a"]


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_path_leads_to_no_other_host(path: str, version: str, connects: list[tuple[str, int]]) -> None:
    """A path that does not begin with one slash is refused, and nothing is sent (battery 35, redirect_ssrf)."""
    config = HttpConfig(http_version=version)
    async with HttpClient("https://127.0.0.1", config, api_key=KEY) as client:
        for ask in (
            client.request("POST", path, {}),
            client.get(path),
            client.open_stream(path, {}, ANYTHING),
        ):
            with pytest.raises(AdapterError, match="the path does not begin with one /") as caught:
                await ask

            assert (caught.value.detail, caught.value.answered) == ("bad_request", False)
            assert CANARY not in str(caught.value)
    assert connects == []
