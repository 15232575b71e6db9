"""Signs of life."""

import asyncio
import json

import pytest
from llama_orch_adapter_api import WorkerHealth
from llama_orch_adapter_host import AdapterHost, PoolPolicy
from llama_orch_orchestratord._control import unready

from .serving import (  # type: ignore[import-not-found]  # test folders are no packages
    Engine,
    forever,
    plugins_of,
    serving,
    until,
    virtual,
    words,
)

LOADING = WorkerHealth(live=True, ready=False, state="loading")
DOWN = WorkerHealth(live=False, ready=False, state="down")


@virtual
async def test_it_is_ready_while_one_replica_is() -> None:
    """One ready replica is enough, and so is one that has all it can do: another task would wait its turn."""
    down = Engine(words())
    async with serving(Engine(forever(), slots=1), down, policy=PoolPolicy(max_in_flight=1)) as client:
        down.told = DOWN
        await asyncio.sleep(60)
        idle = await client.get("/readyz")
        await client.send()
        await client.send()
        await until(lambda: client.host.refusal("chat") is not None)
        full = await client.get("/readyz")

    assert idle == full == (200, '{"status":"ready"}')


@virtual
@pytest.mark.parametrize(("health", "told"), [(LOADING, "a model is being loaded"), (DOWN, "no replica is ready")])
async def test_it_is_not_ready_while_none_is(health: WorkerHealth, told: str) -> None:
    """Without a ready replica it is 503 with the reason, which names no pool: it is told to whoever asks."""
    engine = Engine(words())
    async with serving(engine) as client:
        engine.told = health
        await until(lambda: client.host.refusal("chat") is not None, within=60)
        status, body = await client.get("/readyz")
        engine.told = WorkerHealth(live=True, ready=True, state="ready")
        await until(lambda: client.host.refusal("chat") is None, within=60)
        later, _ = await client.get("/readyz")

    assert (status, later) == (503, 200)
    assert told in body
    assert "chat/" not in body
    assert json.loads(body)["code"] == "POOL_UNAVAILABLE"


@virtual
async def test_it_is_not_ready_before_an_engine_was_reached() -> None:
    """A replica that has not told yet how it is gets tasks, but nobody is told that it is ready."""

    class Slow(Engine):
        """Answers when it may."""

        may = asyncio.Event()

        async def health(self) -> WorkerHealth:
            await self.may.wait()
            return await super().health()

    engine = Slow(words())
    host = AdapterHost(plugins=plugins_of(engine))
    host.bind("chat", "words", {})
    async with host:
        await asyncio.sleep(0.1)
        why, refusal = unready(host, stopping=False), host.refusal("chat")
        engine.may.set()
        await asyncio.sleep(0.1)
        later = unready(host, stopping=False)

    assert refusal is None
    assert why is not None
    assert "none has told yet how it is" in why.message
    assert later is None


async def test_it_is_not_ready_without_a_pool() -> None:
    """Where nothing is bound no task can be sent."""
    async with serving() as client:
        status, body = await client.get("/readyz")

    assert status == 503
    assert "no pool is bound" in body


@virtual
async def test_it_is_not_ready_while_it_stops() -> None:
    """From the first signal on it should be sent nothing, while what runs comes to its end; it lives until then."""
    async with serving(Engine(words(5, 1.0))) as client:
        task_id = await client.send()
        closing = await client.stop(drain=30.0)
        status, body = await client.get("/readyz")
        alive, _ = await client.get("/healthz")
        found = await client.read(task_id)
        await closing

    assert (status, alive) == (503, 200)
    assert "is stopping" in body
    assert found[-1].event == "end"


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_signs_of_life_answer_head(path: str) -> None:
    """Load balancers ask with HEAD."""
    async with serving(Engine(words())) as client, client.session.head(client.url + path) as response:
        assert response.status == 200
