"""How long the end of a host may take (battery 30, ORCH-3600)."""

import asyncio
import threading

import pytest
from llama_orch_adapter_api import AdapterSpec, DeadlineUnmet, Token, hookimpl
from llama_orch_adapter_host import AdapterHost, Plugins
from llama_orch_adapter_host._flight import STOP_LIMIT

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Clinging,
    Config,
    drained,
    host_of,
    moment,
    now,
    task,
    virtual,
)
from .replicas import Lingering  # type: ignore[import-not-found]  # as above
from .streams import STOPPED, told_by  # type: ignore[import-not-found]  # as above


@pytest.mark.parametrize("drain", [0, 1.5])
@virtual
async def test_one_end_for_all_that_will_not_end(drain: float):
    """Battery 30: streams, adapters and plugins that all hang take drain + 3 s together, and each has had its time."""

    class Noted(Plugins):
        """Keeps how long its plugins may take; a virtual clock stands while they do."""

        may_take = 0.0

        def settle(self, limit: float) -> bool:
            self.may_take = limit
            return super().settle(limit)

    class Stuck(Clinging):
        async def aclose(self) -> None:
            await asyncio.Event().wait()

    unbound = threading.Event()

    class Deaf:
        @hookimpl
        def llama_orch_on_unbind(self) -> None:
            unbound.wait(20)

    plugins = Noted()
    plugins.register(AdapterSpec("words", 1, Config, lambda _: Stuck(words=99, deaf=3)))
    plugins.register_plugin(Deaf(), "deaf")
    host = AdapterHost(plugins=plugins)
    host.bind("pool", "words", {})
    stream = await host.submit("pool", task())
    reader = asyncio.create_task(told_by(stream))
    (binding,) = host._registry.all()
    begun = now()
    await host.aclose(drain)
    took = now() - begun
    print(f"drain {drain} s: closed after {took:.2f} s, and plugins have {plugins.may_take:.2f} s more")

    assert took - drain > STOP_LIMIT + 1.5
    assert plugins.may_take >= 0.25
    assert took + plugins.may_take <= drain + 3
    unbound.set()
    (flight,) = binding.leases
    while not reader.done():  # so that the test leaves nothing
        flight._insist(flight._waiting)
        await asyncio.sleep(0.1)
    assert (await reader)[-1] == STOPPED


class Noting(Lingering):
    """Notes the moment in which it is closed."""

    closed_at = 0.0

    async def aclose(self) -> None:
        self.closed_at = now()
        await super().aclose()


@virtual
async def test_a_stop_waits_for_what_missed_its_deadline():
    """Battery 30: an adapter is closed once it has let go of a task whose deadline passed, and nothing runs on."""
    replica = Noting((STARTED, Token("a", 0), 99), tidying=0.5)
    async with host_of(replica) as host:
        with pytest.raises(DeadlineUnmet):
            await drained(await host.submit("pool", task(deadline_ms=1000)))
        assert now() == moment(1)

    assert replica.closed_at == moment(1.5)
    assert asyncio.all_tasks() == {asyncio.current_task()}
