"""What the tests on real engines share: the model's files, and an engine that lives through a module's tests."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from llama_orch_adapter_llamacpp.embedded import small_model

from .real import KIND, VLLM, RealEngine, running

SECONDS = 900 if KIND == "vllm" else 180
"""A test may have to wait for its engine's start."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.real_engine)
            item.add_marker(pytest.mark.timeout(SECONDS))


@pytest.fixture(scope="session")
def model() -> Path:
    """A GGUF file for llama.cpp, a folder for vLLM."""
    return VLLM / "model" if KIND == "vllm" else asyncio.run(small_model(lambda _: None))


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Iterator[RealEngine]:
    """A running engine with two slots; tests leave it as idle as they found it."""
    with running(tmp_path_factory.mktemp("engine"), model) as started:
        yield started
