import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_orch_adapter_host import AdapterHost
from llama_orch_adapter_host._disconnect import leaving

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    Words,
    drained,
    end,
    host_of,
    moment,
    now,
    task,
    virtual,
)


class Receiving:
    """ASGI's `receive`: the body, then, after so many seconds, the disconnect."""

    def __init__(self, seconds: float) -> None:
        self.left = [(0.0, "http.request"), (seconds, "http.disconnect")]

    async def __call__(self) -> dict[str, Any]:
        pause, kind = self.left.pop(0)
        await asyncio.sleep(pause)
        return {"type": kind}


class Asking:
    """A request that is asked whether its client is gone, as Starlette's."""

    def __init__(self, seconds: float) -> None:
        self.until = now() + seconds

    async def is_disconnected(self) -> bool:
        return bool(now() >= self.until)


class Connected:
    """A request with a transport that closes, or is taken away, as aiohttp's."""

    def __init__(self, seconds: float, *, taken: bool = False) -> None:
        self.until = now() + seconds
        self.taken = taken

    @property
    def transport(self) -> "Connected | None":
        return None if self.taken and self.is_closing() else self

    def is_closing(self) -> bool:
        return bool(now() >= self.until)


SHAPES: dict[str, Callable[[float], Any]] = {
    "asgi": Receiving,
    "starlette": Asking,
    "aiohttp": Connected,
    "aiohttp, taken away": lambda seconds: Connected(seconds, taken=True),
}


@pytest.mark.parametrize("shape", SHAPES)
@virtual
async def test_a_client_that_leaves_is_noticed(shape: str):
    """ORCH-3601: each shape of client is noticed within a tenth of a second of its leaving."""
    await leaving(SHAPES[shape](2.0))()

    assert 2.0 <= now() <= 2.1 + 1e-6


@virtual
async def test_what_is_no_client_is_refused():
    """ORCH-3601: something that neither tells nor can be asked is refused by name before anything is sent."""
    adapter = Words()
    async with host_of(adapter) as host:
        with pytest.raises(TypeError, match="a int is no client"):
            async with host.cancel_on_disconnect(7, "pool", "t"), host.submit("pool", task()):  # type: ignore[arg-type]
                raise AssertionError

    assert adapter.begun == 0


async def ended_after(host: AdapterHost, seconds: float) -> tuple[str, int]:
    """How a task ends whose client leaves then, and after how many events."""
    request = task()
    async with (
        host.cancel_on_disconnect(Receiving(seconds), "pool", request.task_id),
        host.submit("pool", request) as stream,
    ):
        events = await drained(stream)
    return events[-1].finish_reason, len(events)


@pytest.mark.parametrize(
    ("seconds", "events"), [(0.0, 1), (0.5, 1), (1.5, 3)], ids=["before submit", "prefill", "decode"]
)
@virtual
async def test_a_client_that_leaves_cancels_its_task(seconds: float, events: int):
    """ORCH-3601: whether it leaves before the submit, before the first token or after it, the engine is freed."""
    adapter = Words(words=9)
    async with host_of(adapter) as host:
        ended = await ended_after(host, seconds)
        freed = (adapter.begun, adapter.freed)

    assert ended == ("cancelled", events)
    assert freed[0] == freed[1]
    assert now() <= seconds + 0.2


@virtual
async def test_a_client_that_leaves_cancels_a_task_that_ran_before():
    """ORCH-3601: a task that is sent again is cancelled as any other, also when its client left before that."""
    adapter = Words(words=9)
    request = task()
    async with host_of(adapter) as host:
        await drained(await host.submit("pool", request))
        async with host.cancel_on_disconnect(Receiving(0.0), "pool", request.task_id):
            await asyncio.sleep(1)
            events = await drained(await host.submit("pool", request))

    assert [event.finish_reason for event in events] == ["cancelled"]
    assert now() <= 10 + 0.2


@pytest.mark.parametrize("seconds", [3.1, 4.0], ids=["before the other is sent", "while the other runs"])
@virtual
async def test_a_client_that_leaves_cancels_no_task_of_another(seconds: float):
    """ORCH-3601: after its task has ended by itself, a client that leaves cancels none that is sent under its id."""
    request = task()
    ends: list[str] = []

    async def serve(host: AdapterHost, client: Receiving, at: float) -> None:
        await asyncio.sleep(at)
        async with host.cancel_on_disconnect(client, "pool", request.task_id):
            ends.append((await drained(await host.submit("pool", request)))[-1].finish_reason)
            await asyncio.sleep(2)  # it stores the answer

    async with host_of(Words(words=3)) as host:
        await asyncio.gather(serve(host, Receiving(seconds), 0.0), serve(host, Receiving(99), 3.5))

    assert ends == ["stop", "stop"]


@virtual
async def test_a_client_that_stays_changes_nothing():
    """ORCH-3601: the watch ends with its block, and leaves no task behind."""
    async with host_of(Words()) as host:
        ended = await ended_after(host, 100.0)

    assert ended == ("stop", 5)
    assert now() == moment(3.0)


class Broken(Connected):
    """Raises as soon as it is looked at after so many seconds."""

    def is_closing(self) -> bool:
        if super().is_closing():
            raise RuntimeError("the server is confused")
        return False


@virtual
async def test_a_client_that_raises_is_no_trouble_of_the_task(caplog: pytest.LogCaptureFixture):
    """ORCH-3601: a client that raises is logged and watched no more; the block ends with what it raises itself."""
    request = task()
    async with host_of(Words()) as host:
        with pytest.raises(KeyError, match="the block's own"):
            async with host.cancel_on_disconnect(Broken(0.5), "pool", request.task_id):
                events = await drained(await host.submit("pool", request))
                raise KeyError("the block's own")

    assert events[-1] == end(3)
    assert f"task {request.task_id}: asking for its client raised RuntimeError: the server is confused" in caplog.text


@virtual
async def test_a_cancellation_from_outside_stays_one():
    """ORCH-3601: a block that is cancelled while its watch ends is cancelled, whichever comes first."""

    class Clinging(Receiving):
        async def __call__(self) -> dict[str, Any]:
            try:
                return await super().__call__()
            except asyncio.CancelledError:
                await asyncio.sleep(1)
                raise

    async def block(host: AdapterHost) -> str:
        async with host.cancel_on_disconnect(Clinging(9), "pool", "t"):
            await asyncio.sleep(1)
        return "went on"

    async with host_of(Words()) as host:
        blocks = [asyncio.create_task(block(host)) for _ in range(2)]
        for running, at in zip(blocks, (0.5, 1.0), strict=True):
            await asyncio.sleep(at)
            running.cancel()
        await asyncio.wait(blocks)
        await asyncio.sleep(1)  # the client lets go

    assert [running.cancelled() for running in blocks] == [True, True]
