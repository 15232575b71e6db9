"""What becomes of tasks that a replica has no place for, and of those that wait behind them."""

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
from llama_orch_adapter_host import PoolPolicy
from llama_orch_adapter_host.events import HostEvent, TaskAdmitted, TaskEnded

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Engine,
    Script,
    serving,
    shape,
    until,
    virtual,
    words,
)

LOADING = WorkerHealth(live=True, ready=False, state="loading")
READY = WorkerHealth(live=True, ready=True, state="ready")


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
async def test_it_costs_nothing_to_wait_for_a_full_replica() -> None:
    """Of a thousand tasks that are pinned to it one tries at a time, as often as a single one would."""
    idle, busy = Engine(words(3, 0.01)), Engine(_pushing(100_000))
    submitted: list[str] = []

    def observe(event: HostEvent) -> None:
        if isinstance(event, TaskAdmitted) or (isinstance(event, TaskEnded) and event.refused):
            submitted.append(event.task_id)

    async with serving(idle, busy, toml="[admission]\nqueue = 2000") as client:
        client.host.observe(observe)
        pinned = [await client.send(replica_id="1", max_attempts=1) for _ in range(1000)]
        await asyncio.sleep(10)
        submitted.clear()
        await asyncio.sleep(100)
        tried = submitted.copy()
        began = asyncio.get_running_loop().time()
        assert shape(await client.read(await client.send()))[-1] == "end"
        passed = asyncio.get_running_loop().time() - began
        last = json.loads((await client.get(f"/v1/tasks/{pinned[-1]}"))[1])

    assert 20 <= len(tried) <= 50
    assert set(tried) == {pinned[0]}
    assert passed < 0.1
    assert last["queue_position"] == 999


@virtual
async def test_a_replica_that_has_places_again_is_filled() -> None:
    """Those who wait for it start in the order in which they came, as many at once as it takes."""
    idle, one = Engine(words()), Engine(_pushing(4, 20.0), slots=4)
    async with serving(idle, one) as client:
        pinned = [await client.send(replica_id="1", max_attempts=1) for _ in range(40)]
        await asyncio.sleep(1)
        one.script, pushed = words(1, 1.0), len(one.begun)
        began = asyncio.get_running_loop().time()
        for task_id in pinned:
            assert shape(await client.read(task_id))[-1] == "end"
        took = asyncio.get_running_loop().time() - began

    assert [task.task_id for task in one.begun][pushed:] == pinned
    assert 19 + 40 / 8 <= took < 19 + 3 + 40 / 4


@virtual
async def test_those_that_try_and_fail_let_others_try() -> None:
    """Whatever becomes of the one that tries for all, nobody waits for ever behind it."""
    idle, busy = Engine(words()), Engine(_pushing(2, 20.0))
    async with serving(idle, busy) as client:
        pinned = [await client.send(replica_id="1", max_attempts=1) for _ in range(9)]
        await asyncio.sleep(1)
        busy.script = lambda _: [InternalError("no", detail="engine")]
        began = asyncio.get_running_loop().time()
        for task_id in pinned:
            assert shape(await client.read(task_id)) == ["error"]

    assert asyncio.get_running_loop().time() - began < 22


@virtual
async def test_those_that_wait_for_a_full_replica_end_with_the_process() -> None:
    """A stop tells them so at once, as all that wait."""
    idle, busy = Engine(words()), Engine(_pushing(1000, 20.0))
    async with serving(idle, busy) as client:
        pinned = [await client.send(replica_id="1", max_attempts=1) for _ in range(9)]
        await asyncio.sleep(1)
        closing = await client.stop(drain=30.0)
        found = [await client.read(task_id) for task_id in pinned]
        await closing

    assert all("stopping" in each[-1].data["message"] for each in found)
