"""What tasks become."""

import json
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import AdapterError, Grammar, JsonSchema, Message, Sampling, TaskRequest
from llama_orch_adapter_openai._wire import MODELS, VERSION, LengthKey, Model, Models, base_of, request_body

HI = (Message("user", "Hi"),)
STREAMED = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
CHAT = {**STREAMED, "messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("task", "key", "body"),
    [
        (TaskRequest(prompt="Hi"), "max_tokens", {**STREAMED, "prompt": "Hi"}),
        (
            TaskRequest(prompt="Hi", max_tokens=3),
            "max_completion_tokens",
            {**STREAMED, "prompt": "Hi", "max_tokens": 3},
        ),
        (TaskRequest(messages=HI, max_tokens=3), "max_tokens", {**CHAT, "max_tokens": 3}),
        (TaskRequest(messages=HI, max_tokens=3), "max_completion_tokens", {**CHAT, "max_completion_tokens": 3}),
        (TaskRequest(messages=HI), "max_completion_tokens", CHAT),
        (
            TaskRequest(messages=HI, seed=1, extra={"seed": 2, "user": "x"}),
            "max_tokens",
            {**CHAT, "seed": 2, "user": "x"},
        ),
        (
            TaskRequest(messages=HI, response_format=JsonSchema({}), sampling=Sampling(temperature=0, stop=("x",))),
            "max_tokens",
            {**CHAT, "response_format": {"type": "json_object"}, "temperature": 0, "stop": ["x"]},
        ),
    ],
)
def test_a_task_becomes_a_body(task: TaskRequest, key: LengthKey, body: dict[str, Any]):
    """Exactly what was asked for, in the dialect's words; in chats the bound's own word; `extra` speaks last."""
    assert json.loads(msgspec.json.encode(request_body(task, "m", key))) == body


@pytest.mark.parametrize(
    ("task", "words"),
    [
        (TaskRequest(prompt="Hi", response_format=Grammar("root ::= x")), "no word for a grammar"),
        (TaskRequest(prompt="Hi", sampling=Sampling(repeat_penalty=1.1)), "no word for repeat_penalty"),
    ],
)
def test_what_the_dialect_has_no_word_for(task: TaskRequest, words: str):
    """It is refused: an answer that is not what was asked for would be worse."""
    with pytest.raises(AdapterError, match=words) as caught:
        request_body(task, "m", "max_tokens")

    assert caught.value.detail == "unsupported"


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:1", "http://h:1"),
        ("http://h:1/", "http://h:1"),
        ("http://h:1/v1", "http://h:1"),
        ("http://h:1/v1/", "http://h:1"),
        ("http://h:1/openai/v1", "http://h:1/openai"),
        ("http://h:1/v1/gateway", "http://h:1/v1/gateway"),
        ("http://h:1/dev1", "http://h:1/dev1"),
    ],
)
def test_a_url_may_end_in_v1(url: str, base: str):
    """The dialect's own `/v1` is taken off, and nothing else."""
    assert base_of(url) == base


def test_the_only_model():
    """It is one model that is meant without a name; a server of several, or of none, has no such one."""
    names = [[], ["a"], ["a", "b"]]

    assert [Models(tuple(map(Model, some))).only for some in names] == ["", "a", ""]
    assert (Models(None).only, Models(None).context_of("a")) == ("", None)


@pytest.mark.parametrize(
    ("decoder", "body"),
    [(MODELS, {}), (MODELS, {"data": [{}]}), (MODELS, {"data": [{"id": "m", "max_model_len": -1}]}), (VERSION, {})],
    ids=str,
)
def test_nonsense_is_refused(decoder: msgspec.json.Decoder[object], body: object):
    """A list of models has names, and a context is a whole number."""
    with pytest.raises(msgspec.ValidationError):
        decoder.decode(json.dumps(body))
