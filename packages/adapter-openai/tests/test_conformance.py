"""The adapter keeps every rule of the conformance suite."""

from collections.abc import Mapping
from typing import Any

import pytest
from llama_orch_adapter_testkit import OPENAI
from llama_orch_adapter_testkit.conformance import AdapterConformance


@pytest.mark.timeout(120)  # a check may have to wait for a busy machine
class TestConformance(AdapterConformance):
    """ORCH-3612: as the host finds it, told that its server has all that the dialect has words for."""

    adapter = "openai"
    dialect = OPENAI

    def config(self, url: str) -> Mapping[str, Any]:
        """With each workload and feature that is tried where it is declared."""
        return {
            "url": f"{url}/v1",
            "workloads": ["completion", "embedding", "rerank"],
            "features": ["chat", "logprobs", "reasoning", "seed", "tools"],
        }
