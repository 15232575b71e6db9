"""A task's stream: who may read it, for how long, and what it looks like while nothing comes."""

import asyncio
import itertools
import json

import pytest
from llama_orch_adapter_api import End, InternalError, Metrics, Token

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Engine,
    forever,
    frames,
    serving,
    shape,
    until,
    virtual,
    words,
)


@virtual
async def test_one_reader_at_a_time() -> None:
    """A stream that is being read has no room for a second reader."""
    async with serving(Engine(forever())) as client:
        task_id = await client.send()
        async with client.open(task_id) as reading:
            await reading.content.readuntil(b"event: token")
            status, body = await client.get(f"/v1/tasks/{task_id}/stream")

    assert status == 409
    assert "has a reader already" in body


@virtual
async def test_a_stream_is_read_once() -> None:
    """What was read to its end is gone, and says so."""
    async with serving(Engine(words())) as client:
        task_id = await client.send()
        await client.read(task_id)
        status, body = await client.get(f"/v1/tasks/{task_id}/stream")

    assert status == 410
    assert "was read to its end" in body


@virtual
async def test_a_task_that_nobody_reads_expires() -> None:
    """Without a reader a task is ended, its engine freed, what it said forgotten, and in the end the task itself."""
    engine = Engine(forever())
    async with serving(engine, toml="[stream]\nunread_expiry = 10.0\n[tasks]\nkeep = 100.0") as client:
        task_id = await client.send()
        await asyncio.sleep(9)
        assert engine.running == 1
        await asyncio.sleep(2)
        assert engine.running == 0
        expired, body = await client.get(f"/v1/tasks/{task_id}/stream")
        await asyncio.sleep(100)
        forgotten, _ = await client.get(f"/v1/tasks/{task_id}/stream")

    assert (expired, forgotten) == (410, 404)
    assert "stream.unread_expiry" in body


@virtual
async def test_a_task_that_waits_needs_no_reader() -> None:
    """However long the queue is, its time without a reader counts from its start, after one that left, too."""
    toml = "[stream]\nunread_expiry = 10.0\ncancel_on_disconnect = false"
    engine = Engine(words(30, 1.0), slots=1)
    async with serving(engine, toml=toml) as client:
        first, left, second = [await client.send() for _ in range(3)]
        async with client.open(left) as reading:
            reading.close()
        await client.read(first)
        await asyncio.sleep(9)
        assert engine.running == 1
        await asyncio.sleep(2)
        expired, _ = await client.get(f"/v1/tasks/{left}/stream")
        found = await client.read(second)

    assert expired == 410
    assert shape(found) == ["started", *["token"] * 30, "end"]


@virtual
async def test_a_reader_that_comes_in_time_stops_the_clock() -> None:
    """However long it takes, a task that is being read does not expire."""
    async with serving(Engine(words(30, 1.0)), toml="[stream]\nunread_expiry = 10.0") as client:
        task_id = await client.send()
        await asyncio.sleep(8)
        found = await client.read(task_id)

    assert shape(found) == ["started", *["token"] * 30, "end"]


@virtual
async def test_a_task_that_ended_unread_waits_for_its_reader() -> None:
    """The whole answer is there for a reader that comes after the end."""
    async with serving(Engine(words(3))) as client:
        task_id = await client.send()
        await asyncio.sleep(30)
        found = await client.read(task_id)

    assert shape(found) == ["started", "token", "token", "token", "end"]


@virtual
async def test_a_client_that_leaves_cancels_its_task() -> None:
    """The engine is free at once when the client closes its connection."""
    engine = Engine(forever())
    async with serving(engine) as client:
        task_id = await client.send()
        async with client.open(task_id) as reading:
            await reading.content.readuntil(b"event: token")
            reading.close()
        began = asyncio.get_running_loop().time()
        await until(lambda: engine.running == 0)

        assert asyncio.get_running_loop().time() - began < 0.5


@virtual
async def test_a_client_that_leaves_in_silence_is_missed() -> None:
    """Where the server does not cancel handlers, a client that left is noticed at the next look, a heartbeat later."""
    engine = Engine(lambda _: [STARTED, Token("a", 0), 29.0, Token("b", 1), End(1, 2, "stop")])
    async with serving(engine, told=False, toml="[stream]\nheartbeat = 5.0") as client:
        task_id = await client.send()
        async with client.open(task_id) as reading:
            await reading.content.readuntil(b"event: token")
            reading.close()
        await asyncio.sleep(6)

        assert engine.running == 0


@virtual
async def test_a_client_that_leaves_the_queue_cancels_its_task() -> None:
    """A task whose reader left while it waited is never sent to an engine."""
    engine = Engine(words(5, 1.0), slots=1)
    async with serving(engine) as client:
        first, second = await client.send(), await client.send()
        async with client.open(second) as reading:
            reading.close()
        await client.read(first)
        status, body = await client.get(f"/v1/tasks/{second}/stream")
        view = json.loads((await client.get(f"/v1/tasks/{second}"))[1])

    assert (status, "its reader left" in body) == (410, True)
    assert (view["state"], view["read"]) == ("ended", "expired")

    assert [task.task_id for task in engine.begun] == [first]


@virtual
@pytest.mark.parametrize("api", ["tasks", "openai"])
async def test_tasks_whose_clients_left_take_no_room(api: str) -> None:
    """Each is over, makes room for a new one at once, and is nothing that somebody may still read."""
    engine = Engine(forever(0.05), slots=8)
    chat = {"model": "chat", "messages": [{"role": "user", "content": "x"}], "stream": True}
    async with serving(engine, toml="openai.enabled = true\n[tasks]\nlimit = 4") as client:
        for _ in range(4):
            if api == "tasks":
                reading = client.open(await client.send())
            else:
                reading = client.session.post(f"{client.url}/v1/chat/completions", json=chat)
            async with reading as response:
                await response.content.readany()
                response.close()
        await until(lambda: engine.running == 0)
        await asyncio.sleep(0.1)
        unread = client.census().unread
        ids = [await client.send() for _ in range(4)]

    assert unread == 0
    assert len(set(ids)) == 4


@virtual
async def test_a_client_may_leave_and_another_one_go_on() -> None:
    """With cancel_on_disconnect off a task runs on unread, and its next reader gets what came meanwhile."""
    async with serving(Engine(words(6, 1.0)), toml="[stream]\ncancel_on_disconnect = false") as client:
        task_id = await client.send()
        async with client.open(task_id) as reading:
            seen = await reading.content.readuntil(b'"i":1')
            reading.close()
        await asyncio.sleep(2)
        rest = await client.read(task_id)

    assert b'"i":2' not in seen
    assert (rest[0].event, rest[0].data) == ("gap", {"first": 0, "last": 2})
    assert [each.data["i"] for each in rest if each.event == "token"] == [2, 3, 4, 5]
    assert rest[-1].event == "end"


@virtual
async def test_an_id_that_was_never_told_is_refused() -> None:
    """Neither what is no number nor an event that has not come can have been seen."""
    async with serving(Engine(forever()), toml="[stream]\ncancel_on_disconnect = false") as client:
        task_id = await client.send()
        await asyncio.sleep(2.5)
        for told in ("x", "-1", "\u0661", "9" * 19, "3"):
            async with client.open(task_id, **{"Last-Event-ID": told}) as answer:
                assert answer.status == 400, told
        async with client.open(task_id, **{"Last-Event-ID": "1"}) as reading:
            assert b"id: 2" in await reading.content.readuntil(b"data: ")


@virtual
async def test_only_a_task_that_outlives_its_reader_remembers() -> None:
    """By default nothing is kept of what was written, and what a reader says it saw changes nothing."""
    async with serving(Engine(words(3, 1.0))) as client:
        task_id = await client.send()
        async with client.open(task_id, **{"Last-Event-ID": "0"}) as reading:
            found = frames(await reading.text())

    assert shape(found) == ["started", "token", "token", "token", "end"]


@virtual
async def test_a_head_comes_before_the_first_event() -> None:
    """A client knows at once that its task is being streamed, though it waits in the queue."""
    async with serving(Engine(words(20, 1.0), slots=1)) as client:
        await client.send()
        waiting = await client.send()
        began = asyncio.get_running_loop().time()
        async with client.open(waiting) as reading:
            assert reading.status == 200
            assert asyncio.get_running_loop().time() - began < 1


@virtual
async def test_silence_is_filled_with_comments() -> None:
    """While nothing comes a comment shows that the stream lives; it is none of the events."""
    async with serving(Engine(lambda _: [STARTED, 50.0, Token("a", 0), End(1, 1, "stop")])) as client:
        task_id = await client.send()
        _, body = await client.get(f"/v1/tasks/{task_id}/stream?heartbeat=10")

    assert 4 <= body.count(":\n\n") <= 5
    assert shape(frames(body)) == ["started", "token", "end"]


@virtual
@pytest.mark.parametrize("query", ["", "&batch=true"])
async def test_no_silence_is_longer_than_a_heartbeat(query: str) -> None:
    """A comment comes a heartbeat after the latest event, whenever that was, and then a heartbeat after each other."""
    steps = [STARTED, Token("a", 0), 1.5, Token("b", 1), 9.0, Token("c", 2), End(1, 3, "stop")]
    async with serving(Engine(lambda _: steps)) as client:
        began = asyncio.get_running_loop().time()
        task_id = await client.send()
        async with client.open(task_id, "?heartbeat=2" + query) as reading:
            chunks = reading.content.iter_any()
            came = [asyncio.get_running_loop().time() - began async for chunk in chunks if chunk == b":\n\n"]

    assert came == pytest.approx([3.5, 5.5, 7.5, 9.5], abs=0.1)


@virtual
async def test_no_comments_where_none_are_wanted() -> None:
    """A heartbeat of 0 is none."""
    async with serving(Engine(lambda _: [STARTED, 50.0, Token("a", 0), End(1, 1, "stop")])) as client:
        task_id = await client.send()
        _, body = await client.get(f"/v1/tasks/{task_id}/stream?heartbeat=0")

    assert ":\n\n" not in body


@virtual
async def test_a_reader_may_hear_what_is_done_for_it() -> None:
    """With narration a stream also tells, in lines for people, what the host does for its task and no other."""
    async with serving(Engine(words(3, 1.0), slots=1)) as client:
        await client.send()
        task_id = await client.send()
        async with client.open(task_id, "?narration=true") as reading:
            found = frames(await reading.text())
        silent = await client.read(await client.send())

    told = [each.data["human"] for each in found if each.event == "narration"]
    assert any("chat/0" in each for each in told)
    assert all(task_id[:8] in each for each in told)
    assert all(each.id is None for each in found if each.event == "narration")
    assert "narration" not in shape(silent)


@virtual
async def test_narration_keeps_its_cadence() -> None:
    """However much there is to tell, a sentence comes no sooner than narration_every after the one before."""
    async with serving(Engine(words(8, 1.0), slots=1), toml="[stream]\nnarration_every = 4.0") as client:
        await client.send()
        task_id = await client.send()
        found = await client.read(task_id, "?narration=true")

    at = [i for i, each in enumerate(found) if each.event == "narration"]
    assert len(at) > 1
    for earlier, later in itertools.pairwise(at):
        assert shape(found[earlier:later]).count("token") >= 3  # which come once a second


@virtual
async def test_a_failure_is_the_last_frame() -> None:
    """A task that fails ends in the wire form of its error, and in no end."""
    failure = InternalError("the engine broke", detail="engine")
    async with serving(Engine(lambda _: [STARTED, Token("a", 0), 1.0, failure])) as client:
        found = await client.read(await client.send())

    assert shape(found) == ["started", "token", "error"]
    assert found[-1].data["code"] == "INTERNAL"
    assert found[-1].data["engine"] == "words"


@virtual
async def test_metrics_come_in_their_place() -> None:
    """A reader that keeps up gets everything."""
    script = [Token("a", 0), Metrics(tokens_out=1), Token("b", 1), End(1, 2, "stop")]
    async with serving(Engine(lambda _: [STARTED, 1.0, *script])) as client:
        found = await client.read(await client.send())

    assert shape(found) == ["started", "token", "metrics", "token", "end"]


@virtual
async def test_a_query_is_checked() -> None:
    """What cannot be meant is refused with the mend, before anything is read."""
    async with serving(Engine(words())) as client:
        task_id = await client.send()
        for query in ("heartbeat=never", "heartbeat=0.1", "heartbeat=nan", "narration=1", "batch=maybe", "bach=true"):
            status, body = await client.get(f"/v1/tasks/{task_id}/stream?{query}")
            assert status == 400, query
            assert "give" in body
        assert shape(await client.read(task_id))[-1] == "end"


@virtual
async def test_unknown_tasks_are_not_found() -> None:
    """Neither a stream nor a cancel is there for a task that was never sent."""
    async with serving(Engine(words())) as client:
        status, body = await client.get("/v1/tasks/nope/stream")

        assert status == 404
        assert "tasks.keep" in body
        assert await client.cancel("nope") == 404
