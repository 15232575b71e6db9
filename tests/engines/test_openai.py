"""The adapter for any OpenAI-compatible server, through the host, on a real engine's own `/v1` routes."""

from dataclasses import replace

import pytest
from llama_orch_adapter_api import AdapterError, End, Started, TaskRequest, Token

from ..fleet import Life, told
from .real import CONTEXT, KIND, RealEngine, capabilities, chat, endless, host, task

TRIES = 5
BAR = 0.5
"""Seconds from a cancel in decode until the slot is idle; asserted here at ten times that."""
ENGINE = "openai"


async def test_what_it_tells_of_itself(engine: RealEngine):
    """ORCH-3600: the model that the engine lists; no more than chats is claimed, and a cancel is not confirmed."""
    async with host(engine, adapter=ENGINE) as front:
        known = await capabilities(front)
        health = (await front.health("chat"))["0"]

    assert (health.live, health.ready, health.state) == (True, True, "ready")
    assert (known.engine, known.engine_version, known.model_id) == (ENGINE, "unknown", "small")
    assert (known.workloads, known.features) == (("completion",), ("chat",))


@pytest.mark.parametrize("subject", [chat("Say hi", 16), task("Once upon a time", 16)], ids=["chat", "prompt"])
async def test_a_stream(engine: RealEngine, subject: TaskRequest):
    """ORCH-3600: a chat and a prompt are streamed to the engine's own count, the same ones for the same seed."""
    async with host(engine, adapter=ENGINE) as front:
        first, again = [await Life(subject).live(front) for _ in range(2)]

    assert first.name == again.name == "length"
    started, end = first.events[0], first.events[-1]
    assert isinstance(started, Started)
    assert isinstance(end, End)
    assert (started.engine, started.model, started.seed) == (ENGINE, "small", 1)
    assert (end.tokens_out, end.seed) == (16, 1)
    assert end.tokens_in
    assert [token.t for token in first.tokens] == [token.t for token in again.tokens]
    assert len(first.tokens) > 4


async def test_a_server_that_closes_after_streams(engine: RealEngine):
    """Told so, the adapter gives each stream a connection of its own, and no task is tried twice (llama.cpp closes)."""
    async with host(engine, adapter=ENGINE, reuse_after_stream=False) as front:
        attempts = []
        for _ in range(10):
            async with front.submit("chat", task("Hi", 1)) as stream:
                attempts.append(len((await stream.collect()).record.attempts))

    assert attempts == [1] * 10


async def test_a_cancel_in_decode(engine: RealEngine):
    """Battery 39, ORCH-3601: closing alone stops the engine, by its own count; the receipt claims nothing."""
    spans = []
    async with host(engine, adapter=ENGINE) as front:
        await capabilities(front)
        for _ in range(TRIES):
            async with front.submit("chat", endless()) as stream:
                async for event in stream:
                    if isinstance(event, Token) and event.i == 2:
                        break
                receipt = await front.cancel("chat", stream.task_id)
                spans.append(await engine.idle(30))
                assert await receipt.idle() is None

    assert (receipt.outcome, receipt.phase) == ("cancelled", "decode")
    assert None not in spans
    print(told(f"{KIND} behind /v1 is idle after a cancel in decode", spans))
    assert max(spans) < 10 * BAR


async def test_wrong_key(engine: RealEngine):
    """Battery 39, 32: a wrong key is AdapterError auth, names the mend, and shows neither key."""
    wrong = f"not-{engine.key}"
    async with host(engine, key=wrong, adapter=ENGINE) as front:
        life = await Life(chat("Hi", 2)).live(front)

    assert isinstance(life.error, AdapterError)
    assert life.error.detail == "auth"
    assert "api_key" in str(life.error)
    assert engine.key not in repr(life.error)


async def test_an_unknown_model(engine: RealEngine):
    """Battery 39: vLLM does not have it, which is told; llama.cpp serves the one that it has, whatever it is called."""
    asked = TaskRequest(prompt="Hi", max_tokens=2, model_ref="nope", extra={"ignore_eos": True})
    async with host(engine, adapter=ENGINE) as front:
        life = await Life(asked).live(front)

    assert life.name == {"llamacpp": "length", "vllm": "ADAPTER not_found"}[KIND]
    assert life.error is None or "check url and model" in str(life.error)


async def test_a_prompt_that_is_too_long(engine: RealEngine):
    """Battery 39: more than the context is told as that, and is not blamed on the engine."""
    async with host(engine, adapter=ENGINE) as front:
        life = await Life(task("word " * (2 * CONTEXT), 4)).live(front)

    assert life.name == "ADAPTER context_length"
    assert life.error is not None
    assert not life.error.engine_fault


async def test_a_path_that_is_wrong(engine: RealEngine):
    """A url with a path too many is told with the mend, by health and by the task alike."""
    async with host(replace(engine, url=f"{engine.url}/api"), adapter=ENGINE) as front:
        health = (await front.health("chat"))["0"]
        life = await Life(task("Hi", 2)).live(front)

    assert (health.live, health.state) == (True, "down")
    assert "is the path of url right?" in health.detail
    assert life.error is not None
    assert life.error.message == health.detail
