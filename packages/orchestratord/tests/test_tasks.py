"""A task over HTTP: sent, read, cancelled."""

import asyncio
import gc
import json
from typing import Any

import pytest
from llama_orch_adapter_api import AdapterError, TaskRequest, TokenEvent, WorkerError

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    Client,
    Engine,
    forever,
    serving,
    shape,
    until,
    virtual,
    words,
)


@virtual
async def test_a_task_streams_from_start_to_end() -> None:
    """A task is taken in at once, and its stream is what the engine said, each event numbered."""
    async with serving(Engine(words(3, 1.0))) as client:
        status, body, headers = await client.post({"pool_id": "chat", "prompt": "hello"})
        found = await client.read(body["task_id"])

    assert status == 202
    assert headers["Location"] == f"/v1/tasks/{body['task_id']}"
    assert (body["queue_position"], body["predicted_start_ms"], body["backoff_ms"]) == (0, 0, 0)
    assert shape(found) == ["started", "token", "token", "token", "end"]
    assert [each.id for each in found] == [0, 1, 2, 3, 4]
    assert [each.data["i"] for each in found if each.event == "token"] == [0, 1, 2]
    assert all(each.data["kind"] == each.event for each in found)


@virtual
async def test_a_stream_says_what_it_is() -> None:
    """Nothing on the way may keep a stream, or hold it back."""
    async with serving(Engine(words())) as client:
        task_id = await client.send()
        async with client.open(task_id) as response:
            await response.read()

    assert response.content_type == "text/event-stream"
    assert response.headers["Cache-Control"] == "no-store"
    assert response.headers["X-Accel-Buffering"] == "no"


@virtual
async def test_a_cancel_frees_the_engine_and_ends_the_stream() -> None:
    """After the answer to a cancel not one token comes, and the stream ends as cancelled."""
    engine = Engine(forever())
    async with serving(engine) as client:
        task_id = await client.send()
        await until(lambda: engine.said > 2)
        status = await client.cancel(task_id)
        found = await client.read(task_id)

        assert status == 204
        assert shape(found) == ["end"]
        assert found[0].data["finish_reason"] == "cancelled"
        assert await client.cancel(task_id) == 204
    assert engine.running == 0


@virtual
async def test_a_task_can_be_looked_at() -> None:
    """How a task stands with its pool and its readers is there to be asked, for as long as it is known."""
    async with serving(Engine(words(4, 1.0), slots=1)) as client:
        first, second = await client.send(), await client.send()
        await asyncio.sleep(2.5)
        looks = [await look(client, first), await look(client, second)]
        await client.read(first)
        looks.append(await look(client, first))

    runs, waits, over = looks
    assert (runs["state"], runs["read"], runs["unread_events"]) == ("running", "unread", 3)
    assert (waits["state"], waits["queue_position"], waits["running_ms"]) == ("queued", 0, None)
    assert waits["queued_ms"] == pytest.approx(2500, abs=100)
    assert (over["state"], over["read"], over["unread_events"]) == ("ended", "read", 0)
    assert over["running_ms"] == pytest.approx(4000, abs=100)


async def look(client: Client, task_id: str) -> dict[str, Any]:
    status, body = await client.get(f"/v1/tasks/{task_id}")
    assert status == 200
    found: dict[str, Any] = json.loads(body)
    return found


@virtual
async def test_what_a_task_asked_is_not_kept() -> None:
    """A prompt may be large: it is gone with the end of its task, though the task is known for longer."""
    engine = Engine(words())
    async with serving(engine) as client:
        task_id = await client.send()
        await client.read(task_id)
        engine.begun.clear()
        assert (await look(client, task_id))["state"] == "ended"
        gc.collect()
        kept = [each for each in gc.get_objects() if isinstance(each, TaskRequest) and each.task_id == task_id]

    assert kept == []


@virtual
async def test_a_client_shuts_no_pool_by_what_it_asks_the_engine_for() -> None:
    """A task whose `extra` makes the engine's answer unreadable fails alone; the breaker stays closed for others."""

    def script(task: TaskRequest) -> list[TokenEvent | float | WorkerError]:
        return [AdapterError("no event stream", detail="decode")] if task.extra else words()(task)

    async with serving(Engine(script)) as client:
        for _ in range(20):
            found = await client.read(await client.send(extra={"stream": False}))
            assert found[-1].data["code"] == "ADAPTER"
        found = await client.read(await client.send())

    assert shape(found) == ["started", *["token"] * 3, "end"]
