"""Clients share a session: connections are used again, nobody waits for one, and each keeps its own limits."""

import asyncio
import gc
import time
from contextlib import AsyncExitStack

import aiohttp
import pytest
from llama_orch_adapter_api import DecodeTimeout
from llama_orch_adapter_testkit import LoopbackEngine, Reply, run_virtual
from llama_orch_http_util import HttpClient, HttpConfig, _session

from .clients import ANYTHING, GET, HEALTH, KEY, POST, Health, answering, failure  # type: ignore[import-not-found]  # test folders are no packages


async def test_long_lived_connections_hold_no_answers() -> None:
    """An answer that was read is forgotten, though its connection stays."""
    script = {GET: Reply.json(200, {}), POST: Reply.sse([{"n": 0}, "[DONE]"])}
    async with LoopbackEngine(script) as engine, HttpClient(engine.url) as client:
        for _ in range(20):
            await client.request("GET", "/health")
            async with client.stream("/tasks", {}, ANYTHING) as events:
                assert len([batch async for batch in events]) == 1
        gc.collect()

        assert engine.connections_made == 1
        assert sum(isinstance(thing, aiohttp.ClientResponse) for thing in gc.get_objects()) <= 1


async def test_connections_are_used_again() -> None:
    """Requests one after the other need one connection, refusals among them."""
    replies = [Reply.json(200, {}), Reply.json(404, {}), Reply.json(200, {}), Reply.json(503, {})]
    async with LoopbackEngine({GET: replies}) as engine, HttpClient(engine.url) as client:
        await client.request("GET", "/health")
        await failure(client)
        await client.request("GET", "/health")
        await failure(client)

        assert engine.connections_made == 1


async def test_no_call_waits_for_a_connection() -> None:
    """With 110 answers outstanding a health check is answered at once (battery 27's part)."""
    script = {GET: Reply.json(200, {"status": "ok"}), POST: Reply.silence()}
    patient = HttpConfig(connect=15)  # 110 connects at once may take a busy machine a while
    async with LoopbackEngine(script) as engine, HttpClient(engine.url, patient) as client:
        waiting = [asyncio.create_task(client.request("POST", "/tasks", {})) for _ in range(110)]
        await engine.request(109)
        async with asyncio.timeout(2):
            assert (await client.request("GET", "/health")).decode(HEALTH, "the health") == Health("ok")
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)

        assert engine.connections_made == 111


async def test_open_streams_starve_nobody() -> None:
    """With 1,000 streams open a health check is answered at once (battery 27, pool_starvation)."""
    asyncio.get_running_loop().set_debug(False)  # it would note where each of them was opened
    script = {GET: Reply.json(200, {"status": "ok"}), POST: Reply.sse([{"n": 0}], hang=True)}
    async with LoopbackEngine(script) as engine, HttpClient(engine.url) as client, AsyncExitStack() as open_streams:
        for _ in range(1000):
            events = await open_streams.enter_async_context(client.stream("/tasks", {}, ANYTHING))
            await anext(events)
        begun = time.perf_counter()
        assert (await client.request("GET", "/health")).decode(HEALTH, "the health") == Health("ok")
        took = time.perf_counter() - begun

        assert took < 0.2
        assert engine.open_connections == 1001


def test_each_client_keeps_its_own_limits() -> None:
    """ORCH-3612: clients that share a session each have the limits of their own pool."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        script = {GET: Reply.json(200, "x" * 100), POST: Reply.silence()}
        strict, mild = HttpConfig(sock_idle=10, max_body=50), HttpConfig(sock_idle=40, max_body=500)
        async with (
            LoopbackEngine(script) as engine,
            HttpClient(engine.url, strict) as first,
            HttpClient(engine.url, mild) as second,
        ):
            assert (await failure(first)).detail == "too_large"
            assert (await second.request("GET", "/health")).status == 200
            begun = loop.time()
            waiting = asyncio.create_task(failure(second, "POST", "/tasks"))
            assert isinstance(await failure(first, "POST", "/tasks"), DecodeTimeout)
            assert loop.time() - begun == pytest.approx(10, abs=1)
            assert isinstance(await waiting, DecodeTimeout)
            assert loop.time() - begun == pytest.approx(40, abs=1)

            assert [shared.borrowers for shared in _session._sessions.values()] == [2]

    run_virtual(main())


async def test_two_clients_keep_their_keys_apart() -> None:
    """Clients share a session, yet not their keys."""
    async with (
        answering(Reply.json(200, {})) as engine,
        HttpClient(engine.url, api_key=KEY) as one,
        HttpClient(engine.url) as other,
    ):
        await one.request("GET", "/health")
        await other.request("GET", "/health")

        assert ["authorization" in request.headers for request in engine.requests] == [True, False]
