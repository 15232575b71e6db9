import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from llama_orch_adapter_host import AdapterHost
from llama_orch_adapter_host._disconnect import gone

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    Words,
    drained,
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
    await gone(SHAPES[shape](2.0))

    assert 2.0 <= now() <= 2.1 + 1e-6


async def test_what_is_no_client_is_refused():
    """Something that neither tells nor can be asked is refused by name."""
    with pytest.raises(TypeError, match="a int is no client"):
        await gone(7)  # type: ignore[arg-type]


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
async def test_a_client_that_stays_changes_nothing():
    """ORCH-3601: the watch ends with its block, and leaves no task behind."""
    async with host_of(Words()) as host:
        ended = await ended_after(host, 100.0)

    assert ended == ("stop", 5)
    assert now() == moment(3.0)
