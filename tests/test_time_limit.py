"""The time limit that an engine keeps by itself, for the case that nobody is left to end a task."""

import time
from typing import Any

import pytest
from llama_orch_adapter_api import AdapterContext, AdapterSpec, End, Grammar, Message, TaskRequest, Timeouts
from llama_orch_adapter_host import Plugins

ENDLESS = Grammar('root ::= "word\\n" root')


@pytest.fixture(scope="module")
def spec() -> AdapterSpec:
    return Plugins.installed().spec("llamacpp")


@pytest.mark.real_engine
@pytest.mark.timeout(180)
@pytest.mark.parametrize("subject", [{"prompt": "Hi"}, {"messages": (Message("user", "Hi"),)}], ids=["native", "chat"])
async def test_a_real_engine_ends_by_itself(engine: str, spec: AdapterSpec, subject: dict[str, Any]):
    """Battery 24: a real llama.cpp that nobody stops ends an endless answer after what is left of its deadline."""
    config = spec.config_type(url=engine)
    adapter = spec.factory(AdapterContext("pool", "0", config, Timeouts(), {}, time.monotonic, print))
    try:
        task = TaskRequest(**subject, max_tokens=1800, deadline_ms=1, response_format=ENDLESS)
        *_, end = [event async for event in adapter.submit(task)]
    finally:
        await adapter.aclose()

    assert isinstance(end, End)
    assert end.tokens_out is not None
    assert end.tokens_out < 1800
    assert end.decode_time_ms is not None
    assert end.decode_time_ms > 1000
