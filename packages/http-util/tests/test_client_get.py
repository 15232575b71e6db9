"""`HttpClient.get`: what is asked of an engine about itself, tried as often as the pool allows (ORCH-3611)."""

import asyncio
from collections.abc import Sequence

import pytest
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerError, WorkerReset
from llama_orch_adapter_testkit import LoopbackEngine, Reply, run_virtual
from llama_orch_http_util import HttpClient, HttpConfig, RetryPolicy

GOOD = Reply.json(200, {"slots": 4})
LOADING = Reply.json(503, {"error": {"message": "Loading model"}})
RESET = Reply((), "reset")


def answering(*replies: Reply) -> LoopbackEngine:
    """An engine that gives these replies, one after the other."""
    return LoopbackEngine({("GET", "/props"): replies})


async def failure(client: HttpClient, *, once: bool = False) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await client.get("/props", once=once)
    return caught.value


def busy(retry_after: str) -> Reply:
    return Reply.json(503, {}, headers={"Retry-After": retry_after})


def test_an_answer_in_the_end() -> None:
    """A failure that another attempt may mend is met with another attempt, after a short wait (ORCH-3611)."""

    async def main() -> None:
        async with answering(LOADING, RESET, GOOD) as engine, HttpClient(engine.url) as client:
            assert (await client.get("/props")).body == b'{"slots":4}'
            assert len(engine.requests) == 3
            assert 0 < asyncio.get_running_loop().time() < 0.16

    run_virtual(main())


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_attempts_are_the_configured_ones(attempts: int) -> None:
    """ORCH-3612: the last failure is told with as many attempts as the client's config has."""
    config = HttpConfig(retry=RetryPolicy(attempts=attempts))

    async def main() -> None:
        async with answering(LOADING) as engine, HttpClient(engine.url, config) as client:
            error = await failure(client)

            assert (type(error), error.detail) == (PoolUnavailable, "loading")
            assert error.attempts == len(engine.requests) == attempts

    run_virtual(main())


async def test_once() -> None:
    """On a task's way there is one try: the attempt is the host's, and nobody retries around a retrier."""
    async with answering(LOADING) as engine, HttpClient(engine.url) as client:
        error = await failure(client, once=True)

        assert (error.detail, error.attempts) == ("loading", 0)
        assert len(engine.requests) == 1


async def test_what_no_attempt_would_mend() -> None:
    """A refusal is told at once."""
    async with answering(Reply.json(401, {})) as engine, HttpClient(engine.url) as client:
        error = await failure(client)

        assert (type(error), error.detail, error.attempts) == (AdapterError, "auth", 1)
        assert len(engine.requests) == 1


@pytest.mark.parametrize(
    ("replies", "attempts", "requests"),
    [
        ([RESET, GOOD], None, 2),
        ([RESET, LOADING, GOOD], None, 3),
        ([RESET, RESET, RESET, RESET], 3, 4),
    ],
    ids=["stale", "stale, then loading", "stale, then broken"],
)
def test_a_stale_connection_is_no_attempt(replies: Sequence[Reply], attempts: int | None, requests: int) -> None:
    """The repetition of a GET that met a closed kept connection, which aiohttp does, is no attempt of its own."""

    async def main() -> None:
        async with answering(GOOD, *replies) as engine, HttpClient(engine.url) as client:
            await client.get("/props")
            if attempts is None:
                assert (await client.get("/props")).status == 200
            else:
                error = await failure(client)
                assert (type(error), error.stale_connection, error.attempts) == (WorkerReset, False, attempts)

            assert len(engine.requests) == 1 + requests

    run_virtual(main())


def test_nobody_is_kept_waiting() -> None:
    """No attempt begins later than `patience` after the first, so that a look of 5 s learns why it saw nothing."""

    async def main() -> None:
        loop = asyncio.get_running_loop()

        async def look_up(*_: object, **__: object) -> None:
            await asyncio.Event().wait()

        loop.getaddrinfo = look_up  # type: ignore[method-assign, assignment]  # a name that nobody ever finds
        async with HttpClient("http://engine", HttpConfig(retry=RetryPolicy(attempts=9))) as client:
            error = await failure(client)

        assert (type(error), error.detail, error.attempts) == (PoolUnavailable, "unreachable", 2)
        assert 4 <= loop.time() < 4.2

    run_virtual(main())


@pytest.mark.parametrize(
    ("asks", "requests", "waited"), [("1", 3, 2.0), ("2", 2, 2.0), ("4", 1, 0.0)], ids=["little", "more", "too much"]
)
def test_an_engine_that_asks_for_time(asks: str, requests: int, waited: float) -> None:
    """A Retry-After is waited for as long as it ends within `patience` of the first attempt; else nothing is."""

    async def main() -> None:
        async with answering(busy(asks)) as engine, HttpClient(engine.url) as client:
            error = await failure(client)

            assert error.attempts == len(engine.requests) == requests
            assert waited <= asyncio.get_running_loop().time() <= waited * 1.1 + 0.01

    run_virtual(main())


def test_cancelled_between_two_attempts() -> None:
    """A cancellation ends the wait at once, and nothing more is sent (ORCH-3611)."""

    async def main() -> None:
        async with answering(busy("2")) as engine, HttpClient(engine.url) as client:
            asking = asyncio.create_task(client.get("/props"))
            await engine.request()
            await asyncio.sleep(1)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking

            assert asyncio.get_running_loop().time() < 1.1
            assert len(engine.requests) == 1

    run_virtual(main())
