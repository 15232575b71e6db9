"""The same seed, the same tokens: on every replica, alone or beside others."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_orch_adapter_api import TaskRequest
from llama_orch_adapter_host import AdapterHost

from ..fleet import Life
from .real import KIND, SLOTS, RealEngine, host, running, task

SEEDS = range(64)
TOKENS = 16
PROMPTS = ("Once upon a time", "The capital of France is", "Count: 1, 2, 3, 4,", "Water boils when")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[tuple[RealEngine, RealEngine]]:
    """Two replicas, each a process of its own."""
    folder = tmp_path_factory.mktemp("twins")
    with running(folder, model) as one, running(folder, model) as other:
        yield one, other


def seeded(seed: int, replica: str) -> TaskRequest:
    """Half of them greedy: a seed changes nothing there, nor may anything else."""
    prompt, temperature = PROMPTS[seed % len(PROMPTS)], 0.8 if seed % 2 else 0.0
    return task(prompt, TOKENS, seed=seed, temperature=temperature, replica=replica)


async def streams(front: AdapterHost, replica: str, at_once: int) -> list[list[str]]:
    """The tokens of every seed, in the order of the seeds."""
    lives = [Life(seeded(seed, replica)) for seed in SEEDS]
    waiting = iter(lives)

    async def some() -> None:
        for life in waiting:
            await life.live(front)

    await asyncio.gather(*(some() for _ in range(at_once)))
    assert [life.name for life in lives] == ["length"] * len(lives)
    return [[token.t for token in life.tokens] for life in lives]


async def test_seeds(twins: tuple[RealEngine, RealEngine]):
    """Battery 40: 64 seeds on two replicas, as many at once as have slots, give the same tokens; vLLM's are told."""
    async with host(*twins) as front:
        one, other = await asyncio.gather(streams(front, "0", SLOTS), streams(front, "1", SLOTS))
    same = sum(a == b for a, b in zip(one, other, strict=True))
    distinct = len({tuple(tokens) for tokens in one})

    print(f"{KIND}, {SLOTS} at once: {same} of {len(SEEDS)} seeds byte-exact on two replicas, {distinct} answers")
    assert distinct > len(SEEDS) // 2
    if KIND == "llamacpp":
        assert one == other


async def test_one_after_the_other(twins: tuple[RealEngine, RealEngine]):
    """Battery 40: alone in its engine, a seed gives the same tokens on both replicas, and again on the same one."""
    async with host(*twins) as front:
        one, other = await asyncio.gather(streams(front, "0", 1), streams(front, "1", 1))
        again = await streams(front, "0", 1) if KIND == "vllm" else one
    same = sum(a == b == c for a, b, c in zip(one, other, again, strict=True))

    print(f"{KIND}, one after the other: {same} of {len(SEEDS)} seeds byte-exact on two replicas")
    assert one == other == again
