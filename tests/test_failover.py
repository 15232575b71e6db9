"""Two real engines in one pool, and what their callers see when one is killed and comes back."""

import asyncio
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
from llama_orch_adapter_host.events import BreakerChanged, FirstToken, HealthChanged, HostEvent

from .fleet import Life

SLOTS = 8
TOKENS = 32
LONG = 200
"""More than a doomed engine comes to."""
PROMPTS = ("Once upon a time", "The capital of France is", "Count: 1, 2, 3, 4,", "Water boils when")
PATIENCE = 60.0
POLICY = PoolPolicy(breaker=BreakerPolicy(open_for=1.0), health=HealthPolicy(interval=0.5))
OURS = ("pool_id", "session_id", "correlation_id", "traceparent", "generation", "workload")
"""What the story does without."""


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


class Story:
    """What the host told, with the moments."""

    def __init__(self, host: AdapterHost) -> None:
        self.began = time.monotonic()
        self.told: list[tuple[float, HostEvent]] = []
        host.observe(lambda event: self.told.append((time.monotonic() - self.began, event)))

    def breaker(self, replica: str) -> list[str]:
        """The states that a replica's breaker went through."""
        return [
            event.state for _, event in self.told if isinstance(event, BreakerChanged) and event.replica_id == replica
        ]

    def first_tokens(self) -> int:
        """How many tasks have had theirs."""
        return sum(isinstance(event, FirstToken) for _, event in self.told)

    def health(self, replica: str) -> str:
        """What was believed of it last."""
        beliefs = [e.now for _, e in self.told if isinstance(e, HealthChanged) and e.replica_id == replica]
        return beliefs[-1] if beliefs else "unknown"

    def lines(self) -> list[str]:
        """The story, a line an event."""
        return [f"{moment:7.2f} s  {_line(event)}" for moment, event in self.told]


def _line(event: HostEvent) -> str:
    facts: dict[str, Any] = {
        name: value for name, value in msgspec.to_builtins(event).items() if value not in (None, "")
    }
    words = [f"{facts.pop('action'):<12}"]
    if "replica_id" in facts:
        words.append(f"{facts['pool_id']}/{facts.pop('replica_id')}")
    if "task_id" in facts:
        words.append(f"task {facts.pop('task_id')[:6]}")
    for name, value in facts.items():
        if name not in OURS and value not in (None, ""):
            words.append(f"{name}={value:.2f}" if isinstance(value, float) else f"{name}={value}")
    return " ".join(words)


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
        host = await engines.enter_async_context(AdapterHost())
        story = Story(host)
        host.bind("chat", "llamacpp", {"url": doomed_url}, replica_id="a", policy=POLICY)
        host.bind("chat", "llamacpp", {"url": sound_url}, replica_id="b")
        reference = await asyncio.gather(*(asks(prompt, "b").live(host) for prompt in PROMPTS))
        exact = {life.task.prompt: [token.t for token in life.tokens] for life in reference}

        prompts = [PROMPTS[number % len(PROMPTS)] for number in range(SLOTS)]
        lives = [asks(prompt, "a", LONG) for prompt in prompts] + [asks(prompt, "b") for prompt in prompts]
        running = [asyncio.create_task(life.live(host)) for life in lives]
        await until("16 first tokens", lambda: story.first_tokens() == len(PROMPTS) + 2 * SLOTS)
        os.kill(doomed, signal.SIGKILL)
        killed = time.monotonic()
        await asyncio.wait(running[:SLOTS], timeout=PATIENCE)
        ended = [life.moment - killed for life in lives[:SLOTS]]
        fresh = await asyncio.gather(*(asks(prompt).live(host) for prompt in PROMPTS))
        await asyncio.wait(running, timeout=PATIENCE)
        tripped = story.breaker("a")

        port = urlsplit(doomed_url).port
        assert port is not None
        again = await engines.enter_async_context(launch(msgspec.structs.replace(options, port=port)))
        await until("a half-open breaker", lambda: "half_open" in story.breaker("a"))
        while story.breaker("a")[-1] != "closed":
            await asyncio.gather(*(asks(prompt).live(host) for prompt in PROMPTS[:2]))
            assert time.monotonic() - killed < PATIENCE
        back = await asks(PROMPTS[0], "a").live(host)

    print("\n".join(story.lines()))
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
    assert story.breaker("a")[-1] == "closed"
    assert [token.t for token in back.tokens] == exact[PROMPTS[0]]
