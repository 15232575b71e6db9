"""A request or a stream that is cancelled, at whichever of its waits, leaves nothing behind (battery 11)."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from llama_orch_adapter_testkit import LoopbackEngine, Reply
from llama_orch_http_util import HttpClient, _session

from .clients import ANYTHING, answering  # type: ignore[import-not-found]  # test folders are no packages

LARGE = "x" * (2 << 20)


async def read(client: HttpClient) -> None:
    async with client.stream("/tasks", {"prompt": "a"}, ANYTHING) as events:
        async for _ in events:
            pass


Ask = Callable[[HttpClient], Awaitable[object]]

WAYS: dict[str, Ask] = {
    "GET": lambda client: client.get("/health"),
    "large POST": lambda client: client.request("POST", "/tasks", {"prompt": LARGE}),
    "stream": read,
}


def ours() -> set[object]:
    """The tasks that are under way, but for the far end's."""
    return {task for task in asyncio.all_tasks() if "testkit" not in repr(task.get_coro())}


def lent() -> int:
    """Connections of the running loop's session that are not given back."""
    shared = _session._sessions[asyncio.get_running_loop()]
    return sum(len(session.connector._acquired) for session in shared._opened.values() if session.connector)  # type: ignore[attr-defined]


async def cancelled_after(steps: int, ask: Ask, engine: LoopbackEngine) -> bool:
    """Whether it was cancelled; asked for by a client of its own, so that each wait is met from the first one on."""
    async with HttpClient(engine.url) as client:
        before = ours()
        asking = asyncio.ensure_future(ask(client))
        for _ in range(steps):
            await asyncio.sleep(0)
        took_it = asking.cancel()
        if took_it:
            with pytest.raises(asyncio.CancelledError):
                await asking
        else:
            await asking
        async with asyncio.timeout(5):
            while ours() != before:  # a name is looked up in a thread, and its end waited for
                await asyncio.sleep(0.001)

        assert steps == 0 or lent() == 0, steps
        assert (await client.request("GET", "/health")).status == 200
    return took_it


@pytest.mark.timeout(60)
@pytest.mark.parametrize("ask", WAYS.values(), ids=WAYS)
async def test_cancelled_at_every_wait(ask: Ask) -> None:
    """After each turn of the loop in turn, until the request is done before it is cancelled."""
    async with answering(Reply.sse([{"n": 0}, {"n": 1}, "[DONE]"])) as engine:
        steps = 0
        while await cancelled_after(steps, ask, engine):
            steps += 1

        assert steps > 5
        print(f"cancelled after {steps} steps")
        async with asyncio.timeout(5):
            await engine.deserted()
