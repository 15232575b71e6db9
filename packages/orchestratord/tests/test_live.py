"""What people see who look in."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from llama_orch_adapter_api import PoolUnavailable, WorkerHealth
from llama_orch_adapter_host import BreakerPolicy, PoolPolicy
from llama_orch_orchestratord import _live
from llama_orch_orchestratord._live import EVERY, KEPT, LIVE, VIEWERS
from llama_orch_orchestratord._overview import SHOWN
from llama_orch_orchestratord._page import PATHS

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    Client,
    Engine,
    forever,
    serving,
    until,
    virtual,
    words,
)

TOKENS = 'auth = { tokens = [{ env = "ORCH_TEST_TOKEN", role = "tasks" }] }'


class Viewer:
    """Who looks in: each look with its kind, in order."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def look(self) -> tuple[str, Any]:
        kind = (await self.answer.content.readline()).decode()
        data = (await self.answer.content.readline()).decode()
        assert await self.answer.content.readline() == b"\n"
        return kind.removeprefix("event: ").strip(), json.loads(data.removeprefix("data: "))


async def looked(client: Client, count: int) -> list[tuple[str, Any]]:
    async with client.session.get(f"{client.url}/v1/live") as answer:
        viewer = Viewer(answer)
        return [await viewer.look() for _ in range(count)]


@virtual
async def test_the_first_look_holds_all_and_the_next_what_is_new() -> None:
    """Plots have a past before anybody looked; afterwards each look brings one point, and no line twice."""
    async with serving(Engine(words(3, pause=0.5))) as client:
        await client.read(await client.send())
        await asyncio.sleep(20)
        (first, whole), *others = await looked(client, 4)

    assert first == "begin"
    assert [kind for kind, _ in others] == ["look"] * 3
    assert 20 <= len(whole["history"]) <= 25
    assert [len(look["history"]) for _, look in others] == [1] * 3
    assert any("ends on chat/0 after 3 tokens" in line["text"] for line in whole["lines"])
    assert [look["lines"] for _, look in others] == [[]] * 3


@virtual
async def test_a_look_tells_of_pools_and_streams() -> None:
    """ORCH-3601: what runs, what waits and for whom, what the engines are; of a task's id too little to read it by."""
    async with serving(Engine(forever(0.1), slots=2)) as client:
        tasks = [await client.send(priority=priority) for priority in ("interactive", "interactive", "batch", "batch")]
        tasks.append(await client.send())
        await asyncio.sleep(5)
        ((_, look),) = await looked(client, 1)
        text = json.dumps(look)
        for each in tasks:
            await client.cancel(each)

    (pool,) = look["now"]["pools"]
    (replica,) = pool["replicas"]
    assert (pool["running"], pool["interactive"], pool["batch"], pool["refusal"]) == (2, 1, 2, None)
    assert (replica["in_flight"], replica["slots"], replica["health"], replica["breaker"]) == (2, 2, "ready", "closed")
    assert (replica["engine"], replica["model"], replica["generation"]) == ("words", "m", 1)
    assert {stream["task"] for stream in look["now"]["streams"]} == {each[:8] for each in tasks[:2]}
    assert {stream["place"] for stream in look["now"]["streams"]} == {"chat/0"}
    assert not [each for each in tasks if each in text]
    assert "say something" not in text


@virtual
async def test_tokens_are_counted_each_second() -> None:
    """Ten a second from each of three streams are thirty a second, while they run and not after."""
    async with serving(Engine(words(100, pause=0.1))) as client:
        tasks = [await client.send() for _ in range(3)]
        reading = [asyncio.create_task(client.read(each)) for each in tasks]
        await asyncio.sleep(5)
        ((_, during),) = await looked(client, 1)
        await asyncio.gather(*reading)
        await asyncio.sleep(2)
        ((_, after),) = await looked(client, 1)

    assert 28 <= during["history"][-1][3] <= 32
    assert 28 <= during["now"]["pools"][0]["tokens_per_s"] <= 32
    assert after["history"][-1][3] == 0
    assert sum(sample[3] for sample in after["history"]) == pytest.approx(300, abs=10)
    assert [stream["tokens"] for stream in during["now"]["streams"]] == pytest.approx([50] * 3, abs=12)
    assert (after["now"]["streams"], after["now"]["pools"][0]["ok"]) == ([], 3)


@virtual
async def test_latencies_count_from_admission() -> None:
    """The wait in the queue is in them: of two tasks on one slot, the second one's first token took twice as long."""
    async with serving(Engine(words(2, pause=1.0), slots=1)) as client:
        tasks = [await client.send() for _ in range(2)]
        for each in tasks:
            await client.read(each)
        await asyncio.sleep(1.5 * EVERY)
        ((_, look),) = await looked(client, 1)
        await asyncio.sleep(12)
        ((_, later),) = await looked(client, 1)

    _, _, _, _, first_p50, first_p95, total_p50, total_p95 = look["history"][-1]
    assert (first_p50, first_p95) == pytest.approx((3.0, 3.0), abs=0.1)
    assert (total_p50, total_p95) == pytest.approx((4.0, 4.0), abs=0.1)
    assert later["history"][-1][4:] == [None] * 4


@virtual
async def test_a_replica_that_fails_is_seen_so() -> None:
    """Its breaker, its health, the engine's own words and the pool's refusal are told; so are failed tasks."""
    error = PoolUnavailable("connection refused", detail="unreachable", phase="connect")
    engine = Engine(lambda _: [error])
    policy = PoolPolicy(breaker=BreakerPolicy(consecutive=1, open_for=60.0, spread=0.0))
    async with serving(engine, policy=policy) as client:
        engine.told = WorkerHealth(live=False, ready=False, state="down", detail="<img src=x> \x1b[1m gone")
        await client.read(await client.send())
        await asyncio.sleep(20)
        ((_, look),) = await looked(client, 1)

    (pool,) = look["now"]["pools"]
    (replica,) = pool["replicas"]
    assert (replica["health"], replica["breaker"]) == ("down", "open")
    assert replica["reopens_in"] == pytest.approx(40.0, abs=1.5)
    assert replica["problem"] == "<img src=x> \\x1b[1m gone"
    assert "pool 'chat' takes no task now" in pool["refusal"]
    assert (pool["failed"], pool["ok"]) == (1, 0)
    assert {"warning"} <= {line["level"] for line in look["lines"]}


@virtual
async def test_the_past_and_the_streams_are_bounded() -> None:
    """However long it runs and however many streams there are, a look has so many points and so many rows."""
    async with serving(Engine(forever(), slots=SHOWN + 20)) as client:
        tasks = [await client.send() for _ in range(SHOWN + 7)]
        await asyncio.sleep(5)
        live = client.app[LIVE]
        for _ in range(KEPT):
            live.look()
        ((_, look),) = await looked(client, 1)
        for each in tasks:
            await client.cancel(each)

    assert len(look["history"]) == KEPT
    assert len(look["now"]["streams"]) == SHOWN
    assert look["now"]["more"] == 7


@virtual
async def test_all_who_watch_share_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is made once however many watch, and not at all while nobody does."""
    made = []
    whole = _live.overview
    monkeypatch.setattr(_live, "overview", lambda *given: made.append(given) or whole(*given))
    async with serving(Engine(words())) as client:
        await asyncio.sleep(10)
        unwatched = len(made)
        await asyncio.gather(*(looked(client, 4) for _ in range(VIEWERS)))
        watched = len(made)

    assert unwatched == 0
    assert 4 <= watched <= 6


@virtual
async def test_so_many_may_watch() -> None:
    """One more is told to come again, and there is room as soon as another leaves."""
    async with serving(Engine(words())) as client:
        seats = [await client.session.get(f"{client.url}/v1/live") for _ in range(VIEWERS)]
        async with client.session.get(f"{client.url}/v1/live") as refused:
            status, wait = refused.status, refused.headers["Retry-After"]
        seats.pop().close()
        await asyncio.sleep(2)
        ((kind, _),) = await looked(client, 1)
        for seat in seats:
            seat.close()

    assert (status, wait, kind) == (429, "1", "begin")


async def test_a_viewer_that_takes_nothing_holds_little_and_begins_anew() -> None:
    """What waits for it stays bounded though looks go on, and what it missed it gets as a whole."""
    async with serving(Engine(words())) as client:
        async with client.session.get(f"{client.url}/v1/live") as answer:
            viewer = Viewer(answer)
            await viewer.look()
            live = client.app[LIVE]
            for _ in range(200):
                live.look()
            held = max(client.held())
            kinds = [(await viewer.look())[0] for _ in range(2)]

    assert held < 1_000_000
    assert "begin" in kinds


async def test_a_stop_sends_viewers_home() -> None:
    """Who looks in holds up no stop: the stream ends, whole."""
    async with serving(Engine(words())) as client:
        answer = await client.session.get(f"{client.url}/v1/live")
        began = asyncio.get_running_loop().time()
        stopping = asyncio.create_task(client.app.shutdown())
        rest = await answer.content.read()
        took = asyncio.get_running_loop().time() - began
        await stopping

    assert rest.endswith(b"\n\n")
    assert took < 1.0


async def test_it_asks_for_a_token_where_there_are_some(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page is open to all, what it shows is not: any role may look."""
    token = "t" * 20
    monkeypatch.setenv("ORCH_TEST_TOKEN", token)
    async with serving(Engine(words()), toml=TOKENS) as client:
        page = [(await client.get(path))[0] for path in PATHS]
        without, _ = await client.get("/v1/live")
        headers = {"Authorization": f"Bearer {token}"}
        async with client.session.get(f"{client.url}/v1/live", headers=headers) as answer:
            kind, _ = await Viewer(answer).look()

    assert page == [200] * len(PATHS)
    assert (without, kind) == (401, "begin")


async def test_a_look_that_fails_is_not_the_last(caplog: pytest.LogCaptureFixture) -> None:
    """A bug in it is logged, and the next look comes."""
    async with serving(Engine(words())) as client:
        live = client.app[LIVE]
        lanes, live._jobs.dispatch.lanes = live._jobs.dispatch.lanes, None
        await until(lambda: "a look at what is going on failed" in caplog.text)
        live._jobs.dispatch.lanes = lanes
        ((kind, _),) = await looked(client, 1)

    assert kind == "begin"
