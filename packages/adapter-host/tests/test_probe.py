"""What a replica is asked beside its tasks is bounded, whatever its adapter does (ORCH-3602)."""

import asyncio
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import AdapterError, Capabilities, WorkerHealth, WorkerProps
from llama_orch_adapter_host._events import AdapterBroke
from llama_orch_adapter_host._probe import FAREWELL_LIMIT, PROBE_LIMIT

from .adapters import PROPS, READY, Words, host_of, task, virtual  # type: ignore[import-not-found]  # test folders are no packages

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


class Odd(Words):
    """Answers with Structs of the right kind that hold what their types forbid."""

    def __init__(self, health: WorkerHealth, props: WorkerProps) -> None:
        super().__init__()
        self.told = health, props

    async def health(self) -> WorkerHealth:
        return self.told[0]

    async def props(self) -> WorkerProps:
        return self.told[1]


@pytest.mark.parametrize(
    ("facts", "told"),
    [
        ({"detail": None}, "Expected `str`, got `null` - at `$.detail`"),
        ({"state": "tired"}, "Invalid enum value 'tired' - at `$.state`"),
        ({"detail": object()}, "a object is no value"),
    ],
    ids=["none", "word", "object"],
)
@virtual
async def test_an_answer_with_a_wrong_field(facts: dict[str, Any], told: str):
    """Battery 31: a wrong field is the adapter's fault, told with its name and place, and the replica is watched on."""
    health = WorkerHealth(**{"live": True, "ready": False, "state": "loading", **facts})
    capabilities = msgspec.structs.replace(PROPS.capabilities, ctx_max="4k")
    adapter = Odd(health, msgspec.structs.replace(PROPS, capabilities=capabilities))
    async with host_of(adapter) as host:
        (asked,) = (await host.health("pool")).values()
        (props,) = (await host.props("pool")).values()
        await asyncio.sleep(20)  # a complaint of the loop fails the test
        (status,) = host.status()

    assert (asked.state, status.health) == ("down", "down")
    assert asked.detail == (
        f"the adapter for words answered a WorkerHealth, with a wrong field: {told} · pool/0 · "
        "report it to the adapter's author"
    )
    assert isinstance(props, AdapterError)
    assert props.detail == "plugin"
    assert "Expected `int | null`, got `str` - at `$.capabilities.ctx_max`" in props.message


class Text(str):
    """A text that knows more."""

    __slots__ = ()


class Number(int):
    """A number that knows more."""


class OwnHealth(WorkerHealth, frozen=True):
    """A health with what its adapter keeps for itself."""

    seen: object = None


class OwnCapabilities(Capabilities, frozen=True):
    """As above."""

    seen: object = None


class OwnProps(WorkerProps, frozen=True, kw_only=True):
    """As above."""

    seen: object = None


@virtual
async def test_an_answer_of_an_adapters_own_making():
    """Battery 31: private fields, and texts and numbers of its own class, are no fault; told is the plain answer."""
    health = OwnHealth(live=True, ready=True, state="ready", detail=Text("well"), seen=object())
    facts = {name: getattr(PROPS.capabilities, name) for name in Capabilities.__struct_fields__}
    capabilities = OwnCapabilities(**{**facts, "model_id": Text("model")}, seen=object())
    props = OwnProps(slots_total=Number(4), slots_free=3, capabilities=capabilities, seen=object())
    async with host_of(Odd(health, props)) as host:
        (asked,) = (await host.health("pool")).values()
        (told,) = (await host.props("pool")).values()

    assert asked == WorkerHealth(live=True, ready=True, state="ready", detail="well")
    assert told == PROPS
    assert {type(asked), type(asked.detail), type(told)} == {WorkerHealth, str, WorkerProps}


@virtual
async def test_capabilities_that_are_none():
    """Battery 31: something else in the place of the capabilities is a wrong field, whatever it holds."""
    props = WorkerProps(4, 3, msgspec.to_builtins(PROPS.capabilities))
    async with host_of(Odd(READY, props)) as host:
        (told,) = (await host.props("pool")).values()

    assert isinstance(told, AdapterError)
    assert "with a wrong field: a dict is no Capabilities" in told.message


@virtual
async def test_slots_that_cannot_be():
    """Battery 31: a number of slots below one is not known, told once, and the replica gets no more tasks for it."""
    odd, well = Odd(READY, WorkerProps(-1, -2, PROPS.capabilities)), Odd(READY, WorkerProps(1, 1, PROPS.capabilities))
    told: list[AdapterBroke] = []
    async with host_of(odd, well) as host:
        host.observe(lambda event: told.append(event) if isinstance(event, AdapterBroke) else None)
        for _ in range(2):
            props = await host.props("pool")
        await asyncio.sleep(200)  # it is asked again meanwhile
        streams = [await host.submit("pool", task()) for _ in range(6)]
        in_flight = [status.in_flight for status in host.status()]
        slots = [status.slots for status in host.status()]
        for stream in streams:
            await stream.aclose()

    assert props["0"] == WorkerProps(None, None, PROPS.capabilities)
    assert slots == [None, 1]
    assert in_flight == [3, 3]
    assert [(event.replica_id, event.what, event.error) for event in told] == [
        ("0", "props", "slots_total is -1, taken for unknown"),
        ("0", "props", "slots_free is -2, taken for unknown"),
    ]
