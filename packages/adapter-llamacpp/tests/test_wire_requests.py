"""llama.cpp's own routes: the bodies that tasks become, and that the engine was seen to take."""

import json
from collections import ChainMap
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import (
    Grammar,
    JsonSchema,
    Message,
    Sampling,
    TaskRequest,
    Tool,
)
from llama_orch_adapter_llamacpp._wire import (
    chat_body,
    completion_body,
)
from llama_orch_adapter_testkit import captures

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
    "repeat_penalty": 1.1,
    "stop": ["END"],
}
PROMPT = {"prompt": "Hi", "stream": True}
HI = (Message("user", "Hi"),)
CHAT = {
    "messages": [{"role": "user", "content": "Hi"}],
    "stream": True,
    "stream_options": {"include_usage": True},
}
TOOLS = (Tool("f"), Tool("g", "Does g", {"type": "object"}))
F = {"type": "function", "function": {"name": "f", "description": "", "parameters": {}}}
G = {"type": "function", "function": {"name": "g", "description": "Does g", "parameters": {"type": "object"}}}
EVERYTHING: dict[str, Any] = {
    "model_ref": "m",
    "max_tokens": 9,
    "sampling": EVERY_KNOB,
    "seed": 7,
    "response_format": JsonSchema(SCHEMA),
    "kv_hint": "cold",
    "deadline_ms": 2500,
    "extra": {"n_keep": 1},
}


def sent(task: TaskRequest) -> dict[str, object]:
    """The body as the engine decodes it."""
    return msgspec.json.decode(
        msgspec.json.encode(chat_body(task) if task.messages else completion_body(task)), type=dict[str, object]
    )


@pytest.mark.parametrize(
    ("task", "body"),
    [
        (TaskRequest(prompt="Hi"), PROMPT),
        (
            TaskRequest(prompt="Hi", **EVERYTHING),
            {
                **PROMPT,
                **SAMPLED,
                "model": "m",
                "n_predict": 9,
                "seed": 7,
                "n_probs": 3,
                "logit_bias": [[42, -100.0]],
                "json_schema": SCHEMA,
                "cache_prompt": False,
                "t_max_predict_ms": 3500,
                "n_keep": 1,
            },
        ),
        (TaskRequest(prompt="Hi", sampling=Sampling(logprobs=0)), {**PROMPT, "n_probs": 1}),
        (TaskRequest(prompt="Hi", kv_hint="reuse"), {**PROMPT, "cache_prompt": True}),
        (TaskRequest(prompt="Hi", response_format=JsonSchema({})), {**PROMPT, "json_schema": {}}),
        (TaskRequest(prompt="Hi", response_format=Grammar("root ::= x")), {**PROMPT, "grammar": "root ::= x"}),
        (
            TaskRequest(prompt="Hi", seed=1, extra={"seed": 2, "stream": False}),
            {"prompt": "Hi", "stream": False, "seed": 2},
        ),
        (TaskRequest(prompt="Hi", deadline_ms=1, extra={"t_max_predict_ms": 7}), {**PROMPT, "t_max_predict_ms": 7}),
        (TaskRequest(messages=HI), CHAT),
        (
            TaskRequest(messages=HI, **EVERYTHING),
            {
                **CHAT,
                **SAMPLED,
                "model": "m",
                "max_tokens": 9,
                "seed": 7,
                "logprobs": True,
                "top_logprobs": 3,
                "logit_bias": {"42": -100.0},
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "answer", "schema": SCHEMA, "strict": True},
                },
                "cache_prompt": False,
                "t_max_predict_ms": 3500,
                "n_keep": 1,
            },
        ),
        (TaskRequest(messages=HI, sampling=Sampling(logprobs=0)), {**CHAT, "logprobs": True, "top_logprobs": 1}),
        (TaskRequest(messages=HI, response_format=Grammar("root ::= x")), {**CHAT, "grammar": "root ::= x"}),
        (TaskRequest(messages=HI, tools=TOOLS), {**CHAT, "tools": [F, G]}),
        (TaskRequest(messages=HI, tools=TOOLS, tool_choice="auto"), {**CHAT, "tools": [F, G], "tool_choice": "auto"}),
        (TaskRequest(messages=HI, tools=TOOLS, tool_choice="g"), {**CHAT, "tools": [G], "tool_choice": "required"}),
        (TaskRequest(messages=HI, max_tokens=1, extra={"max_tokens": 2}), {**CHAT, "max_tokens": 2}),
    ],
)
def test_a_task_becomes_a_body(task: TaskRequest, body: dict[str, object]):
    """Exactly what was asked for is sent, under the engine's own names; `extra` has the last word."""
    assert sent(task) == body


@pytest.mark.parametrize("subject", [{"prompt": "Hi"}, {"messages": HI}], ids=str)
@pytest.mark.parametrize("left", [1, 50, 2**53 - 1])
def test_the_engine_gets_what_is_left_of_the_deadline(subject: dict[str, Any], left: int):
    """Battery 24: both routes are told the rest of the deadline in ms, and a second more, for the host comes first."""
    assert sent(TaskRequest(deadline_ms=left, **subject))["t_max_predict_ms"] == left + 1000
    assert "t_max_predict_ms" not in sent(TaskRequest(**subject))


@pytest.mark.parametrize("name", ["completion_stream", "completion_stream_emoji", "n_predict_0"])
def test_a_body_is_what_the_engine_was_seen_to_take(name: str):
    """The captured request comes out of a task that asks for the same."""
    request = json.loads(captures.load("llamacpp", name).request.partition(b"\r\n\r\n")[2])
    wanted = {"max_tokens": request["n_predict"] or 1, "seed": request.get("seed")}

    body = sent(TaskRequest(prompt=request["prompt"], sampling=Sampling(temperature=0), **wanted))

    assert body == {**request, "n_predict": wanted["max_tokens"]}


@given(
    subject=st.sampled_from([{"prompt": "é😀"}, {"messages": HI}]), fields=st.sets(st.sampled_from(sorted(EVERYTHING)))
)
def test_fields_do_not_depend_on_each_other(subject: dict[str, Any], fields: set[str]):
    """Whatever a task leaves out, the body holds what the rest of it asks for and nothing else."""
    wanted = {name: EVERYTHING[name] for name in fields}
    alone = [sent(TaskRequest(**subject, **{name: wanted[name]})) for name in fields]

    together = dict(ChainMap(*alone, sent(TaskRequest(**subject))))

    assert sent(TaskRequest(**subject, **wanted)) == together
