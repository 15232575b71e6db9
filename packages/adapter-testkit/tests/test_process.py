import asyncio
import os
import signal
import time
from contextlib import suppress
from pathlib import Path

import pytest
from llama_orch_adapter_testkit import Behaviour, EngineProcess, Toxic

from .client import ask, connect, events, get, post  # type: ignore[import-not-found]  # test folders are no packages

STREAM = post("/completion", {"prompt": "a", "n_predict": 100_000})

pytestmark = pytest.mark.timeout(60)


def descriptors() -> int:
    return len(list(Path("/dev/fd").iterdir()))


async def test_an_engine_in_a_process_of_its_own():
    """It serves as one in this process would, reports what it saw, and leaves no descriptor behind."""
    before = descriptors()
    async with EngineProcess(Behaviour(tokens=2)) as engine:
        began = time.monotonic()
        got = events(await ask(engine.url, post("/completion", {"prompt": "a"})))
        report = await engine.report()
        again = await engine.report()
        assert engine.pid != os.getpid()

    (seen,) = report.ended
    assert [each["content"] for each in got] == ["a.0 ", "a.1 ", ""]
    assert (seen.subject, seen.tokens, seen.ending, report.connections_made) == ("a", 2, "answered", 1)
    assert seen.ended is not None
    assert began < seen.began < seen.ended < time.monotonic()
    assert (again.ended, again.live) == ((), ())
    assert descriptors() == before


async def test_it_sees_its_client_leave():
    """A stream whose client goes is reported as left, at a moment of the clock that both share."""
    async with EngineProcess(Behaviour(pace=0.005)) as engine:
        reader, writer = await connect(engine.url)
        writer.write(STREAM)
        await reader.readuntil(b"a.1 ")
        (live,) = (await engine.report()).live
        moment = time.monotonic()
        writer.close()
        while not (ended := (await engine.report()).ended):
            await asyncio.sleep(0.005)

    assert (live.ending, ended[0].ending) == (None, "left")
    assert live.tokens >= 2
    assert ended[0].ended is not None
    assert ended[0].ended >= moment


async def test_one_that_was_killed_comes_back_in_its_place():
    """An engine that listens at the port of one that was killed is found where that was."""
    async with EngineProcess(Behaviour(tokens=1)) as killed:
        await ask(killed.url, post("/completion", {"prompt": "a"}))
        await killed.kill()
    async with EngineProcess(Behaviour(tokens=1, port=int(killed.url.rsplit(":", 1)[1]))) as engine:
        got = events(await ask(killed.url, post("/completion", {"prompt": "a"})))

    assert engine.url == killed.url
    assert [each["content"] for each in got] == ["a.0 ", ""]


@pytest.mark.parametrize("at", [1, 17, 200, 201, 5000])
async def test_it_dies_at_a_byte(at: int):
    """`die_after` bytes of all that it wrote, whoever got them, it is gone."""
    async with EngineProcess(Behaviour(die_after=at)) as engine:
        came = [b""] * 3

        async def read(number: int) -> None:
            with suppress(ConnectionError):
                came[number] = await ask(engine.url, STREAM)

        await asyncio.gather(*(read(number) for number in range(3)))
        code = await engine.ended()
        with pytest.raises(ConnectionError):
            await engine.report()

    assert code == -signal.SIGKILL
    assert sum(map(len, came)) == at


async def test_it_can_be_killed_at_any_time():
    """A kill is seen by its clients as an end without a last chunk; a second one does nothing."""
    async with EngineProcess(Behaviour(pace=0.01)) as engine:
        reader, writer = await connect(engine.url)
        writer.write(STREAM)
        await reader.readuntil(b"a.0 ")
        await engine.kill()
        await engine.kill()
        rest = await reader.read()
        writer.close()

    assert not rest.endswith(b"0\r\n\r\n")


async def test_toxics_of_an_engine_spoil_every_stream():
    """A toxic of the behaviour holds for each generation, and for no other answer."""
    async with EngineProcess(Behaviour(toxics=(Toxic(kind="limit_data", after=150),))) as engine:
        spoilt = await ask(engine.url, STREAM)
        health = await ask(engine.url, get("/health"))

    assert len(spoilt) == 150
    assert health.endswith(b'{"status":"ok"}')


async def test_what_fails_in_it_is_told_where_its_block_ends():
    """A request that asks for a behaviour there is none of is an error of the test, and not passed over."""
    with pytest.raises(RuntimeError, match="the fake engine failed: TypeError.*speed"):
        async with EngineProcess() as engine:
            await ask(engine.url, post("/completion", {"prompt": "a", "fake": {"speed": 2}}))


async def test_it_says_why_it_does_not_start(capfd: pytest.CaptureFixture[str]):
    """A behaviour that is none ends the process; the error points at stderr."""
    engine = EngineProcess(Behaviour.of({"slots": -1}))
    with pytest.raises(RuntimeError, match="ended before it was ready; what it said stands on stderr"):
        async with engine:
            pass

    assert "Semaphore" in capfd.readouterr().err
