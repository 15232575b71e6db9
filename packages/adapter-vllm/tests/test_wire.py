"""vLLM's own routes: the captured bodies, and the bodies that tasks become."""

import json
from collections import ChainMap
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import (
    Capabilities,
    Grammar,
    JsonSchema,
    Message,
    Sampling,
    TaskRequest,
    Tool,
    WorkerProps,
)
from llama_orch_adapter_testkit import captures
from llama_orch_adapter_vllm._wire import MODELS, VERSION, Load, Model, Models, Version, request_body, worker_props

NOW = datetime(2026, 11, 23, tzinfo=UTC)

# What the engine sends


def test_props_of_the_captured_engine():
    """`/version`, `/v1/models` and `/metrics` become exact capacity and capabilities."""
    version = VERSION.decode(captures.load("vllm", "get_version").body)
    models = MODELS.decode(captures.load("vllm", "get_v1_models").body)
    load = Load.read(captures.load("vllm", "get_metrics_busy").body)

    assert worker_props(version, models, NOW, slots=6, load=load) == WorkerProps(
        slots_total=6,
        slots_free=2,
        capabilities=Capabilities(
            engine="vllm",
            engine_version="0.32.0",
            model_id="smollm2",
            observed_at=NOW,
            model_source="smollm2",
            ctx_max=1024,
            batching=True,
            slots=6,
            features=("chat", "grammar", "json_schema", "logprobs", "seed", "confirms_cancel"),
        ),
    )


@pytest.mark.parametrize(
    ("slots", "load", "free"),
    [
        (None, None, None),
        (None, Load(1, 0, 0.0), None),
        (4, None, None),
        (4, Load(0, 0, 0.0), 4),
        (4, Load(4, 9, 0.0), 0),
        (4, Load(5, 0, 0.0), 0),
    ],
)
def test_free_slots(slots: int | None, load: Load | None, free: int | None):
    """Slots are known where they are configured, free ones where the engine also tells its load; never below 0."""
    props = worker_props(Version("0.32.0"), Models((Model("m"),)), NOW, slots=slots, load=load)

    assert (props.slots_total, props.slots_free, props.capabilities.slots) == (slots, free, slots)


def test_the_first_name_is_the_models():
    """Other names and adapters come after the model itself; an engine may leave out the context."""
    models = MODELS.decode(b'{"data":[{"id":"base","root":"/models/base"},{"id":"lora","max_model_len":9}]}')
    capabilities = worker_props(Version("1"), models, NOW).capabilities

    assert (capabilities.model_id, capabilities.ctx_max) == ("base", None)


@pytest.mark.parametrize(
    ("root", "source"),
    [
        ("", None),
        ("/", None),
        ("/models/smollm2", "smollm2"),
        ("/models/smollm2/", "smollm2"),
        ("./smollm2", "smollm2"),
        ("~/models/smollm2", "smollm2"),
        ("acme/smollm2", "acme/smollm2"),
    ],
)
def test_a_source_is_told_without_its_folder(root: str, source: str | None):
    """A hub's name is told whole, a folder's without the path to it: folders are nobody's business."""
    assert Model("m", root).source == source


@pytest.mark.parametrize(
    ("name", "load", "words"),
    [
        ("get_metrics_idle", Load(0, 0, 0.0), "0 running, 0 waiting, KV cache 0% full"),
        ("get_metrics_busy", Load(4, 1, 0.011019283746556474), "4 running, 1 waiting, KV cache 1% full"),
    ],
)
def test_load_of_the_captured_engine(name: str, load: Load, words: str):
    """The gauges are read exactly, and no others of similar names."""
    seen = Load.read(captures.load("vllm", name).body)

    assert (seen, str(seen)) == (load, words)


@pytest.mark.parametrize(
    ("metrics", "load"),
    [
        (b"", None),
        (b"# vllm:num_requests_running 3\n", None),
        (b"vllm:num_requests_waiting 3\n", None),
        (b"vllm:num_requests_running 3\n", Load(3, 0, 0.0)),
        (b"vllm:num_requests_running 3", Load(3, 0, 0.0)),
        (b"vllm:num_requests_running 3 1795398989000\n", Load(3, 0, 0.0)),
        (b"vllm:num_requests_running 3.0\r\nvllm:num_requests_waiting 1.0\r\n", Load(3, 1, 0.0)),
        (b'vllm:num_requests_running{model_name="a} b{"} 3.0\n', Load(3, 0, 0.0)),
        (b"vllm:num_requests_running NaN\n", None),
        (b"vllm:num_requests_running +Inf\n", None),
        (b"vllm:num_requests_running -1\n", None),
        (b"vllm:num_requests_running 1e+99\n", None),
        (b"vllm:num_requests_running " + b"9" * 400 + b"\n", None),
        (b"vllm:num_requests_running_total 3\n", None),
        (b"\xff\xfe\nvllm:num_requests_running 2.0\n\xff", Load(2, 0, 0.0)),
        (b"vllm:num_requests_running 0\nvllm:kv_cache_usage_perc 5e-05\n", Load(0, 0, 5e-05)),
    ],
    ids=str,
)
def test_metrics_text(metrics: bytes, load: Load | None):
    """Labels, a missing label set, a timestamp and CRLF are no matter; what is no sensible number is passed over."""
    assert Load.read(metrics) == load


def test_load_of_several_cores():
    """Tasks are summed over the engine's cores; of their caches the fullest counts."""
    lines = [
        f'vllm:{name}{{engine="{engine}",model_name="m"}} {value}'
        for name, values in {
            "num_requests_running": (4.0, 3.0),
            "num_requests_waiting": (0.0, 2.0),
            "kv_cache_usage_perc": (0.9, 0.25),
        }.items()
        for engine, value in enumerate(values)
    ]

    assert Load.read("\n".join(lines).encode()) == Load(7, 2, 0.9)


@pytest.mark.parametrize(
    ("decoder", "body"),
    [
        (VERSION, {}),
        (VERSION, {"version": 1}),
        (MODELS, {"data": []}),
        (MODELS, {"data": [{}]}),
        (MODELS, {"data": [{"id": "m", "max_model_len": -1}]}),
        (MODELS, {"data": [{"id": "m", "max_model_len": 10**30}]}),
        (MODELS, []),
    ],
    ids=str,
)
def test_nonsense_is_refused(decoder: msgspec.json.Decoder[object], body: object):
    """An engine has a version and at least one model, and its context is a bounded whole number."""
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(json.dumps(body))


# What the engine is sent

SCHEMA = {"type": "integer"}
EVERY_KNOB = Sampling(
    temperature=0.5,
    top_p=0.9,
    top_k=40,
    min_p=0.05,
    presence_penalty=0.1,
    frequency_penalty=-0.2,
    repeat_penalty=1.1,
    stop=("END",),
    logit_bias={42: -100.0},
    logprobs=3,
)
SAMPLED = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "presence_penalty": 0.1,
    "frequency_penalty": -0.2,
    "repetition_penalty": 1.1,
    "stop": ["END"],
    "logit_bias": {"42": -100.0},
}
STREAMED = {"model": "base", "stream": True, "stream_options": {"include_usage": True}}
PROMPT = {**STREAMED, "prompt": "Hi"}
HI = (Message("user", "Hi"),)
CHAT = {**STREAMED, "messages": [{"role": "user", "content": "Hi"}]}
TOOLS = (Tool("f"), Tool("g", "Does g", {"type": "object"}))
F = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
G = {"type": "function", "function": {"name": "g", "description": "Does g", "parameters": {"type": "object"}}}
EVERYTHING: dict[str, Any] = {
    "max_tokens": 9,
    "sampling": EVERY_KNOB,
    "seed": 7,
    "response_format": JsonSchema(SCHEMA),
    "kv_hint": "cold",
    "priority": "batch",
    "extra": {"min_tokens": 1},
}
WANTED = {
    **SAMPLED,
    "max_tokens": 9,
    "seed": 7,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
    },
    "min_tokens": 1,
}


def sent(task: TaskRequest) -> dict[str, object]:
    """The body as the engine decodes it."""
    return msgspec.json.decode(msgspec.json.encode(request_body(task, "base")), type=dict[str, object])


@pytest.mark.parametrize(
    ("task", "body"),
    [
        (TaskRequest(prompt="Hi"), PROMPT),
        (TaskRequest(prompt="Hi", deadline_ms=2500), PROMPT),  # it takes no time limit
        (TaskRequest(prompt="Hi", **EVERYTHING), {**PROMPT, **WANTED, "logprobs": 3}),
        (TaskRequest(prompt="Hi", sampling=Sampling(logprobs=0)), {**PROMPT, "logprobs": 0}),
        (
            TaskRequest(prompt="Hi", response_format=JsonSchema({})),
            {**PROMPT, "response_format": {"type": "json_object"}},
        ),
        (
            TaskRequest(prompt="Hi", response_format=Grammar("root ::= x")),
            {**PROMPT, "structured_outputs": {"grammar": "root ::= x"}},
        ),
        (TaskRequest(prompt="Hi", seed=1, extra={"seed": 2, "model": "x"}), {**PROMPT, "seed": 2, "model": "x"}),
        (TaskRequest(messages=HI), CHAT),
        (TaskRequest(messages=HI, **EVERYTHING), {**CHAT, **WANTED, "logprobs": True, "top_logprobs": 3}),
        (TaskRequest(messages=HI, sampling=Sampling(logprobs=0)), {**CHAT, "logprobs": True, "top_logprobs": 0}),
        (
            TaskRequest(messages=HI, response_format=Grammar("root ::= x")),
            {**CHAT, "structured_outputs": {"grammar": "root ::= x"}},
        ),
        (TaskRequest(messages=HI, tools=TOOLS), {**CHAT, "tools": [F, G]}),
        (TaskRequest(messages=HI, tools=TOOLS, tool_choice="auto"), {**CHAT, "tools": [F, G], "tool_choice": "auto"}),
        (
            TaskRequest(messages=HI, tools=TOOLS, tool_choice="g"),
            {**CHAT, "tools": [F, G], "tool_choice": {"type": "function", "function": {"name": "g"}}},
        ),
        (TaskRequest(messages=HI, max_tokens=1, extra={"max_tokens": 2}), {**CHAT, "max_tokens": 2}),
    ],
)
def test_a_task_becomes_a_body(task: TaskRequest, body: dict[str, object]):
    """Exactly what was asked for is sent, under the engine's own names; `extra` has the last word."""
    assert sent(task) == body


@given(
    subject=st.sampled_from([{"prompt": "é😀"}, {"messages": HI}]), fields=st.sets(st.sampled_from(sorted(EVERYTHING)))
)
def test_fields_do_not_depend_on_each_other(subject: dict[str, Any], fields: set[str]):
    """Whatever a task leaves out, the body holds what the rest of it asks for and nothing else."""
    wanted = {name: EVERYTHING[name] for name in fields}
    alone = [sent(TaskRequest(**subject, **{name: wanted[name]})) for name in fields]

    together = dict(ChainMap(*alone, sent(TaskRequest(**subject))))

    assert sent(TaskRequest(**subject, **wanted)) == together
