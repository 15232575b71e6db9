"""Which connection takes a stream, when another is opened, and how a GOAWAY is survived (cases 3 and 5)."""

import asyncio
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerError, WorkerReset
from llama_orch_adapter_testkit import run_virtual
from llama_orch_http_util import HttpClient, HttpConfig, _session

from .http2_far_end import (  # type: ignore[import-not-found]  # test folders are no packages
    RAW,
    Far,
    FarEnd,
    drained,
    pools,
    silent,
    trusting,
    until,
)


async def answer(stream: Far) -> None:
    """A whole answer, or a stream of three."""
    if stream.method == "GET":
        await stream.json({"http": 2})
    else:
        stream.head()
        await stream.events(range(3))
        await stream.send(b"data: [DONE]\n\n", end=True)


async def test_the_first_requests_share_a_handshake(tmp_path: Path) -> None:
    """A hundred first requests at once, of two clients, make one handshake (ORCH-3610)."""
    config = trusting(tmp_path)
    async with (
        FarEnd(answer) as far,
        HttpClient(far.url, config) as first,
        HttpClient(far.url, config) as second,
    ):
        answers = await asyncio.gather(*(client.request("GET", "/props") for client in (first, second) * 50))

        print(f"case 5: 100 first requests made {far.accepted} handshake")
        assert {each.http_version for each in answers} == {"2"}
        assert far.accepted == 1
        assert [shared.borrowers for shared in _session._sessions.values()] == [2]
        assert [pool.connections for pool in pools()] == [1]


async def test_who_trusts_otherwise_does_not_share(tmp_path: Path) -> None:
    """Clients of other trust or other limits have connections of their own (ORCH-3612)."""
    async with FarEnd(answer) as far:
        configs = [trusting(tmp_path), HttpConfig(insecure_tls=True), trusting(tmp_path, http2_window=1024)]
        clients = [HttpClient(far.url, config) for config in configs]
        for client in clients:
            await client.request("GET", "/props")

        assert far.accepted == 3
        for client in clients:
            await client.aclose()
        await until(lambda: not far.live)


async def test_more_streams_than_a_connection_takes(tmp_path: Path) -> None:
    """Case 5: 200 streams where a connection takes 128 have a second one, and none waits for another to end."""
    go = asyncio.Event()

    async def script(stream: Far) -> None:
        stream.head()
        await stream.events([1])
        await go.wait()
        await stream.send(b"data: 2\n\ndata: [DONE]\n\n", end=True)

    async with FarEnd(script, streams=128) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        reading = [asyncio.create_task(drained(client)) for _ in range(200)]
        took = await until(lambda: len(far.asked) == 200)
        streams = sorted(len(connection.streams) for connection in far.connections)
        print(f"case 5: 200 streams at a limit of 128 are all open after {took * 1e3:.0f} ms, as {streams}")
        go.set()

        assert await asyncio.gather(*reading) == [[1, 2]] * 200
        assert streams == [72, 128]


async def test_a_full_house(tmp_path: Path) -> None:
    """Where every connection is full, nobody waits: a request goes over 1.1, or is told where only 2 is wanted."""
    go = asyncio.Event()

    async def script(stream: Far) -> None:
        await go.wait()
        await stream.json({})

    for version in ("auto", "2"):
        go.clear()
        said: list[str] = []
        config = trusting(tmp_path, http2_connections=2, http_version=version)
        async with FarEnd(script, streams=3) as far, HttpClient(far.url, config, narrate=said.append) as client:
            asking = [asyncio.create_task(client.request("GET", "/props")) for _ in range(6)]
            await until(lambda far=far: len(far.asked) == 6)
            if version == "auto":
                for _ in range(3):
                    assert (await client.request("GET", "/health")).http_version == "1.1"
                assert client.fallbacks == {"crowded": 3}
                (words,) = said
                assert words.startswith("its 2 HTTP/2 connections are full: HTTP/1.1 is spoken, too")
            else:
                with pytest.raises(PoolUnavailable) as caught:
                    await client.request("GET", "/health")
                assert (caught.value.detail, caught.value.answered) == ("at_capacity", False)
            go.set()

            assert {each.http_version for each in await asyncio.gather(*asking)} == {"2"}
            assert (await client.request("GET", "/health")).http_version == "2"


async def test_a_goaway_every_twenty_requests(tmp_path: Path) -> None:
    """Case 3: a server that ends each connection after 20 requests costs nobody anything: 0 errors of 360."""
    go = asyncio.Event()

    async def script(stream: Far) -> None:
        if stream.nth == 20:
            stream.connection.goaway(stream.number)
        if stream.nth > 20:
            await asyncio.Event().wait()  # above the last: nobody looks at it
        if stream.path == "/long":
            stream.head()
            await stream.events([1])
            await go.wait()
            await stream.send(b"data: 2\n\ndata: [DONE]\n\n", end=True)
        else:
            await answer(stream)

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        long = asyncio.create_task(drained(client, "/long"))
        await until(lambda: far.asked)
        for _ in range(6):
            assert await asyncio.gather(*(drained(client) for _ in range(60))) == [[0, 1, 2]] * 60
        go.set()

        unseen = sum(max(0, connection.asked - 20) for connection in far.connections)
        print(
            f"case 3: 0 errors of 360, {len(far.connections)} connections, {unseen} streams above the last id replayed"
        )
        assert await long == [1, 2]
        assert unseen > 0
        assert (client.fallbacks, far.http1_requests) == ({}, [])
        await until(lambda: len(far.live) <= 1)


@pytest.mark.parametrize("warned", [False, True])
async def test_streams_go_on_after_a_goaway(warned: bool, tmp_path: Path) -> None:
    """Case 3: a stream below the last id keeps its data, its window and its end, whatever order h2 would keep."""
    go = asyncio.Event()

    async def script(stream: Far) -> None:
        stream.head()
        await stream.events([0])
        await go.wait()
        for number in range(1, 6):
            await stream.send(b"data: %d%b\n\n" % (number, b" " * 40_000))
        await stream.send(b"data: [DONE]\n\n", end=True)

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        reading = [asyncio.create_task(drained(client)) for _ in range(10)]
        await until(lambda: len(far.asked) == 10)
        (old,) = far.connections
        if warned:
            old.goaway(2**31 - 1)
        old.goaway(19)
        await until(lambda: pools()[0].connections == 0)
        later = asyncio.create_task(drained(client))
        go.set()

        read = await asyncio.gather(*reading, later)
        print(f"cases 3 and 6: {sum(each != list(range(6)) for each in read)} errors of 11 streams around a GOAWAY")
        assert read == [[0, 1, 2, 3, 4, 5]] * 11
        await until(lambda: old.lost)
        assert len(far.connections) == 2


async def test_a_peer_that_takes_nothing(tmp_path: Path) -> None:
    """A peer that ends every connection before a stream is not asked for ever."""

    async def script(stream: Far) -> None:
        stream.connection.goaway(0)

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        assert (await client.request("POST", "/tasks", {})).http_version == "1.1"

        assert len(far.asked) == 3
        assert client.fallbacks == {"useless": 1}


async def test_a_client_on_two_loops(tmp_path: Path) -> None:
    """A client that is used on a second loop has connections of that loop, and each loop's end closes its own."""
    async with FarEnd(answer) as far:
        client = HttpClient(far.url, trusting(tmp_path))

        async def ask() -> str:
            return (await client.request("GET", "/props")).http_version

        versions = [await ask(), *[await asyncio.to_thread(lambda: asyncio.run(ask())) for _ in range(2)]]
        assert versions == ["2"] * 3
        assert far.accepted == 3
        await until(lambda: len(far.live) == 1)
        await client.aclose()
        await until(lambda: not far.live)


async def failure_of(url: str, config: HttpConfig) -> WorkerError:
    async with HttpClient(url, config) as client:
        with pytest.raises(WorkerError) as caught:
            await client.request("GET", "/props")
    return caught.value


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "https://no-such-host.invalid"])
async def test_failures_to_connect_are_told_as_over_http1(url: str, tmp_path: Path) -> None:
    """Who cannot be reached is told in the same words, whichever version was tried."""
    told = []
    for version in ("auto", "2", "1.1"):
        error = await failure_of(url, trusting(tmp_path, http_version=version, connect=10))
        told.append((type(error), error.message, error.detail, error.phase, error.answered, error.retriable))

    assert len(set(told)) == 1
    assert told[0][0] is PoolUnavailable


def test_connecting_is_bounded(tmp_path: Path) -> None:
    """Name look-up, TCP and TLS together take no longer than `connect`."""
    config = trusting(tmp_path, connect=3)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        with socket.create_server(("127.0.0.1", 0)) as deaf:
            error = await failure_of(f"https://127.0.0.1:{deaf.getsockname()[1]}", config)

        assert (type(error), error.detail, error.phase) == (PoolUnavailable, "unreachable", "connect")
        assert "it took too long to connect" in error.message
        assert loop.time() == pytest.approx(3, abs=0.2)

    run_virtual(main())


@pytest.mark.parametrize("address", ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"])
async def test_names_that_lead_to_guarded_addresses(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Battery 35: a name that leads to a cloud's metadata is refused before a byte is sent there."""
    loop = asyncio.get_running_loop()
    reached: list[Any] = []

    async def resolved(*_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 443))]

    async def reach(*arguments: object, **_: object) -> socket.socket:
        reached.append(arguments)
        raise aiohttp.ClientConnectionError

    monkeypatch.setattr(loop, "getaddrinfo", resolved)
    monkeypatch.setattr("aiohappyeyeballs.start_connection", reach)
    error = await failure_of("https://engine.example", trusting(tmp_path, http_version="2"))
    assert isinstance(error, AdapterError)
    assert (error.detail, error.phase, error.answered) == ("address", "connect", False)
    assert "set http.allow_link_local = true if you mean it" in error.message
    assert reached == []

    await failure_of("https://engine.example", trusting(tmp_path, http_version="2", allow_link_local=True))
    assert len(reached) == 1


async def test_cancelled_while_it_connects(tmp_path: Path) -> None:
    """A request that is cancelled while the connection is made takes nothing from those who wait with it."""
    async with FarEnd(answer, greet=silent) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        first, second = (asyncio.create_task(client.request("GET", "/props")) for _ in range(2))
        await until(lambda: far.connections)
        first.cancel()
        await asyncio.wait([first])

        far.connections[0].mute = False
        far.connections[0].flush()

        assert first.cancelled()
        assert (await second).http_version == "2"
        assert len(far.connections) == 1


async def test_closed_while_it_connects(tmp_path: Path) -> None:
    """A client that is closed while requests wait for their connection tells them so, and leaves none behind."""
    async with FarEnd(answer, greet=silent) as far:
        client = HttpClient(far.url, trusting(tmp_path))
        asking = asyncio.create_task(client.request("GET", "/props"))
        await until(lambda: far.connections)
        await client.aclose()
        with pytest.raises(WorkerReset, match="this client was closed") as caught:
            await asking
        await until(lambda: not far.live)

        assert (caught.value.detail, caught.value.engine_fault) == ("drained", False)
        assert pools() == []
        await client.aclose()


async def test_closed_at_any_turn(tmp_path: Path) -> None:
    """A client that is closed at any turn of the loop tells of it, and opens no connection after that."""
    answered = 0
    async with FarEnd(answer) as far:
        for turns in range(60):
            client = HttpClient(far.url, trusting(tmp_path, http_version="2"))
            asking = asyncio.create_task(client.request("GET", "/props"))
            await until(lambda asking=asking: pools() or asking.done())  # type: ignore[misc]
            for _ in range(turns):
                await asyncio.sleep(0)
            await client.aclose()
            try:
                answered += (await asking).status == 200
            except WorkerReset as error:
                assert error.detail == "drained"
            assert pools() == []
        await until(lambda: not far.live)

    print(f"closed at 60 turns: {answered} were answered before, {60 - answered} were told; none is left")


async def test_closed_after_a_goaway(tmp_path: Path) -> None:
    """A connection that takes no more streams is still the client's, and is dropped with it."""

    async def script(stream: Far) -> None:
        stream.head()
        await stream.events([1])
        stream.connection.goaway(stream.number)
        await asyncio.Event().wait()

    async with FarEnd(script) as far:
        client = HttpClient(far.url, trusting(tmp_path))
        async with client.stream("/tasks", {}, RAW) as stream:
            await anext(stream)
            await until(lambda: pools()[0].connections == 0)
            assert pools()[0].open_streams == 1
            await client.aclose()
            with pytest.raises(WorkerReset, match="this client was closed"):
                await anext(stream)
        await until(lambda: not far.live)


async def test_the_last_client_drops_all(tmp_path: Path) -> None:
    """What a client has open is dropped when the last client lets go, at once."""
    go = asyncio.Event()

    async def script(stream: Far) -> None:
        stream.head()
        await stream.events([1])
        await go.wait()

    async with FarEnd(script) as far:
        client = HttpClient(far.url, trusting(tmp_path))
        async with client.stream("/tasks", {}, RAW) as stream:
            await anext(stream)
            await client.aclose()
            with pytest.raises(WorkerError, match="this client was closed") as caught:
                await anext(stream)
            assert (caught.value.detail, caught.value.engine_fault) == ("drained", False)
        await until(lambda: not far.live)


async def test_a_kept_connection_that_was_closed(tmp_path: Path) -> None:
    """A GET on a kept connection that ends without a word is repeated once; a POST is told to be its sender's."""

    async def script(stream: Far) -> None:
        if len(far.asked) % 2:
            await answer(stream)
        else:
            stream.connection.transport.abort()

    async with FarEnd(script) as far, HttpClient(far.url, trusting(tmp_path)) as client:
        assert await drained(client) == [0, 1, 2]
        assert (await client.request("GET", "/props")).http_version == "2"
        with pytest.raises(WorkerReset, match="the kept connection was closed") as caught:
            await drained(client)

        assert caught.value.stale_connection
        assert len(far.asked) == 4
