"""The adapter keeps every rule of the conformance suite."""

import pytest
from llama_orch_adapter_testkit import VLLM
from llama_orch_adapter_testkit.conformance import AdapterConformance


@pytest.mark.timeout(120)  # a check may have to wait for a busy machine
class TestConformance(AdapterConformance):
    """ORCH-3612: as the host finds it, against an engine that speaks its dialect."""

    adapter = "vllm"
    dialect = VLLM
