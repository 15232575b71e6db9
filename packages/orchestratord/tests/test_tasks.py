"""A task over HTTP: sent, read, cancelled."""

from .serving import Engine, forever, serving, shape, until, virtual, words  # type: ignore[import-not-found]


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
