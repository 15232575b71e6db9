"""The llama.cpp adapter on the real engine: what only its own answers can show."""

import asyncio
import json
import math
import time
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    AdapterSpec,
    DecodeTimeout,
    Embedding,
    End,
    JsonSchema,
    LaunchOptions,
    Message,
    Sampling,
    Score,
    Started,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    WorkerAdapter,
)
from llama_orch_adapter_host import AdapterHost, Plugins

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(180)]
SMOLLM2 = "sha256:b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SUBJECTS = {"native": {"prompt": "Hi"}, "chat": {"messages": (Message("user", "Hi"),)}}
ENDLESS = {"ignore_eos": True}


@pytest.fixture(scope="module")
def spec() -> AdapterSpec:
    return Plugins.installed().spec("llamacpp")


@asynccontextmanager
async def adapter_of(spec: AdapterSpec, url: str) -> AsyncIterator[WorkerAdapter]:
    context = AdapterContext("pool", "0", spec.config_type(url=url), Timeouts(), {}, time.monotonic, print)
    adapter = spec.factory(context)
    try:
        yield adapter
    finally:
        await adapter.aclose()


async def events_of(adapter: WorkerAdapter, task: TaskRequest) -> list[TokenEvent]:
    return [event async for event in adapter.submit(task)]


def text_of(events: list[TokenEvent]) -> list[str]:
    return [event.t for event in events if isinstance(event, Token)]


def seeds_at_work(url: str) -> list[int]:
    """What the engine's own slots say, past the adapter."""
    with urllib.request.urlopen(url + "/slots", timeout=10) as answer:
        return [slot["params"]["seed"] for slot in json.load(answer) if slot["is_processing"]]


async def test_its_props(engine: str, spec: AdapterSpec):
    """Digest, source, workloads and features are those of the model that was loaded."""
    async with adapter_of(spec, engine) as adapter:
        props = await adapter.props()

    known = props.capabilities
    assert (known.model_id, known.model_digest, known.ctx_max, props.slots_total) == ("smollm2", SMOLLM2, 2048, 2)
    assert known.model_source == "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert known.workloads == ("completion",)
    assert {"confirms_cancel", "deterministic", "chat"} <= set(known.features)


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_an_answer_can_be_had_again(engine: str, spec: AdapterSpec, subject: str):
    """A task that brought no seed is repeated, token by token, with the seed that its end tells."""
    hot = Sampling(temperature=1.5)
    async with adapter_of(spec, engine) as adapter:
        first = await events_of(adapter, TaskRequest(**SUBJECTS[subject], max_tokens=24, sampling=hot))
        assert isinstance(first[-1], End)
        again, other = [
            await events_of(adapter, TaskRequest(**SUBJECTS[subject], max_tokens=24, sampling=hot, seed=seed))
            for seed in (first[-1].seed, 1)
        ]

    assert isinstance(first[0], Started)
    assert first[0].seed == first[-1].seed
    assert text_of(again) == text_of(first)
    assert text_of(other) != text_of(first)


async def test_an_answer_in_a_format(engine: str, spec: AdapterSpec):
    """A JSON schema binds the answer, and logprobs come with its tokens."""
    wanted = JsonSchema({"type": "object", "properties": {"fine": {"type": "boolean"}}, "required": ["fine"]})
    task = TaskRequest(
        messages=(Message("user", "Are you fine?"),),
        response_format=wanted,
        max_tokens=64,
        sampling=Sampling(temperature=0, logprobs=0),
    )
    async with adapter_of(spec, engine) as adapter:
        events = await events_of(adapter, task)

    assert isinstance(json.loads("".join(text_of(events)))["fine"], bool)
    assert all(event.logprob is not None and event.logprob <= 0 for event in events if isinstance(event, Token))


@pytest.mark.parametrize("subject", SUBJECTS)
async def test_a_cancel_in_decode_is_confirmed(engine: str, subject: str):
    """Battery 39: the slot is idle at most 500 ms after a cancel in decode, while another task decodes on."""
    async with AdapterHost() as host:
        host.bind("chat", "llamacpp", {"url": engine})
        while not any(each.capabilities for each in host.capabilities().pools["chat"].replicas.values()):
            await asyncio.sleep(0.01)
        task = TaskRequest(**SUBJECTS[subject], seed=11, max_tokens=1500, extra=ENDLESS)
        other = TaskRequest(prompt="One", seed=12, max_tokens=1500, extra=ENDLESS)
        async with host.submit("chat", task), host.submit("chat", other):
            assert sorted(await asyncio.to_thread(seeds_at_work, engine)) == [11, 12]
            receipt = await host.cancel("chat", task.task_id)
            idle = await receipt.idle()
            assert await asyncio.to_thread(seeds_at_work, engine) == [12]

    assert (receipt.outcome, receipt.phase) == ("cancelled", "decode")
    assert idle is not None
    assert idle <= 500


async def test_a_cancel_in_prefill_is_not_claimed(engine: str, spec: AdapterSpec):
    """The engine reads a prompt to its end, whoever listens: until then nobody says that its slot is idle."""
    task = TaskRequest(prompt="word " * 1900, max_tokens=4, extra={"cache_prompt": False})
    async with adapter_of(spec, engine) as adapter:
        stream = adapter.submit(task)
        started = await anext(stream)
        assert isinstance(started, Started)
        while started.seed not in await asyncio.to_thread(seeds_at_work, engine):
            await asyncio.sleep(0.01)
        await stream.aclose()  # type: ignore[attr-defined]  # submit gives an async generator
        try:
            await adapter.cancel(task.task_id)
        except DecodeTimeout:
            return  # it still reads

        assert started.seed not in await asyncio.to_thread(seeds_at_work, engine)


INPUTS = ("a boat on the sea", "bread")


@pytest.mark.parametrize("workload", ["embedding", "rerank"])
async def test_an_engine_of_ones_own_for_another_workload(spec: AdapterSpec, workload: Any):
    """`LaunchOptions.workload` starts an engine that serves it; an input beyond its bounds is the task's fault."""
    query = {"query": "ship"} if workload == "rerank" else {}
    task = TaskRequest(workload=workload, inputs=INPUTS, **query)
    assert spec.launch is not None
    async with spec.launch(LaunchOptions(threads=1, workload=workload)) as url, adapter_of(spec, url) as adapter:
        assert workload in (await adapter.props()).capabilities.workloads
        _, end = await events_of(adapter, task)
        with pytest.raises(AdapterError, match="shorten") as caught:
            await events_of(adapter, TaskRequest(workload=workload, inputs=("word " * 3000,), **query))

    assert caught.value.detail == "context_length"
    assert isinstance(end, End)
    assert end.tokens_in
    assert [output.index for output in end.outputs] == [0, 1]
    for output in end.outputs:
        if isinstance(output, Embedding):
            assert math.isclose(sum(figure**2 for figure in output.vector), 1, rel_tol=1e-3)
            assert len(output.vector) == 576
        else:
            assert isinstance(output, Score)
