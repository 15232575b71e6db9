"""How many tasks of a pool may run at once."""

import asyncio

from llama_orch_adapter_api import WorkerHealth
from llama_orch_adapter_host import AdapterHost, PoolPolicy
from llama_orch_orchestratord._slots import Slots

from .serving import Engine, plugins_of, serving, virtual, words  # type: ignore[import-not-found]


@virtual
async def test_slots_are_added_up_over_replicas() -> None:
    """What each replica told counts, and where one does not tell, what the config takes it for."""
    async with serving(Engine(words(), slots=2), Engine(words(), slots=8), Engine(words(), slots=None)) as client:
        slots = Slots(client.host, unknown=3, clock=lambda: 0.0)

        assert slots.of("chat") == 13


@virtual
async def test_a_replica_that_is_down_has_no_slots() -> None:
    """What waits for it would wait at the others, outside the order of the queue."""
    down, up = Engine(words(), slots=8), Engine(words(), slots=2)
    async with serving(down, up) as client:
        down.told = WorkerHealth(live=False, ready=False, state="down")
        await asyncio.sleep(60)

        assert Slots(client.host, unknown=3, clock=lambda: 0.0).of("chat") == 2


@virtual
async def test_a_limit_of_the_pool_counts_where_it_is_lower() -> None:
    """Its policy may let fewer tasks to a replica than the engine has slots."""
    async with serving(
        Engine(words(), slots=8), Engine(words(), slots=2), policy=PoolPolicy(max_in_flight=5)
    ) as client:
        assert Slots(client.host, unknown=3, clock=lambda: 0.0).of("chat") == 7


async def test_a_replica_that_was_not_asked_yet_counts_as_unknown() -> None:
    """Before the first answer there is no reason to let everything wait."""
    host = AdapterHost(plugins=plugins_of(Engine(words())))
    host.bind("chat", "words", {})

    assert Slots(host, unknown=3, clock=lambda: 0.0).of("chat") == 3
    await host.aclose()


async def test_sums_are_made_anew_every_half_second() -> None:
    """A replica that comes is seen soon, and at once after `forget`."""
    host = AdapterHost(plugins=plugins_of(Engine(words()), Engine(words()), Engine(words())))
    moment = 0.0
    slots = Slots(host, unknown=3, clock=lambda: moment)
    seen: list[int] = []
    for i in range(3):
        host.bind("chat", "words", {}, replica_id=str(i))
        seen.append(slots.of("chat"))
        moment += 0.4
    slots.forget()
    seen.append(slots.of("chat"))

    assert seen == [3, 3, 9, 9]
    await host.aclose()
