"""One session per event loop, shared by its clients and closed with the last of them (ORCH-3610)."""

import asyncio
import gc
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from queue import Queue
from threading import Barrier, Event
from weakref import ReferenceType, ref

import aiohttp
import pytest
from llama_orch_adapter_api import WorkerError
from llama_orch_adapter_testkit import LoopbackEngine, Reply
from llama_orch_http_util import HttpClient, HttpConfig, _session
from llama_orch_http_util._http1 import Http1
from llama_orch_http_util._session import RECEIVE_BUFFER, SharedSession, borrow, give_back

OK = {("GET", "/health"): Reply.json(200, {})}


async def test_clients_of_a_loop_share_a_session() -> None:
    """Many clients of one loop use one session, and with it one pool of connections (ORCH-3610)."""
    async with LoopbackEngine(OK) as engine, HttpClient(engine.url) as first, HttpClient(engine.url) as second:
        await first.request("GET", "/health")
        await second.request("GET", "/health")

        assert [shared.borrowers for shared in _session._sessions.values()] == [2]
        assert engine.connections_made == 1


async def test_a_client_borrows_once() -> None:
    """A client counts once, however many requests it makes, and not before its first (ORCH-3610)."""
    async with LoopbackEngine(OK) as engine, HttpClient(engine.url) as client:
        assert list(_session._sessions.values()) == []

        await client.request("GET", "/health")
        await client.request("GET", "/health")

        assert [shared.borrowers for shared in _session._sessions.values()] == [1]


async def test_the_last_borrower_closes() -> None:
    """The session stays open while anybody holds it, and is closed by whoever lets go last (ORCH-3610)."""
    first, second = borrow(), borrow()

    assert first is second
    await give_back(first)
    assert not first.session.closed
    await give_back(second)
    assert first.session.closed
    assert list(_session._sessions.values()) == []


async def test_letting_go_twice_counts_once() -> None:
    """A client closed twice takes nothing from the others (ORCH-3610)."""
    async with LoopbackEngine(OK) as engine, HttpClient(engine.url) as other:
        client = HttpClient(engine.url)
        await client.request("GET", "/health")
        await other.request("GET", "/health")
        await client.aclose()
        await client.aclose()

        assert (await other.request("GET", "/health")).status == 200


async def test_a_closed_client_can_be_used_again() -> None:
    """A client that let go borrows anew, and sockets of the old session are closed (ORCH-3610)."""
    async with LoopbackEngine(OK) as engine:
        client = HttpClient(engine.url)
        await client.request("GET", "/health")
        await client.aclose()
        await engine.deserted()
        await client.request("GET", "/health")
        await client.aclose()

        assert engine.connections_made == 2


async def test_a_new_session_while_the_old_one_closes() -> None:
    """Who borrows while the last borrower is still closing gets a session that is open (ORCH-3610)."""
    async with LoopbackEngine(OK) as engine:
        client = HttpClient(engine.url)
        await client.request("GET", "/health")
        (old,) = _session._sessions.values()
        closing = asyncio.create_task(client.aclose())
        await asyncio.sleep(0)
        assert not closing.done()
        new = borrow()
        await closing

        assert new is not old
        assert (old.session.closed, new.session.closed) == (True, False)
        assert list(_session._sessions.values()) == [new]
        await give_back(new)


async def held_session() -> SharedSession:
    return borrow()


async def borrow_and_give_back() -> aiohttp.ClientSession:
    shared = borrow()
    await give_back(shared)
    return shared.session


def test_each_loop_has_its_own() -> None:
    """Loops that run at the same time, in threads, do not share (ORCH-3610)."""
    with ThreadPoolExecutor(4) as threads:
        sessions = list(threads.map(lambda _: asyncio.run(borrow_and_give_back()), range(16)))

    assert len({id(session) for session in sessions}) == 16
    assert all(session.closed for session in sessions)


def test_one_client_on_two_loops() -> None:
    """A client that is used on a second loop uses that loop's session, not the first one's (ORCH-3610)."""
    transport = Http1("http://127.0.0.1:9", HttpConfig(), reuse_after_stream=True)

    async def session() -> aiohttp.ClientSession:
        used = transport.session()
        await transport.aclose()
        return used

    assert asyncio.run(session()) is not asyncio.run(session())


def test_one_client_answers_on_every_loop() -> None:
    """A client made anywhere is used on loop after loop, closed or not between them: no loop is missed (ORCH-3610)."""
    client: HttpClient | None = None

    async def ask(*, close: bool) -> int:
        nonlocal client
        async with LoopbackEngine(OK) as engine:
            client = client or HttpClient(engine.url)
            client._transport._url = engine.url  # type: ignore[attr-defined]  # each loop has an engine of its own
            statuses = [(await client.request("GET", "/health")).status for _ in range(2)]
            if close:
                await client.aclose()
            return sum(statuses)

    assert [asyncio.run(ask(close=close)) for close in (False, True, False, False)] == [400] * 4


def test_one_client_on_loops_at_once() -> None:
    """Loops that run at once, in threads, share a client, each with a connection of its own (ORCH-3610)."""
    url: Queue[str] = Queue()
    asked = Event()

    async def serve() -> int:
        async with LoopbackEngine(OK) as engine:
            url.put(engine.url)
            await asyncio.to_thread(asked.wait)
            await engine.deserted()
            return engine.connections_made

    async def ask(client: HttpClient) -> list[int]:
        await asyncio.to_thread(together.wait)
        statuses = [(await client.request("GET", "/health")).status for _ in range(20)]
        await client.aclose()
        return statuses

    together = Barrier(4)
    with ThreadPoolExecutor(5) as threads:
        serving = threads.submit(asyncio.run, serve())
        client = HttpClient(url.get())
        answers = list(threads.map(lambda _: asyncio.run(ask(client)), range(4)))
        asked.set()

    assert answers == [[200] * 20] * 4
    assert serving.result() == 4


def test_a_client_keeps_no_loop_that_is_closed() -> None:
    """However many loops a client is used on one after the other, it holds the latest alone (ORCH-3610)."""
    loops: list[ReferenceType[asyncio.AbstractEventLoop]] = []
    client = HttpClient("http://127.0.0.1:1")

    async def ask() -> None:
        loops.append(ref(asyncio.get_running_loop()))
        with pytest.raises(WorkerError):
            await client.request("GET", "/health")

    for _ in range(20):
        asyncio.run(ask())
    gc.collect()

    assert sum(loop() is not None for loop in loops) <= 1


def test_each_loop_has_its_own_session() -> None:
    """Loops in threads that ask one client at the same instant are never handed each other's session (ORCH-3610)."""
    client = HttpClient("http://127.0.0.1:1")
    transport = client._transport
    assert isinstance(transport, Http1)

    async def look() -> set[int]:
        await asyncio.to_thread(together.wait)
        seen = {id(transport.session()) for _ in range(30_000)}
        await client.aclose()
        return seen

    together = Barrier(3)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as threads:
            seen = list(threads.map(lambda _: asyncio.run(look()), range(3)))
    finally:
        sys.setswitchinterval(before)

    assert [len(one) for one in seen] == [1, 1, 1]


def test_a_loop_that_ends_closes_its_session() -> None:
    """What nobody closed is closed with its loop, quietly (ORCH-3610)."""
    shared = asyncio.run(held_session())
    gc.collect()

    assert shared.session.closed


def test_a_borrower_that_lets_go_while_the_loop_ends(caplog: pytest.LogCaptureFixture) -> None:
    """A client that lets go while its ending loop closes the session too disturbs nobody (ORCH-3610)."""

    async def holds() -> AsyncGenerator[int, None]:
        async with LoopbackEngine(OK) as engine, HttpClient(engine.url) as client:
            yield (await client.request("GET", "/health")).status

    left: list[AsyncGenerator[int, None]] = []

    async def main() -> int:
        left.append(holds())
        return await anext(left[0])

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(main()) == 200
    gc.collect()

    assert caplog.records == []


@pytest.mark.parametrize("loop_first", [True, False])
async def test_closed_by_two_at_once(loop_first: bool) -> None:
    """The last borrower and the ending loop may close at once, whoever is first (ORCH-3610)."""
    async with LoopbackEngine(OK) as engine:
        client = HttpClient(engine.url)
        await client.request("GET", "/health")
        (shared,) = _session._sessions.values()
        both = [client.aclose(), shared._life.aclose()]
        await asyncio.gather(*(reversed(both) if loop_first else both))

        assert shared.session.closed
        await engine.deserted()


def test_a_loop_closed_by_hand_is_forgotten() -> None:
    """The session of a loop that was closed without ado is let go of at the next borrow, quietly (ORCH-3610)."""
    loop = asyncio.new_event_loop()
    shared = loop.run_until_complete(held_session())
    loop.close()

    assert not shared.session.closed
    asyncio.run(borrow_and_give_back())
    del loop
    gc.collect()
    assert shared.session.closed


def test_an_ended_loops_session_is_not_closed_twice() -> None:
    """A session that its loop closed is not closed again when another loop comes (ORCH-3610)."""
    loop = asyncio.new_event_loop()
    shared = loop.run_until_complete(held_session())
    loop.run_until_complete(shared.session.close())
    loop.close()
    asyncio.run(borrow_and_give_back())

    assert shared.session.closed
    assert shared.session.connector is None


CARELESS = """
import asyncio
from llama_orch_adapter_api import WorkerError
from llama_orch_adapter_testkit import LoopbackEngine, Reply
from llama_orch_http_util import HttpClient

async def main():
    async with LoopbackEngine({("GET", "/health"): Reply.json(200, {})}) as engine:
        for client in (HttpClient(engine.url), HttpClient(engine.url)):
            print((await client.request("GET", "/health")).status)

asyncio.run(main())
asyncio.run(main())
"""


def test_a_careless_program_ends_in_silence() -> None:
    """A program that closes no client has no "Unclosed" message and no warning, in development mode too (ORCH-3610)."""
    run = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", CARELESS], capture_output=True, check=True, text=True
    )

    assert run.stdout.split() == ["200"] * 4
    assert run.stderr == ""


async def test_settings_of_the_session() -> None:
    """No limit on connections, no unpacking of answers, nothing from the environment."""
    shared = borrow()
    session, connector = shared.session, shared.session.connector
    await give_back(shared)

    assert connector is not None
    assert (connector.limit, connector.limit_per_host) == (0, 0)
    assert (session.auto_decompress, session.trust_env) == (False, False)


def test_the_receive_buffer_is_small() -> None:
    """A socket's receive buffer is what was asked for, not the kernel's megabytes (Linux counts it double)."""
    with _session._open_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))) as opened:
        size = opened.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)

    assert RECEIVE_BUFFER <= size <= 2 * RECEIVE_BUFFER


FRUGAL = """
import asyncio, sys
from llama_orch_adapter_api import WorkerError
from llama_orch_adapter_testkit import LoopbackEngine, Reply
from llama_orch_http_util import HttpClient, HttpConfig

async def main():
    async with LoopbackEngine({("GET", "/health"): Reply.json(200, {})}) as engine, HttpClient(engine.url) as client:
        await client.request("GET", "/health")
    HttpClient("https://127.0.0.1", HttpConfig(http_version="1.1"))

asyncio.run(main())
print([name for name in sys.modules if name.partition(".")[0] in ("h2", "hpack", "hyperframe")])
"""


def test_plain_http_pays_nothing_for_http2() -> None:
    """Who speaks plain http, or wants HTTP/1.1, does not import h2."""
    run = subprocess.run([sys.executable, "-c", FRUGAL], capture_output=True, check=True, text=True)

    assert run.stdout == "[]\n"
