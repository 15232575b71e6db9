"""Two real engines in one pool, and what their callers see when one is killed and comes back."""

import asyncio
import logging
import os
import signal
import time
from collections import Counter
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import pytest
from llama_orch_adapter_api import LaunchOptions, Sampling, TaskRequest, WorkerReset
from llama_orch_adapter_host import AdapterHost, BreakerPolicy, HealthPolicy, Plugins, PoolPolicy
from llama_orch_adapter_host.events import BreakerChanged, FirstToken
from llama_orch_adapter_host.observe import Captured, captured

from .fleet import Life

SLOTS = 8
TOKENS = 32
LONG = 200
"""More than a doomed engine comes to."""
PROMPTS = ("Once upon a time", "The capital of France is", "Count: 1, 2, 3, 4,", "Water boils when")
PATIENCE = 60.0
POLICY = PoolPolicy(breaker=BreakerPolicy(open_for=1.0), health=HealthPolicy(interval=0.5))
IN_ORDER = (
    "chat/a takes tasks from now on (llamacpp, generation 1)",
    "fails on chat/a, attempt 1: WORKER_RESET truncated",
    "chat/a opens its breaker and gets no tasks; next try in",
    "chat/a half-opens its breaker: one task may try it",
    "chat/a closes its breaker and gets tasks again",
    "the host is stopped in",
)
"""What the story of a killed engine tells."""


def children() -> set[int]:
    """The engines that this process has started and that still run."""
    return {
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if _stat(folder)[1:2] == [str(os.getpid())] and _stat(folder)[0] != "Z"
    }


def _stat(folder: Path) -> list[str]:
    """State, parent and so on."""
    try:
        return (folder / "stat").read_text().rpartition(") ")[2].split()
    except OSError:
        return [""]


def asks(prompt: str, replica: str | None = None, tokens: int = TOKENS) -> Life:
    """A task with a fixed seed."""
    greedy = Sampling(temperature=0.0)
    return Life(TaskRequest(prompt=prompt, max_tokens=tokens, seed=1, sampling=greedy, replica_id=replica))


def breaker(told: Captured, replica: str) -> list[str]:
    """The states that a replica's breaker went through."""
    return [event.state for event in told.of(BreakerChanged) if event.replica_id == replica]


def shown(told: Captured) -> list[str]:
    """The story without what every task does."""
    return told.story(logging.INFO, moments=True)


def untold(told: Captured) -> list[str]:
    """What the story lacks of what it is to tell, or tells in another order."""
    lines = iter(shown(told))
    return [sentence for sentence in IN_ORDER if not any(sentence in line for line in lines)]


async def until(what: str, holds: Any) -> None:
    """Wait, and say what for if it takes too long."""
    began = time.monotonic()
    while not holds():
        assert time.monotonic() - began < PATIENCE, f"in vain waited for: {what}"
        await asyncio.sleep(0.05)


@pytest.mark.real_engine
@pytest.mark.timeout(240)
async def test_an_engine_is_killed_and_comes_back():
    """ORCH-3600, ORCH-3602: under 16 streams a killed engine hangs nobody, spoils nobody else's, and is taken back."""
    launch = (await asyncio.to_thread(Plugins.installed)).spec("llamacpp").launch
    assert launch is not None
    asyncio.get_running_loop().set_debug(False)
    options = LaunchOptions(slots=SLOTS, context=256, threads=1)
    async with AsyncExitStack() as engines:
        before = children()
        doomed_url = await engines.enter_async_context(launch(options))
        (doomed,) = children() - before
        sound_url = await engines.enter_async_context(launch(options))
        host = AdapterHost()
        told = engines.enter_context(captured(host))
        await engines.enter_async_context(host)
        host.bind("chat", "llamacpp", {"url": doomed_url}, replica_id="a", policy=POLICY)
        host.bind("chat", "llamacpp", {"url": sound_url}, replica_id="b")
        reference = await asyncio.gather(*(asks(prompt, "b").live(host) for prompt in PROMPTS))
        exact = {life.task.prompt: [token.t for token in life.tokens] for life in reference}

        prompts = [PROMPTS[number % len(PROMPTS)] for number in range(SLOTS)]
        lives = [asks(prompt, "a", LONG) for prompt in prompts] + [asks(prompt, "b") for prompt in prompts]
        running = [asyncio.create_task(life.live(host)) for life in lives]
        await until("16 first tokens", lambda: len(told.of(FirstToken)) == len(PROMPTS) + 2 * SLOTS)
        os.kill(doomed, signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.wait(running[:SLOTS], timeout=PATIENCE)
        ended = [life.moment - killed for life in lives[:SLOTS]]
        fresh = await asyncio.gather(*(asks(prompt).live(host) for prompt in PROMPTS))
        await asyncio.wait(running, timeout=PATIENCE)
        tripped = breaker(told, "a")

        port = urlsplit(doomed_url).port
        assert port is not None
        again = await engines.enter_async_context(launch(msgspec.structs.replace(options, port=port)))
        await until("a half-open breaker", lambda: "half_open" in breaker(told, "a"))
        while breaker(told, "a")[-1] != "closed":
            await asyncio.gather(*(asks(prompt).live(host) for prompt in PROMPTS[:2]))
            assert time.monotonic() - killed < PATIENCE
        back = await asks(PROMPTS[0], "a").live(host)

    print(*shown(told), sep="\n")
    print(f"{Counter(life.name for life in lives)}; the killed engine's last stream ended after {max(ended):.3f} s")
    assert all(task.done() for task in running)
    assert [isinstance(life.error, WorkerReset) for life in lives[:SLOTS]] == [True] * SLOTS
    assert max(ended) < 1.0
    assert [life.error for life in lives[SLOTS:]] == [None] * SLOTS
    for life in (*lives[SLOTS:], *fresh):
        assert [token.t for token in life.tokens] == exact[life.task.prompt]
    assert [life.name for life in fresh] == ["length"] * len(fresh)
    assert tripped == ["open"]
    assert again == doomed_url
    assert breaker(told, "a")[-1] == "closed"
    assert [token.t for token in back.tokens] == exact[PROMPTS[0]]
    assert untold(told) == []
    assert any("chat/a is down" in line for line in shown(told))
