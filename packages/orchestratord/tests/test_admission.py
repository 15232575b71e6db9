"""Which tasks are taken in, in what order they run, and what the others are told."""

import asyncio
import json

import pytest
from llama_orch_adapter_api import (
    End,
    InternalError,
    PoolUnavailable,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerError,
    WorkerHealth,
)
from llama_orch_adapter_host import BreakerPolicy, PoolPolicy

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Engine,
    Script,
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
async def test_an_engine_that_pushes_back_is_left_alone_for_as_long_as_it_asks() -> None:
    """A task that an engine has no room for goes back to the head of its queue, and comes again when it may."""
    moments: list[float] = []

    def script(task: TaskRequest) -> list[TokenEvent | float | WorkerError]:
        moments.append(asyncio.get_running_loop().time())
        if len(moments) == 1:
            return [PoolUnavailable("queue full", detail="overloaded", retry_after=7.0)]
        return [STARTED, Token("a", 0), End(1, 1, "stop")]

    engine = Engine(script, slots=4)
    async with serving(engine) as client:
        sent = [await client.send(max_attempts=1) for _ in range(3)]
        for task_id in sent:
            assert shape(await client.read(task_id)) == ["started", "token", "end"]

    assert moments[1] - moments[0] >= 7.0
    assert [task.task_id for task in engine.begun] == [sent[0], *sent]


@virtual
async def test_a_replica_that_pushes_back_holds_up_no_other() -> None:
    """What one replica asks for is its own affair: another one that is idle gets the next task at once."""
    told = [PoolUnavailable("busy", detail="overloaded", retry_after=600.0)]
    busy, idle = Engine(lambda _: told, slots=1), Engine(words(10, 0.1), slots=1)
    async with serving(busy, idle, policy=PoolPolicy(max_in_flight=1)) as client:
        began = asyncio.get_running_loop().time()
        sent = [await client.send() for _ in range(4)]
        for task_id in sent:
            assert shape(await client.read(task_id))[-1] == "end"
        took = asyncio.get_running_loop().time() - began

    assert took == pytest.approx(4.0, abs=0.2)  # one after the other, without a pause between
    assert len(busy.begun) == 1


@virtual
async def test_what_has_begun_is_never_sent_again() -> None:
    """An engine that has no place for a task after its first token has failed it: no token comes twice."""
    engine = Engine(lambda _: [STARTED, Token("a", 0), PoolUnavailable("busy", detail="overloaded"), Token("b", 1)])
    async with serving(engine) as client:
        found = await client.read(await client.send())

    assert shape(found) == ["started", "token", "error"]
    assert len(engine.begun) == 1


@virtual
async def test_a_replica_that_asks_for_an_hour_is_asked_again_sooner() -> None:
    """A pool's only replica is sent tasks again after its pool's patience, whatever it asked for."""
    said = iter([PoolUnavailable("busy", detail="overloaded", retry_after=3600.0)])
    engine = Engine(lambda task: [*said] or words()(task))
    async with serving(engine) as client:
        began = asyncio.get_running_loop().time()
        assert shape(await client.read(await client.send()))[-1] == "end"

    assert 30.0 <= asyncio.get_running_loop().time() - began < 34.0


@virtual
async def test_a_new_replica_ends_a_pause() -> None:
    """What waits for a replica that asked for time goes to one that is bound meanwhile."""
    busy = Engine(lambda _: [PoolUnavailable("busy", detail="overloaded", retry_after=20.0)])
    fresh = Engine(words())
    async with serving(busy, later=(fresh,)) as client:
        task_id = await client.send(max_attempts=1)
        await asyncio.sleep(2)
        client.host.bind("chat", "words", {}, replica_id="new")
        began = asyncio.get_running_loop().time()
        assert shape(await client.read(task_id))[-1] == "end"

    assert asyncio.get_running_loop().time() - began < 0.5


@virtual
async def test_a_stand_in_that_is_free_again_ends_a_pause() -> None:
    """What waits for a pool that asked for time goes to its fallback pool as soon as that has room."""
    busy = Engine(lambda _: [PoolUnavailable("busy", detail="overloaded", retry_after=20.0)])
    other = Engine(words(5, 1.0))
    async with serving(busy, later=(other,), policy=PoolPolicy(fallback=("other",))) as client:
        client.host.bind("other", "words", {}, policy=PoolPolicy(max_in_flight=1))
        first = await client.send(pool_id="other")
        await asyncio.sleep(1)
        began = asyncio.get_running_loop().time()
        assert shape(await client.read(await client.send(max_attempts=1)))[-1] == "end"
        took = asyncio.get_running_loop().time() - began
        await client.read(first)

    assert took == pytest.approx(9.0, abs=0.2)


@virtual
@pytest.mark.parametrize("detail", ["overloaded", "at_capacity", "loading"])
@pytest.mark.parametrize("retry_after", [None, 0.0, 0.001])
async def test_an_engine_that_pushes_back_is_not_knocked_at_in_a_loop(detail: str, retry_after: float | None) -> None:
    """However little it asks for, no replica is sent a task more often than every quarter of a second."""
    told = [PoolUnavailable("busy", detail=detail, retry_after=retry_after)]
    engines = [Engine(lambda _: told, slots=1) for _ in range(2)]
    async with serving(*engines) as client:
        await client.send(max_attempts=1)
        await asyncio.sleep(20)
        counts = [len(engine.begun) for engine in engines]

    assert all(8 <= count <= 4 * 20 + 1 for count in counts), counts


def _pushing(times: int, retry_after: float | None = None) -> Script:
    """Pushes back so many tasks, then takes them."""
    left = iter(range(times))

    def script(task: TaskRequest) -> list[TokenEvent | float | WorkerError]:
        if next(left, None) is None:
            return words()(task)
        return [PoolUnavailable("busy", detail="overloaded", retry_after=retry_after)]

    return script


@virtual
@pytest.mark.parametrize("retry_after", [None, 0.0, 40.0])
async def test_a_pinned_task_that_is_pushed_back_holds_up_nobody(retry_after: float | None) -> None:
    """Others go past a task whose own replica has no place for it, and it starts there as soon as there is one."""
    idle, busy = Engine(words(3, 0.01)), Engine(_pushing(8, retry_after))
    async with serving(idle, busy) as client:
        pinned = await client.send(replica_id="1", max_attempts=1)
        await asyncio.sleep(0.5)
        began = asyncio.get_running_loop().time()
        for _ in range(8):
            await client.read(await client.send(replica_id="0"))
        took = asyncio.get_running_loop().time() - began
        place = json.loads((await client.get(f"/v1/tasks/{pinned}"))[1])
        found = await client.read(pinned)

    assert took < 1
    assert (place["state"], place["queue_position"]) == ("queued", 0)
    assert shape(found)[-1] == "end"
    assert len(busy.begun) == 9


@virtual
async def test_a_pinned_task_starts_when_its_replica_has_loaded() -> None:
    """That others are served from elsewhere meanwhile changes nothing of it."""
    idle, loads = Engine(words(3, 0.01)), Engine(words())
    async with serving(idle, loads) as client:
        loads.told = LOADING
        await until(lambda: any(each.health == "loading" for each in client.host.status()), within=100)
        pinned = await client.send(replica_id="1")
        await asyncio.sleep(60)
        for _ in range(3):
            await client.read(await client.send())
        assert loads.begun == []
        loads.told = READY
        await until(lambda: all(each.health == "ready" for each in client.host.status()), within=100)
        began = asyncio.get_running_loop().time()
        assert shape(await client.read(pinned))[-1] == "end"

    assert asyncio.get_running_loop().time() - began < 0.1


@virtual
async def test_pinned_tasks_share_their_replica_in_turn() -> None:
    """Each starts as the one before has left, though the pool has slots elsewhere all the while."""
    idle, one = Engine(words(3, 0.01)), Engine(words(5, 1.0))
    async with serving(idle, one, policy=PoolPolicy(max_in_flight=1)) as client:
        began = asyncio.get_running_loop().time()
        pinned = [await client.send(replica_id="1") for _ in range(3)]
        await client.read(await client.send())
        passed = asyncio.get_running_loop().time() - began
        for task_id in pinned:
            assert shape(await client.read(task_id))[-1] == "end"
        took = asyncio.get_running_loop().time() - began

    assert passed < 0.5
    assert took == pytest.approx(15.0, abs=0.3)
    assert [task.task_id for task in one.begun] == pinned


@virtual
async def test_a_parked_task_is_told_that_its_replica_is_gone() -> None:
    """It waits for nothing that will not come."""
    idle, busy = Engine(words()), Engine(_pushing(1000))
    async with serving(idle, busy) as client:
        pinned = await client.send(replica_id="1", max_attempts=1)
        await asyncio.sleep(10)
        await client.host.drain("chat", "1")
        began = asyncio.get_running_loop().time()
        found = await client.read(pinned)

    assert shape(found) == ["error"]
    assert asyncio.get_running_loop().time() - began < 0.1


@virtual
async def test_a_parked_task_is_as_late_droppable_and_cancellable_as_any_other() -> None:
    """Its deadline passes, a newer one takes its place, somebody cancels it: each at once, and it is never sent."""
    idle, busy = Engine(words(3, 0.01), slots=1), Engine(_pushing(1000, 20.0), slots=1)
    toml = '[admission]\nqueue = 3\npolicy = "drop-lru"'
    async with serving(idle, busy, toml=toml) as client:
        late = await client.send(replica_id="1", max_attempts=1, deadline_ms=3000)
        cancelled = await client.send(replica_id="1", max_attempts=1)
        oldest = await client.send(replica_id="1", max_attempts=1)
        await asyncio.sleep(1)
        sent = len(busy.begun)
        assert await client.cancel(cancelled) == 204
        began = asyncio.get_running_loop().time()
        assert shape(await client.read(late)) == ["error"]
        waited = asyncio.get_running_loop().time() - began
        for _ in range(3):
            await client.send(replica_id="1", max_attempts=1)
        dropped = await client.read(oldest)
        assert shape(await client.read(cancelled)) == ["end"]

        assert waited == pytest.approx(2.0, abs=0.1)
        assert "drop-lru" in dropped[0].data["message"]
        assert len(busy.begun) == sent


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
