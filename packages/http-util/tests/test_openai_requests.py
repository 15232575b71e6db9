"""The dialect's requests: what a task becomes, and that engines were seen to take it."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import (
    Grammar,
    ImagePart,
    JsonSchema,
    Message,
    Sampling,
    TaskRequest,
    TextPart,
    Tool,
    ToolCall,
)
from llama_orch_adapter_testkit import captures
from llama_orch_http_util.openai import CHAT, COMPLETIONS, body_of, path_of

FUNCTION = {"name": "weather", "description": "Says it", "parameters": {"type": "object"}}
TOOL = Tool("weather", "Says it", {"type": "object"})
EVERY_KNOB = Sampling(
    temperature=0.5,
    top_p=0.9,
    top_k=40,
    min_p=0.05,
    presence_penalty=0.1,
    frequency_penalty=-0.2,
    repeat_penalty=1.1,
    stop=("END", "\n\n"),
    logit_bias={42: -100.0, 7: 1.5},
    logprobs=3,
)
SAMPLED = {
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 40,
    "min_p": 0.05,
    "presence_penalty": 0.1,
    "frequency_penalty": -0.2,
    "stop": ["END", "\n\n"],
    "logit_bias": {"42": -100.0, "7": 1.5},
}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}
TURNS = (
    Message("system", "Be brief."),
    Message("user", (TextPart("What is this?"), ImagePart("data:image/png;base64,AA==")), name="ann"),
    Message("assistant", tool_calls=(ToolCall("a", "weather", '{"city":"Paris"}'),)),
    Message("tool", "sunny", tool_call_id="a"),
)
TURNS_SENT = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "name": "ann",
        "content": [
            {"type": "text", "text": "What is this?"},
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
        ],
    },
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Paris"}'}}
        ],
    },
    {"role": "tool", "content": "sunny", "tool_call_id": "a"},
]
HI = (Message("user", "Hi"),)
HI_SENT = {**STREAMED, "messages": [{"role": "user", "content": "Hi"}]}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


def sent(task: TaskRequest, model: str | None = None) -> object:
    """The body as the engine decodes it."""
    return json.loads(msgspec.json.encode(body_of(task, model)))


@pytest.mark.parametrize(
    ("task", "model", "body"),
    [
        (TaskRequest(prompt="Hi"), None, {**STREAMED, "prompt": "Hi"}),
        (TaskRequest(messages=HI), "m", {**HI_SENT, "model": "m"}),
        (
            TaskRequest(prompt="Hi", max_tokens=9, seed=0, sampling=EVERY_KNOB),
            "m",
            {**STREAMED, **SAMPLED, "prompt": "Hi", "model": "m", "max_tokens": 9, "seed": 0, "logprobs": 3},
        ),
        (
            TaskRequest(
                messages=TURNS, max_tokens=9, seed=1, sampling=EVERY_KNOB, tools=(TOOL,), tool_choice="weather"
            ),
            "m",
            {
                **STREAMED,
                **SAMPLED,
                "messages": TURNS_SENT,
                "model": "m",
                "max_tokens": 9,
                "seed": 1,
                "logprobs": True,
                "top_logprobs": 3,
                "tools": [{"type": "function", "function": FUNCTION}],
                "tool_choice": {"type": "function", "function": {"name": "weather"}},
            },
        ),
        (
            TaskRequest(messages=HI, tools=(TOOL,), tool_choice="required"),
            None,
            {**HI_SENT, "tools": [{"type": "function", "function": FUNCTION}], "tool_choice": "required"},
        ),
        (
            TaskRequest(messages=HI, response_format=JsonSchema(SCHEMA, name="sum")),
            None,
            {
                **HI_SENT,
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "sum", "schema": SCHEMA, "strict": True},
                },
            },
        ),
        (
            TaskRequest(messages=HI, response_format=JsonSchema({})),
            None,
            {**HI_SENT, "response_format": {"type": "json_object"}},
        ),
        (TaskRequest(messages=HI, response_format=Grammar("root ::= x")), None, HI_SENT),
        (
            TaskRequest(messages=HI, sampling=Sampling(temperature=0, logit_bias={})),
            None,
            {**HI_SENT, "temperature": 0},
        ),
        (
            TaskRequest(messages=HI, sampling=Sampling(logprobs=0)),
            None,
            {**HI_SENT, "logprobs": True, "top_logprobs": 0},
        ),
        (TaskRequest(prompt="Hi", sampling=Sampling(logprobs=0)), None, {**STREAMED, "prompt": "Hi", "logprobs": 0}),
        (
            TaskRequest(
                prompt="Hi", kv_hint="cold", priority="batch", deadline_ms=5, session_id="s", expected_tokens=3
            ),
            None,
            {**STREAMED, "prompt": "Hi"},
        ),
    ],
)
def test_a_task_becomes_a_body(task: TaskRequest, model: str | None, body: dict[str, object]):
    """Exactly what was asked for is sent, under the names both engines know; what is the host's own is not."""
    assert sent(task, model) == body


@pytest.mark.parametrize(
    ("engine", "name"), [(e, n) for e in ("llamacpp", "vllm") for n in ("v1_chat", "v1_completions")]
)
def test_a_body_is_what_the_engine_was_seen_to_take(engine: str, name: str):
    """The captured request of each route comes out of a task that asks for the same."""
    one = captures.load(engine, f"{name}_stream")
    request = json.loads(one.request.partition(b"\r\n\r\n")[2])
    subject: dict[str, Any] = {"messages": HI} if name == "v1_chat" else {"prompt": request["prompt"]}
    if name == "v1_chat":
        subject = {"messages": (Message("user", request["messages"][0]["content"]),)}
    task = TaskRequest(**subject, max_tokens=request["max_tokens"], seed=1, sampling=Sampling(temperature=0))

    assert sent(task, "smollm2") == request


@pytest.mark.parametrize(("task", "path"), [(TaskRequest(prompt="a"), COMPLETIONS), (TaskRequest(messages=HI), CHAT)])
def test_the_route_follows_from_the_subject(task: TaskRequest, path: str):
    """Messages go to the chat route, a prompt to the other."""
    assert path_of(task) == path


WORDS = st.text(max_size=4)
NAMES = st.text(st.characters(categories=["L", "N", "P"]), min_size=1, max_size=4)
JSON_OBJECTS = st.dictionaries(WORDS, st.none() | st.integers(-9, 2**53) | WORDS | st.lists(st.floats(0), max_size=1))
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.none() | st.floats(0, 100),
    top_p=st.none() | st.floats(0, 1),
    top_k=st.none() | st.integers(0, 2**53),
    presence_penalty=st.none() | st.floats(-2, 2),
    stop=st.lists(st.text(min_size=1, max_size=4), max_size=2).map(tuple),
    logit_bias=st.none() | st.dictionaries(st.integers(0, 2**53), st.floats(-100, 100), max_size=2),
    logprobs=st.none() | st.integers(0, 100),
)
PARTS = st.builds(TextPart, WORDS) | st.builds(ImagePart, WORDS)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["system", "developer", "user", "assistant", "tool"]),
    content=WORDS | st.lists(PARTS, max_size=2).map(tuple),
    name=st.none() | NAMES,
    tool_calls=st.lists(st.builds(ToolCall, WORDS, WORDS, WORDS), max_size=1).map(tuple),
)
TASKS = st.builds(
    lambda subject, more: TaskRequest(**subject, **more),
    st.builds(dict, prompt=st.text(min_size=1, max_size=9))
    | st.builds(dict, messages=st.lists(MESSAGES, min_size=1, max_size=2).map(tuple)),
    st.fixed_dictionaries(
        {},
        optional={
            "sampling": SAMPLINGS,
            "seed": st.integers(0, 2**32 - 2),
            "max_tokens": st.integers(1, 2**53),
            "response_format": st.builds(JsonSchema, JSON_OBJECTS, NAMES) | st.builds(Grammar, WORDS),
            "tools": st.lists(st.builds(Tool, NAMES, WORDS, JSON_OBJECTS), max_size=2).map(tuple),
        },
    ),
)


@given(TASKS)
def test_any_task_has_a_body(task: TaskRequest):
    """Whatever a valid task holds, its body is JSON that asks for a stream, and what was not asked for is not sent."""
    body: Any = sent(task, "m")

    assert body["stream"] is True
    assert (body.get("seed"), body.get("max_tokens")) == (task.seed, task.max_tokens)
    assert ("prompt" in body, "messages" in body) == (task.prompt is not None, bool(task.messages))
    assert len(body.get("tools", [])) == len(task.tools)
    assert None not in body.values()


def test_extra_is_the_adapters_business():
    """What an engine's own fields override is for its adapter to say."""
    assert sent(TaskRequest(prompt="Hi", extra={"prompt": "Ho", "x": 1})) == {**STREAMED, "prompt": "Hi"}
