"""Where a name leads: not a byte goes to an address that is refused (battery 35, redirect_ssrf)."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerError
from llama_orch_adapter_testkit import LoopbackEngine, Reply
from llama_orch_http_util import HttpClient, HttpConfig, _session

ANYTHING = msgspec.json.Decoder(Any)
OK = Reply.json(200, {})
ALLOWED = HttpConfig(allow_link_local=True)
METADATA = "169.254.169.254"


class Net:
    """What names lead to, and who was connected to; addresses that are not loopback's are the engine's."""

    def __init__(self) -> None:
        self.names: dict[str, list[str]] = {}
        self.looked_up: list[str] = []
        self.connected: list[str] = []
        self.refusing: set[str] = set()


@pytest.fixture
async def net(monkeypatch: pytest.MonkeyPatch) -> Net:
    """A net of this test's own, as the running loop sees it."""
    net = Net()
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def look_up(host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        net.looked_up.append(host)
        await asyncio.sleep(0)
        if host not in net.names:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        family = {True: socket.AF_INET6, False: socket.AF_INET}
        rest = {True: (port, 0, 0), False: (port,)}
        return [
            (family[":" in each], socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (each, *rest[":" in each]))
            for each in net.names[host]
        ]

    async def connect_here(sock: socket.socket, address: tuple[Any, ...]) -> None:
        net.connected.append(address[0])
        if address[0] in net.refusing:
            raise ConnectionRefusedError(111, "Connection refused")
        await connect(sock, ("127.0.0.1", address[1]))

    monkeypatch.setattr(loop, "getaddrinfo", look_up)
    monkeypatch.setattr(loop, "sock_connect", connect_here)
    return net


def at(engine: LoopbackEngine, name: str = "engine") -> str:
    """The engine's URL, by a name."""
    return engine.url.replace("127.0.0.1", name)


async def failure(asking: Any) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await asking
    return caught.value


WAYS: dict[str, Callable[[HttpClient], Any]] = {
    "request": lambda client: client.request("POST", "/tasks", {}),
    "get": lambda client: client.get("/props"),
    "stream": lambda client: client.open_stream("/tasks", {}, ANYTHING),
}
EVERY_WAY = pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)

LEADS_TO = {
    "169.254.169.254": "a link-local address",
    "169.254.0.1": "a link-local address",
    "100.100.100.200": "a cloud's metadata",
    "192.0.0.192": "a cloud's metadata",
    "fe80::1": "a link-local address",
    "fd00:ec2::254": "a cloud's metadata",
    "fd20:ce::254": "a cloud's metadata",
    "::ffff:169.254.169.254": "a link-local address",
    "64:ff9b::a9fe:a9fe": "a link-local address",
    "2002:a9fe:a9fe::1": "a link-local address",
}


@EVERY_WAY
@pytest.mark.parametrize(("address", "what"), LEADS_TO.items())
async def test_a_name_that_leads_to_metadata(
    address: str, what: str, ask: Callable[[HttpClient], Any], net: Net
) -> None:
    """A name whose only address is refused is told with it and the mend, and nobody connects (battery 35)."""
    net.names["engine"] = [address]
    async with LoopbackEngine(lambda _: OK) as engine, HttpClient(at(engine)) as client:
        error = await failure(ask(client))

        assert (type(error), error.detail, error.phase) == (AdapterError, "address", "connect")
        assert (error.answered, error.retriable, error.engine_fault) == (False, False, False)
        assert error.message == (
            f"its host name leads where nobody is to go ({address} is {what}) · {client.where} · "
            "correct url, or set http.allow_link_local = true if you mean it"
        )
        assert (net.connected, engine.connections_made) == ([], 0)


@pytest.mark.parametrize("address", LEADS_TO)
async def test_the_mend(address: str, net: Net) -> None:
    """With `allow_link_local` the same name is connected to: the refusal is ours alone."""
    net.names["engine"] = [address]
    net.refusing = {address}
    async with HttpClient("http://engine:8080", ALLOWED) as client:
        error = await failure(client.request("GET", "/props"))

    assert (type(error), error.detail) == (PoolUnavailable, "unreachable")
    assert net.connected == [address]


@pytest.mark.parametrize("bad_first", [True, False])
async def test_the_good_addresses_are_used(bad_first: bool, net: Net) -> None:
    """Of several addresses those that are refused are passed over, though the good ones fail."""
    good = ["10.0.0.7", "10.0.0.8"]
    found = ["fe80::1", METADATA, *good] if bad_first else [*good, METADATA, "fe80::1"]
    net.names = {"engine": found, "other": found}
    net.refusing = {"10.0.0.7"}
    async with LoopbackEngine(lambda _: OK) as engine, HttpClient(at(engine)) as client:
        assert (await client.request("GET", "/props")).status == 200
        assert net.connected == good

    net.refusing = set(good)
    async with HttpClient("http://other:8080") as client:
        error = await failure(client.request("GET", "/props"))

    assert (type(error), error.detail) == (PoolUnavailable, "unreachable")
    assert set(net.connected) == set(good)


async def test_a_name_that_changes_its_mind(net: Net) -> None:
    """What was looked up is what is connected to: a name that leads elsewhere a moment later gains nothing."""
    net.names["engine"] = ["10.0.0.7"]
    async with LoopbackEngine(lambda _: Reply.raw(OK.pieces[0], stop_after=len(OK.pieces[0]))) as engine:
        async with HttpClient(at(engine)) as client:
            await client.request("GET", "/props")
            net.names["engine"] = [METADATA]
            (shared,) = _session._sessions.values()
            await client.request("GET", "/props")  # what was looked up is good for ten seconds
            shared.session.connector.clear_dns_cache()  # type: ignore[union-attr]  # a TCPConnector
            error = await failure(client.request("GET", "/props"))

        assert error.detail == "address"
        assert net.looked_up == ["engine"] * 2
        assert net.connected == ["10.0.0.7"] * 2


async def test_nobody_rides_on_anothers_connection(net: Net) -> None:
    """A connection that one client may have is not handed to a client that may not, nor what it looked up."""
    net.names["engine"] = [METADATA]
    async with LoopbackEngine(lambda _: OK) as engine:
        async with HttpClient(at(engine), ALLOWED) as allowed, HttpClient(at(engine)) as other:
            for _ in range(2):
                assert (await allowed.request("GET", "/props")).status == 200
                assert (await failure(other.request("GET", "/props"))).detail == "address"

            assert engine.connections_made == 1
            assert [shared.borrowers for shared in _session._sessions.values()] == [2]
        await engine.deserted()  # the last of both closed the connections of both


async def test_many_at_once(net: Net, caplog: pytest.LogCaptureFixture) -> None:
    """Requests that wait for one look-up are each refused, and nothing of it is logged."""
    net.names["engine"] = [METADATA]
    with caplog.at_level(logging.DEBUG):
        async with HttpClient("http://engine:8080") as client:
            errors = await asyncio.gather(*(failure(client.request("GET", "/props")) for _ in range(20)))

    assert [error.detail for error in errors] == ["address"] * 20
    assert (net.looked_up, net.connected) == (["engine"], [])
    assert [record for record in caplog.records if record.name != "asyncio"] == []


async def test_a_name_that_is_not_known(net: Net) -> None:
    """A name that leads nowhere is an unreachable replica, as ever."""
    async with HttpClient("http://engine:8080") as client:
        error = await failure(client.request("GET", "/props"))

    assert (type(error), error.detail) == (PoolUnavailable, "unreachable")
    assert error.message.startswith("its host name is not known")


async def held_unchecked() -> _session.SharedSession:
    shared = _session.borrow()
    assert shared.of(checked=False) is shared.of(checked=False) is not shared.session
    return shared


def test_the_other_session_ends_with_its_loop() -> None:
    """The session of those who may go anywhere is closed with the loop's other one, by its end or by hand."""
    ended = asyncio.run(held_unchecked())
    loop = asyncio.new_event_loop()
    abandoned = loop.run_until_complete(held_unchecked())
    loop.close()
    asyncio.run(_borrow_and_give_back())

    assert ended.of(checked=False).closed
    assert abandoned.of(checked=False).closed


async def _borrow_and_give_back() -> None:
    await _session.give_back(_session.borrow())
