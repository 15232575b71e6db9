"""HTTP/2 behind a real nginx: each case of the fallback, with its figure. Skipped, loudly, where there is no nginx."""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trustme
from llama_orch_adapter_api import AdapterError, InternalError, WorkerError, WorkerReset
from llama_orch_adapter_testkit import LoopbackEngine, Reply, Request, cases, dice
from llama_orch_http_util import HttpClient, HttpConfig, _session

from .http2_far_end import RAW, pools, until  # type: ignore[import-not-found]  # test folders are no packages
from .real_nginx import NGINX, Nginx  # type: ignore[import-not-found]  # as above

pytestmark = pytest.mark.skipif(NGINX is None, reason="NO NGINX HERE: what a real proxy does is not tested")

CA = trustme.CA()
HEALTH = Reply.json(200, {})
THREE = Reply.sse([{"n": 1}, {"n": 2}, "[DONE]"])
EVENTS = [msgspec.Raw(b'{"n":1}'), msgspec.Raw(b'{"n":2}')]


class Engine:
    """What stands behind nginx: /health, /tasks, /long (its second event comes when `go` is set), /cut, /silent."""

    def __init__(self) -> None:
        self.go = asyncio.Event()

    def __call__(self, request: Request) -> Reply:
        async def gate(number: int) -> None:
            if number:
                await self.go.wait()

        match request.path:
            case "/tasks":
                return THREE
            case "/long":
                return Reply.sse([{"n": 1}, {"n": 2}, "[DONE]"], gate=gate)
            case "/cut":
                return Reply.sse([{"n": 1}, {"n": 2}], terminated=False, reset=True)
            case "/flood":
                return Reply.sse(["7" * 16_384] * 64)
            case "/silent":
                return Reply.silence()
        return HEALTH


class Scene:
    """An engine, nginx before it, and a client of nginx."""

    def __init__(self, script: Engine, engine: LoopbackEngine, nginx: Nginx, client: HttpClient) -> None:
        self.script, self.engine, self.nginx, self.client = script, engine, nginx, client
        self.said: list[str] = []

    async def asked(self, count: int) -> float:
        """Seconds until the engine has seen so many requests."""
        return await until(lambda: len(self.engine.requests) >= count)


@asynccontextmanager
async def scene(nginx: Nginx, **settings: object) -> AsyncIterator[Scene]:
    script = Engine()
    async with (
        LoopbackEngine(script) as engine,
        nginx.before(engine.url),
        HttpClient(nginx.url, nginx.trusting(**settings)) as client,
    ):
        yield Scene(script, engine, nginx, client)


async def events_of(client: HttpClient, path: str) -> list[msgspec.Raw]:
    async with client.stream(path, {}, RAW) as stream:
        assert stream.http_version == "2"
        return [event async for batch in stream for event in batch]


async def failure_of(reading: Awaitable[object]) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await reading
    return caught.value


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.fixture
def nginx(tmp_path: Path) -> Nginx:
    """nginx as Debian sets it: 128 streams and 1,000 requests a connection."""
    return Nginx(tmp_path, CA)


@pytest.fixture
def nginx_without_http2(tmp_path: Path) -> Nginx:
    """nginx that speaks 1.1 alone."""
    return Nginx(tmp_path, CA, http2=False)


@pytest.fixture
def nginx_of_twenty(tmp_path: Path) -> Nginx:
    """nginx that ends a connection after 20 requests."""
    return Nginx(tmp_path, CA, directives="keepalive_requests 20;")


async def test_negotiation(nginx: Nginx) -> None:
    """Case 1: HTTP/2 with nginx, a certificate of another authority refused, and each event as it comes."""
    other = HttpConfig(ca_file=None)
    async with scene(nginx) as it:
        assert (await it.client.request("GET", "/health")).http_version == "2"
        async with it.client.stream("/long", {}, RAW) as stream:
            assert await anext(stream) == EVENTS[:1]
            it.script.go.set()
            assert await anext(stream) == EVENTS[1:]
        async with HttpClient(nginx.url, other) as stranger:
            error = await failure_of(stranger.request("GET", "/health"))

        print("case 1, nginx: 2 spoken, an unknown authority refused, events not buffered")
        assert (type(error), error.detail) == (AdapterError, "tls")
        assert len(it.engine.requests) == 2


async def test_no_negotiation(nginx_without_http2: Nginx) -> None:
    """Case 1: 1.1 with nginx that offers no HTTP/2; "2" is refused with the mend."""
    nginx = nginx_without_http2
    async with scene(nginx) as it, HttpClient(nginx.url, nginx.trusting(http_version="2")) as strict:
        assert (await it.client.request("GET", "/health")).http_version == "1.1"
        error = await failure_of(strict.request("GET", "/health"))

        print(f"case 1, nginx without HTTP/2: 1.1 spoken; {error.message}")
        assert (type(error), error.detail, it.client.fallbacks) == (AdapterError, "unsupported", {})


@pytest.mark.parametrize("way", ["before the head", "in mid-stream", "leaving the block"])
async def test_cancel(way: str, nginx: Nginx) -> None:
    """Case 2: the engine behind nginx sees that a stream is left; the other 99 and the connection live on."""
    async with scene(nginx) as it:
        others = [asyncio.create_task(events_of(it.client, "/long")) for _ in range(99)]
        await it.asked(99)
        begun, left = asyncio.Event(), []

        async def leave() -> None:
            async with it.client.stream("/silent" if way == "before the head" else "/long", {}, RAW) as stream:
                await anext(stream)
                begun.set()
                if way == "leaving the block":
                    left.append(now())
                    return
                await anext(stream)

        leaving = asyncio.create_task(leave())
        await it.asked(100)
        if way != "before the head":
            await begun.wait()
        if not left:
            left.append(now())
            leaving.cancel()
        await it.engine.requests[99].disconnected()
        took = now() - left[0]
        await asyncio.wait([leaving])
        it.script.go.set()

        print(f"case 2, nginx, {way}: the engine was free after {took * 1e3:.1f} ms")
        assert took < 1
        assert await asyncio.gather(*others) == [EVENTS] * 99
        assert [pool.connections for pool in pools()] == [1]


async def test_goaway(nginx_of_twenty: Nginx) -> None:
    """Case 3: nginx ends each connection after 20 requests: 0 errors of 360, and a long stream survives."""
    async with scene(nginx_of_twenty) as it:
        long = asyncio.create_task(events_of(it.client, "/long"))
        await it.asked(1)
        answers = []
        for _ in range(6):
            answers += await asyncio.gather(*(events_of(it.client, "/tasks") for _ in range(60)))
        it.script.go.set()

        print(
            f"case 3, nginx: {sum(answer != EVENTS for answer in answers)} errors of {len(answers)} at 20 a connection"
        )
        assert answers == [EVENTS] * 360
        assert await long == EVENTS
        assert len(it.engine.requests) == 361
        assert it.client.fallbacks == {}


@pytest.mark.parametrize("stalled", [4, 20])
async def test_stalled_readers(stalled: int, nginx: Nginx) -> None:
    """Case 4: readers that stall hold a window each and none of the others."""
    async with scene(nginx) as it:
        blocks = [it.client.stream("/flood", {}, RAW) for _ in range(stalled)]
        streams = [await block.__aenter__() for block in blocks]
        await until(lambda: all(sum(map(len, stream._answer._exchange._parts)) > 60_000 for stream in streams))
        began = now()
        others = await asyncio.gather(*(events_of(it.client, "/tasks") for _ in range(40)))
        took = now() - began
        held = max(sum(map(len, stream._answer._exchange._parts)) for stream in streams)
        print(f"case 4, nginx: {stalled} stalled hold {held} bytes each at most; 40 others took {took * 1e3:.0f} ms")

        assert others == [EVENTS] * 40
        assert held <= 65_536
        assert sum([len(batch) async for batch in streams[0]]) == 64
        for block in blocks:
            await block.__aexit__(None, None, None)
        assert [pool.connections for pool in pools()] == [1]


async def test_more_than_a_connection_takes(nginx: Nginx) -> None:
    """Case 5: 200 streams at nginx's 128 a connection: a second connection, and none waits."""
    asyncio.get_running_loop().set_debug(False)  # the figure is to be the driver's
    async with scene(nginx) as it:
        reading = [asyncio.create_task(events_of(it.client, "/long")) for _ in range(200)]
        took = await it.asked(200)
        connections = [connection.open_streams for connection in pools()[0]._connections]
        it.script.go.set()

        print(f"case 5, nginx: 200 streams with the engine after {took * 1e3:.0f} ms, on connections of {connections}")
        assert sorted(connections) == [72, 128]
        assert await asyncio.gather(*reading) == [EVENTS] * 200


async def test_reload(nginx: Nginx) -> None:
    """Case 6: nginx is reloaded while requests come and a stream runs: 0 errors."""
    async with scene(nginx) as it:
        long = asyncio.create_task(events_of(it.client, "/long"))
        await it.asked(1)
        for round_ in range(10):
            asking = [asyncio.create_task(events_of(it.client, "/tasks")) for _ in range(30)]
            if round_ % 3 == 1:
                nginx.reload()
            assert await asyncio.gather(*asking) == [EVENTS] * 30
            await asyncio.sleep(0.05)
        it.script.go.set()

        print(f"case 6, nginx reloaded 3 times: 0 errors of {len(it.engine.requests)}")
        assert await long == EVENTS
        assert it.client.fallbacks == {}


async def test_kill(nginx: Nginx) -> None:
    """Case 6: nginx is killed: every stream ends in a WorkerReset at once, and the next request works."""
    async with scene(nginx) as it:
        reading = [asyncio.create_task(failure_of(events_of(it.client, "/long"))) for _ in range(100)]
        await it.asked(100)
        await asyncio.sleep(0.2)  # their first events come
        began = now()
        await nginx.kill()
        errors = await asyncio.gather(*reading)
        took = now() - began
        refused = await failure_of(it.client.request("GET", "/health"))
        await nginx.start()

        print(f"case 6, nginx killed: 100 streams told after {took * 1e3:.0f} ms")
        assert {type(error) for error in errors} == {WorkerReset}
        assert took < 2
        assert refused.detail == "unreachable"
        assert (await it.client.request("GET", "/health")).http_version == "2"


async def test_freeze(nginx: Nginx) -> None:
    """Case 6: nginx is stopped (SIGSTOP): found by PING, and told as a reset."""
    async with scene(nginx, http2_ping_interval=0.2) as it:
        reading = asyncio.create_task(failure_of(events_of(it.client, "/long")))
        await it.asked(1)
        await asyncio.sleep(0.5)
        assert not reading.done()
        nginx.freeze()
        began = now()
        error = await reading

        print(f"case 6, nginx frozen: found after {now() - began:.2f} s, with a PING after each 0.2 s of silence")
        assert (type(error), error.detail) == (WorkerReset, "truncated")
        assert "no answer to a PING" in error.message


async def test_cut_upstream(nginx: Nginx) -> None:
    """Cases 7 and 8: an engine that dies in mid-stream is an error of the engine's, never a clean end, and no mark."""
    async with scene(nginx) as it:
        errors = [await failure_of(events_of(it.client, "/cut")) for _ in range(3)]

        print(f"case 7, nginx: {errors[0].message}")
        assert {(type(error), error.detail, error.engine_fault) for error in errors} == {
            (WorkerReset, "truncated", True),
        }
        assert (await it.client.request("GET", "/health")).http_version == "2"
        assert it.client.fallbacks == {}


async def test_no_upstream(nginx: Nginx) -> None:
    """Case 8: no engine behind nginx is nginx's 502, over HTTP/2 as over 1.1."""
    async with scene(nginx) as it:
        await it.engine._stop_listening()
        error = await failure_of(it.client.request("GET", "/health"))

        assert (type(error), error.detail) == (InternalError, "engine")
        assert it.client.fallbacks == {}


async def test_http2_is_switched_off(nginx: Nginx) -> None:
    """Case 8: nginx loses HTTP/2 in a reload, and nobody notices."""
    async with scene(nginx) as it:
        assert (await it.client.request("GET", "/health")).http_version == "2"
        await nginx.write(http2=False)
        nginx.reload()
        versions: list[str] = []
        await asyncio.wait_for(ask_until(it.client, "1.1", versions), 10)

        print(f"case 8, nginx: {len(versions)} requests while HTTP/2 was switched off, 0 errors")
        assert it.client.fallbacks == {}


async def ask_until(client: HttpClient, version: str, versions: list[str]) -> None:
    while version not in versions:
        versions.append((await client.request("POST", "/health", {})).http_version)
        await asyncio.sleep(0.01)


@pytest.mark.nightly
@pytest.mark.timeout(7200 if os.environ.get("NIGHTLY") else 120)
async def test_soak(nginx: Nginx) -> None:
    """Case 9: behind nginx too nothing hangs and nothing is left after random cancels and cuts."""
    chance = dice()
    endings: Counter[str] = Counter()

    async def one(client: HttpClient) -> None:
        reading = asyncio.create_task(events_of(client, chance.choice(["/tasks", "/tasks", "/tasks", "/cut", "/long"])))
        if chance.random() < 0.3:
            await asyncio.sleep(chance.random() * 0.02)
            reading.cancel()
        try:
            async with asyncio.timeout(10):
                endings[f"{len(await reading)} events"] += 1
        except asyncio.CancelledError:
            endings["cancelled"] += 1
        except WorkerError as error:
            endings[error.detail] += 1

    async def several(client: HttpClient) -> None:
        while endings.total() < cases(600, nightly=50_000):
            await one(client)

    asyncio.get_running_loop().set_debug(False)
    async with scene(nginx) as it:
        it.script.go.set()
        await asyncio.gather(*(several(it.client) for _ in range(30)))
        await until(lambda: pools()[0].open_streams == 0)

        print(f"case 9, nginx: {endings.total()} streams ended so: {dict(endings)}")
        assert {"2 events", "cancelled", "truncated"} <= set(endings)
    assert list(_session._sessions.values()) == []
