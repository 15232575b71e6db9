"""The end of the orchestrator: nothing new, time for what runs, and nothing left over."""

import asyncio

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    Engine,
    forever,
    frames,
    serving,
    shape,
    until,
    virtual,
    words,
)

DRAIN = "[server]\nshutdown = 10.0"


def others() -> int:
    """How many tasks of the loop there are besides the test's own."""
    return len(asyncio.all_tasks()) - 1


@virtual
async def test_streams_run_on_for_a_while() -> None:
    """A stream that ends in time is whole, though the orchestrator was told to stop."""
    async with serving(Engine(words(5, 1.0)), toml=DRAIN) as client:
        task_id = await client.send()
        async with client.open(task_id) as reading:
            await reading.content.readuntil(b"event: token")
            stopping = asyncio.create_task(client.app.shutdown())
            rest = await reading.content.read()
        await stopping

    assert b"event: end" in rest
    assert b'"finish_reason":"stop"' in rest


@virtual
async def test_streams_that_take_too_long_are_ended() -> None:
    """After shutdown seconds a stream ends in an error that says it may be sent again, and its engine is free."""
    engine = Engine(forever())
    async with serving(engine, toml=DRAIN) as client:
        task_id = await client.send()
        reading = asyncio.create_task(client.read(task_id))
        await until(lambda: engine.said > 1)
        began = asyncio.get_running_loop().time()
        await client.app.shutdown()
        took = asyncio.get_running_loop().time() - began
        found = await reading

    assert 9.9 <= took < 11
    assert (found[-1].data["code"], found[-1].data["retriable"]) == ("WORKER_RESET", True)
    assert "send it again, to another" in found[-1].data["message"]
    assert engine.running == 0


@virtual
async def test_a_stop_takes_nothing_in_and_keeps_nobody_waiting() -> None:
    """What waits is told that it comes to nothing, no task is taken in, and what runs may still be read."""
    engine = Engine(words(3, 1.0), slots=1)
    async with serving(engine, toml=DRAIN) as client:
        running, waiting = await client.send(), await client.send()
        async with client.open(waiting) as reading:
            stopping = asyncio.create_task(client.app.shutdown())
            refused = frames(await reading.text())
        status, body, _ = await client.post({"pool_id": "chat", "prompt": "a"})
        found = await client.read(running)
        began = asyncio.get_running_loop().time()
        await stopping
        assert asyncio.get_running_loop().time() - began < 0.5

    assert shape(refused) == ["error"]
    assert (status, body["retriable"]) == (503, True)
    assert "stopping" in body["message"]
    assert shape(found) == ["started", "token", "token", "token", "end"]


@virtual
async def test_a_stop_leaves_nothing() -> None:
    """Whatever state tasks and readers are in, a stop ends all of them and leaves no task of the loop behind."""
    before = others()
    engine = Engine(forever(0.1), slots=3)
    async with serving(engine, toml="[server]\nshutdown = 0.5\n[stream]\nunread_events = 4") as client:
        sent = [await client.send() for _ in range(6)]
        async with client.open(sent[0]) as read, client.open(sent[4]) as queued:
            await read.content.readuntil(b"event: token")
            assert queued.status == 200
            await asyncio.sleep(1)
    await asyncio.sleep(0)

    assert engine.running == 0
    assert others() == before
