"""How the body of an HTTP/1.1 answer is waited for: to its end, by one task, and never for too long."""

import asyncio
import gc
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import DecodeTimeout
from llama_orch_adapter_testkit import LoopbackEngine, Reply, run_virtual
from llama_orch_http_util import HttpClient, HttpConfig, StreamRequest
from llama_orch_http_util._http1 import Http1Answer

PATH = "/v1/completions"
ANYTHING = msgspec.json.Decoder(Any)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def answering(reply: Reply) -> LoopbackEngine:
    return LoopbackEngine({("POST", PATH): reply})


def ask(client: HttpClient) -> StreamRequest[Any]:
    return client.stream(PATH, {"prompt": "a"}, ANYTHING)


async def test_the_end_of_a_chunk_is_not_the_end_of_the_body() -> None:
    """The line end that closes an HTTP chunk may come by itself: the reader is woken, finds nothing and waits on."""

    async def apart(_: int) -> None:
        await asyncio.sleep(0.01)

    event = b"data: 1\n\n"
    pieces = (HEAD, b"%x\r\n%b" % (len(event), event), b"\r\n", b"%x\r\n%b" % (len(event), event), b"\r\n0\r\n\r\n")
    async with answering(Reply(pieces, gate=apart)) as engine, HttpClient(engine.url) as client, ask(client) as events:
        assert [batch async for batch in events] == [[1], [1]]


async def test_two_tasks_cannot_wait_for_one_answer() -> None:
    """A second task that would wait for the same answer is told so; the first one waits on and gets what comes."""
    going = asyncio.Event()

    async def gate(number: int) -> None:
        if number == 1:
            await going.wait()

    reply = Reply.sse([{"n": 0}, {"n": 1}, "[DONE]"], gate=gate)
    async with answering(reply) as engine, HttpClient(engine.url) as client, ask(client) as events:
        assert await anext(events) == [{"n": 0}]
        first = asyncio.create_task(anext(events))
        await asyncio.sleep(0)

        with pytest.raises(RuntimeError, match="two tasks read one answer"):
            await anext(events)
        going.set()
        assert (await first)[0] == {"n": 1}


async def test_a_forgotten_answer_is_dropped() -> None:
    """A stream that nobody closes and nobody holds any more lets go of its socket and its timer (battery 12)."""
    async with answering(Reply.sse([{"n": 0}], hang=True)) as engine, HttpClient(engine.url) as client:
        events = await client.open_stream(PATH, {"prompt": "a"}, ANYTHING)
        request = await engine.request()
        assert await anext(events) == [{"n": 0}]
        del events
        gc.collect()
        await request.disconnected()

        assert not [each for each in gc.get_objects() if isinstance(each, Http1Answer)]


def test_a_forgotten_answer_outlives_its_loop() -> None:
    """Nothing is said of a stream that is forgotten after its loop was closed."""

    async def main() -> object:
        async with answering(Reply.sse([{"n": 0}], hang=True)) as engine, HttpClient(engine.url) as client:
            return await client.open_stream(PATH, {"prompt": "a"}, ANYTHING)

    events = asyncio.run(main())
    del events
    gc.collect()


def test_the_looks_end_with_the_body() -> None:
    """Nobody looks at an answer whose body is here, though its reader is not done: no timer keeps the loop busy."""

    async def main() -> None:
        async with answering(Reply.sse([{"n": 0}, "[DONE]"])) as engine, HttpClient(engine.url) as client:
            async with ask(client):
                await asyncio.sleep(60)
                timers = [each for each in asyncio.get_running_loop()._scheduled if "_look_at" in repr(each)]  # type: ignore[attr-defined]

                assert timers == []

    run_virtual(main())


async def test_a_stream_is_asked_for_once() -> None:
    """Entering a stream's block a second time is refused: the first answer would be lost, and never closed."""
    async with answering(Reply.sse([{"n": 0}, "[DONE]"])) as engine, HttpClient(engine.url) as client:
        request = ask(client)
        async with request as events:
            assert [batch async for batch in events] == [[{"n": 0}]]
            with pytest.raises(RuntimeError, match="asked for already"):
                await request.__aenter__()

        assert len(engine.requests) == 1


@pytest.mark.parametrize("wait", [0.0, 0.4, 13.3, 29.9])
def test_a_wait_is_never_cut_short(wait: float) -> None:
    """Whenever it begins, a wait ends `sock_idle` seconds later, or up to a thirty-second part of that more."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reply = Reply.sse([{"n": 0}], hang=True)
        async with (
            answering(reply) as engine,
            HttpClient(engine.url, HttpConfig(sock_idle=30)) as client,
            ask(client) as events,
        ):
            await anext(events)
            await asyncio.sleep(wait)
            begun = loop.time()
            with pytest.raises(DecodeTimeout):
                await anext(events)

            assert 30 <= loop.time() - begun < 31

    run_virtual(main())


def test_a_reader_that_pauses_is_not_a_silent_socket() -> None:
    """Only waits are bounded: who takes an event and comes back after any time finds the stream as it was."""

    async def main() -> None:
        async def gate(number: int) -> None:
            if number == 1:
                await asyncio.sleep(1000)

        reply = Reply.sse([{"n": 0}, {"n": 1}, "[DONE]"], gate=gate)
        async with (
            answering(reply) as engine,
            HttpClient(engine.url, HttpConfig(sock_idle=30)) as client,
            ask(client) as events,
        ):
            assert await anext(events) == [{"n": 0}]
            await asyncio.sleep(990)
            assert await anext(events) == [{"n": 1}]

    run_virtual(main())


@pytest.mark.parametrize("pause", [0.0, 0.1, 5.0])
def test_a_wait_given_up_does_not_count(pause: float) -> None:
    """A wait that its task gave up is over: the next one has the whole time again."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        reply = Reply.sse([{"n": 0}], hang=True)
        async with (
            answering(reply) as engine,
            HttpClient(engine.url, HttpConfig(sock_idle=30)) as client,
            ask(client) as events,
        ):
            await anext(events)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(events), 20)
            await asyncio.sleep(pause)
            begun = loop.time()
            with pytest.raises(DecodeTimeout):
                await anext(events)

            assert 30 <= loop.time() - begun < 31

    run_virtual(main())
