"""Which tasks are taken in, in what order they run, and what the others are told."""

import asyncio

import pytest
from llama_orch_adapter_api import InternalError, WorkerHealth
from llama_orch_adapter_host import BreakerPolicy, PoolPolicy

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    Engine,
    forever,
    serving,
    shape,
    until,
    virtual,
    words,
)

LOADING = WorkerHealth(live=True, ready=False, state="loading")
READY = WorkerHealth(live=True, ready=True, state="ready")
ID = "00000000-0000-4000-8000-000000000001"


@virtual
async def test_what_has_no_slot_waits() -> None:
    """No more tasks run than the pool has slots; the others wait, are told their place, and run in turn."""
    engine = Engine(words(4, 1.0), slots=2)
    async with serving(engine) as client:
        answers = [(await client.post({"pool_id": "chat", "prompt": "a"}))[1] for _ in range(4)]
        assert engine.running == 2
        for answer in answers:
            assert shape(await client.read(answer["task_id"]))[-1] == "end"

    assert [answer["queue_position"] for answer in answers] == [0, 0, 0, 1]
    assert [answer["predicted_start_ms"] for answer in answers] == [0, 0, None, None]
    assert [task.task_id for task in engine.begun] == [answer["task_id"] for answer in answers]


@virtual
async def test_a_start_is_predicted_from_what_was_seen() -> None:
    """As soon as one task has been through, the next ones are told when they will start."""
    async with serving(Engine(words(4, 1.0), slots=1)) as client:
        await client.read(await client.send())
        await client.send()
        _, body, _ = await client.post({"pool_id": "chat", "prompt": "a"})

    assert body["predicted_start_ms"] == pytest.approx(4000, rel=0.1)


@virtual
async def test_people_go_before_batches() -> None:
    """A task that somebody waits for starts before all that wait as batch."""
    engine = Engine(words(1, 1.0), slots=1)
    async with serving(engine) as client:
        sent = [await client.send(priority=each) for each in ("batch", "batch", "interactive")]
        for task_id in sent:
            await client.read(task_id)

    assert [task.task_id for task in engine.begun] == [sent[0], sent[2], sent[1]]


@virtual
async def test_a_full_queue_says_when_to_come_again() -> None:
    """One too many is refused with a time, in whole seconds for HTTP and in ms for who can use it."""
    async with serving(Engine(words(4, 1.0), slots=1), toml="[admission]\nqueue = 1") as client:
        await client.read(await client.send())
        await client.send()
        _, last, _ = await client.post({"pool_id": "chat", "prompt": "a"})
        status, body, headers = await client.post({"pool_id": "chat", "prompt": "a"})

    assert last["backoff_ms"] > 0
    assert status == 429
    assert (body["code"], body["retriable"]) == ("POOL_UNAVAILABLE", True)
    assert 4000 <= body["retry_after_ms"] <= 8100
    assert headers["X-Backoff-Ms"] == str(body["retry_after_ms"])
    assert headers["Retry-After"] == str(-(-body["retry_after_ms"] // 1000))


@virtual
async def test_a_full_queue_may_drop_the_oldest() -> None:
    """With drop-lru the one that waited longest gives way, and its stream says so."""
    toml = '[admission]\nqueue = 1\npolicy = "drop-lru"'
    async with serving(Engine(words(1, 1.0), slots=1), toml=toml) as client:
        first, second, third = [await client.send() for _ in range(3)]
        found = await client.read(second)
        assert shape(await client.read(first))[-1] == "end"
        assert shape(await client.read(third))[-1] == "end"

    assert shape(found) == ["error"]
    assert "drop-lru" in found[0].data["message"]


@virtual
async def test_a_deadline_counts_from_admission() -> None:
    """What a task waited is taken off the time that its engine is given."""
    engine = Engine(words(4, 1.0), slots=1)
    async with serving(engine) as client:
        await client.send()
        await client.read(await client.send(deadline_ms=10_000))

    assert engine.begun[1].deadline_ms == pytest.approx(6000, abs=100)


@virtual
async def test_a_deadline_that_passes_in_the_queue_is_told_at_once() -> None:
    """A task that is too late to be sent fails when its time is over, and leaves its place."""
    engine = Engine(forever(), slots=1)
    async with serving(engine) as client:
        await client.send()
        began = asyncio.get_running_loop().time()
        found = await client.read(await client.send(deadline_ms=3000))
        took = asyncio.get_running_loop().time() - began

    assert took == pytest.approx(3.0, abs=0.1)
    assert shape(found) == ["error"]
    assert (found[0].data["code"], len(engine.begun)) == ("DEADLINE_UNMET", 1)


@virtual
async def test_a_task_that_waits_can_be_cancelled() -> None:
    """It leaves its place, and is never sent."""
    engine = Engine(words(4, 1.0), slots=1)
    async with serving(engine) as client:
        first, second, third = [await client.send() for _ in range(3)]
        assert await client.cancel(second) == 204
        assert shape(await client.read(second)) == ["end"]
        for task_id in (first, third):
            await client.read(task_id)

    assert [task.task_id for task in engine.begun] == [first, third]


@virtual
async def test_the_pools_own_limit_is_kept_without_a_failure() -> None:
    """Where the host takes fewer than there are slots, the rest waits in its order, no longer than it has to."""
    engine = Engine(words(2, 1.0), slots=8)
    async with serving(engine, policy=PoolPolicy(max_in_flight=1)) as client:
        began = asyncio.get_running_loop().time()
        sent = [await client.send() for _ in range(3)]
        for task_id in sent:
            assert shape(await client.read(task_id))[-1] == "end"
        assert asyncio.get_running_loop().time() - began == pytest.approx(6.0, abs=0.1)

    assert [task.task_id for task in engine.begun] == sent


@virtual
async def test_a_task_waits_for_a_pool_that_loads() -> None:
    """A model that is being loaded is no failure: the task starts as soon as it is ready."""
    engine = Engine(words(1))
    engine.told = LOADING
    async with serving(engine) as client:
        await until(lambda: client.host.refusal("chat") is not None, within=100)
        _, body, _ = await client.post({"pool_id": "chat", "prompt": "a"})
        await asyncio.sleep(100)
        assert engine.begun == []
        engine.told = READY
        began = asyncio.get_running_loop().time()
        assert shape(await client.read(body["task_id"]))[-1] == "end"
        assert asyncio.get_running_loop().time() - began < 15  # the host looks again every so often


@virtual
async def test_a_pool_that_is_not_there_is_not_found() -> None:
    """The answer names those that are."""
    async with serving(Engine(words())) as client:
        status, body, _ = await client.post({"pool_id": "nope", "prompt": "a"})

    assert status == 404
    assert "bound: chat" in body["message"]


@virtual
async def test_a_pool_that_takes_nothing_any_more_is_unavailable() -> None:
    """Where the host is stopping or its replicas are being drained, nothing is taken in only to fail."""
    engine = Engine(forever())
    async with serving(engine) as client:
        await client.send()
        draining = asyncio.create_task(client.host.drain("chat"))
        await asyncio.sleep(1)
        status, body, _ = await client.post({"pool_id": "chat", "prompt": "a"})
        await draining

    assert status == 503
    assert body["retriable"]


@virtual
async def test_a_pool_that_is_left_alone_says_for_how_long() -> None:
    """Where all breakers are open the answer tells when they will not be."""
    engine = Engine(lambda _: [InternalError("broke", detail="engine")])
    policy = PoolPolicy(breaker=BreakerPolicy(consecutive=1, open_for=20.0, spread=0))
    async with serving(engine, policy=policy) as client:
        await client.read(await client.send(max_attempts=1))
        status, body, headers = await client.post({"pool_id": "chat", "prompt": "a"})

    assert (status, body["code"]) == (503, "POOL_UNAVAILABLE")
    assert 0 < int(headers["Retry-After"]) <= 20


@virtual
async def test_the_table_of_tasks_is_bounded() -> None:
    """With as many tasks as may be known, another one takes the place of one that is over and read, or is refused."""
    async with serving(Engine(words(2, 1.0)), toml="[tasks]\nlimit = 2") as client:
        first, second = await client.send(), await client.send()
        status, body, headers = await client.post({"pool_id": "chat", "prompt": "a"})
        await client.read(first)
        third = await client.send()

        assert (status, "tasks.limit" in body["message"]) == (429, True)
        assert int(headers["Retry-After"]) >= 1
        assert (await client.get(f"/v1/tasks/{first}/stream"))[0] == 404
        for task_id in (second, third):
            assert shape(await client.read(task_id))[-1] == "end"


@virtual
async def test_an_id_is_known_once() -> None:
    """A task whose id is known is refused, whether that one runs or is over."""
    async with serving(Engine(words())) as client:
        await client.send(task_id=ID)
        status, body, _ = await client.post({"pool_id": "chat", "prompt": "a", "task_id": ID})
        await client.read(ID)
        again, _, _ = await client.post({"pool_id": "chat", "prompt": "a", "task_id": ID})

    assert (status, again) == (409, 409)
    assert "leave task_id out" in body["message"]


@virtual
async def test_each_task_that_is_turned_away_has_a_line(caplog: pytest.LogCaptureFixture) -> None:
    """Whether at the door, for one that came later, by its deadline or by the stop: the host never heard of them."""
    caplog.set_level("INFO", "llama_orch_orchestratord")
    ids = {
        name: f"00000000-0000-4000-8000-{number:012}"
        for number, name in enumerate(("full", "pool", "late", "gone", "stop"))
    }
    late, dropped = {"task_id": ids["late"], "deadline_ms": 10}, {"task_id": ids["gone"], "priority": "batch"}
    async with serving(Engine(forever(), slots=1), toml="[admission]\nqueue = 1\npolicy = 'drop-lru'") as client:
        await client.send()
        await client.send(**late)
        await asyncio.sleep(1)
        await client.send(**dropped)
        await client.send(task_id=ids["stop"])
        await client.post({"pool_id": "chat", "prompt": "a", "priority": "batch", "task_id": ids["full"]})
        await client.post({"pool_id": "nope", "prompt": "a", "task_id": ids["pool"]})
    told = {
        record.__dict__["task_id"]: record.__dict__["detail"]
        for record in caplog.records
        if "turns away" in record.message
    }

    assert {name: told.get(task_id) for name, task_id in ids.items()} == {
        "full": "at_capacity",
        "pool": "unknown_pool",
        "late": "queue",
        "gone": "overloaded",
        "stop": "draining",
    }
