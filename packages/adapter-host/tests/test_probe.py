"""What a replica is asked beside its tasks is bounded, whatever its adapter does (ORCH-3602)."""

import asyncio

import pytest
from llama_orch_adapter_api import WorkerHealth
from llama_orch_adapter_host._probe import FAREWELL_LIMIT, PROBE_LIMIT

from .adapters import Words, host_of, virtual  # type: ignore[import-not-found]  # test folders are no packages

DEAF = 60.0


class Deaf(Words):
    """Takes no notice of being cancelled, in its answers and in its closing."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    async def health(self) -> WorkerHealth:
        self.asked += 1
        await self.ignore()
        return await super().health()

    async def aclose(self) -> None:
        await super().aclose()
        await self.ignore()

    async def ignore(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + DEAF
        while (left := until - loop.time()) > 0:
            try:
                await asyncio.sleep(left)
            except asyncio.CancelledError:
                continue


class Ends(Words):
    """Ends its answer by what would end more than the answer."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    async def health(self) -> WorkerHealth:
        raise self.error


@virtual
async def test_a_deaf_adapter_is_waited_for_no_longer_than_the_limit():
    """Battery 31: one that ignores its cancellation is down after the limit, and is not asked again meanwhile."""
    adapter = Deaf()
    loop = asyncio.get_running_loop()
    host = host_of(adapter)
    async with host:
        began = loop.time()
        first = await host.health("pool")
        asked = loop.time() - began
        before = adapter.asked
        again = await host.health("pool")
        after = adapter.asked
        stopping = loop.time()
        await host.aclose(drain=0)
        stopped = loop.time() - stopping
        await asyncio.sleep(2 * DEAF)

    assert [health.state for health in (*first.values(), *again.values())] == ["down", "down"]
    assert asked <= PROBE_LIMIT
    assert before == after
    assert stopped <= FAREWELL_LIMIT + 1.0
    assert adapter.closed == 1


@pytest.mark.parametrize("error", [SystemExit(7), asyncio.CancelledError()], ids=["exits", "cancels itself"])
async def test_an_adapter_ends_nothing_but_its_answer(error: BaseException):
    """Battery 31: SystemExit, or a cancellation that nobody asked for, is one replica's trouble alone."""
    async with host_of(Ends(error)) as host:
        (health,) = (await host.health("pool")).values()

    assert health.state == "down"
    assert type(error).__name__ in health.detail
