"""A request is valid by construction: each rule, on construction, on `replace` and on decoding."""

import uuid
from typing import Any, NamedTuple

import msgspec
import pytest
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

CANARY = uuid.uuid4().hex
"""Stands in every prompt, message and input; no refusal may repeat it."""

SURROGATE = "\ud800"
NAN = float("nan")
WHOLE = "give a whole number from"
PRINTABLE = "give 1 to 256 printable characters"

TASK: dict[str, Any] = {"prompt": CANARY}
CHAT: dict[str, Any] = {"messages": (Message(role="user", content=CANARY),)}
EMBEDDING: dict[str, Any] = {"workload": "embedding", "inputs": (CANARY,)}
RERANK: dict[str, Any] = {"workload": "rerank", "inputs": (CANARY,), "query": CANARY}
MESSAGE: dict[str, Any] = {"role": "user", "content": CANARY}
TOOL = Tool(name="search")
CALL = ToolCall(id="1", name="search", arguments=CANARY)


class Rule(NamedTuple):
    """`wrong` in place of a valid value's fields is refused with this message."""

    kind: type[msgspec.Struct]
    valid: dict[str, Any]
    wrong: dict[str, Any]
    message: str


def choice(name: str, allowed: str) -> str:
    return f"{name} is 'x'; give one of: {allowed}"


RULES = [
    Rule(TaskRequest, TASK, {"task_id": "7"}, "task_id '7' is no lower-case UUID; leave it out and one is made"),
    Rule(
        TaskRequest,
        TASK,
        {"task_id": "6F9619FF-8B86-D011-B42D-00C04FC964FF"},
        "task_id '6F9619FF-8B86-D011-B42D-00C04FC964FF' is no lower-case UUID; leave it out and one is made",
    ),
    Rule(
        TaskRequest,
        TASK,
        {"prompt": None},
        "workload 'completion' takes prompt or messages, exactly one of them; given: none",
    ),
    Rule(
        TaskRequest,
        TASK,
        CHAT,
        "workload 'completion' takes prompt or messages, exactly one of them; given: prompt and messages",
    ),
    Rule(
        TaskRequest,
        TASK,
        {"inputs": (CANARY,)},
        "workload 'completion' takes prompt or messages, exactly one of them; given: prompt and inputs",
    ),
    Rule(
        TaskRequest,
        TASK,
        {"prompt": None, "inputs": (CANARY,)},
        "workload 'completion' takes prompt or messages, exactly one of them; given: inputs",
    ),
    Rule(
        TaskRequest,
        EMBEDDING,
        {"inputs": ()},
        "workload 'embedding' takes inputs, exactly one of them; given: none",
    ),
    Rule(
        TaskRequest,
        EMBEDDING,
        {"inputs": (), "prompt": CANARY},
        "workload 'embedding' takes inputs, exactly one of them; given: prompt",
    ),
    Rule(TaskRequest, TASK, {"prompt": ""}, "prompt is empty; give at least one character"),
    Rule(
        TaskRequest,
        RERANK,
        {"query": None},
        "query goes with workload 'rerank', which needs it; the workload is 'rerank' and query is missing",
    ),
    Rule(
        TaskRequest,
        EMBEDDING,
        {"query": CANARY},
        "query goes with workload 'rerank', which needs it; the workload is 'embedding' and query is given",
    ),
    *(
        Rule(TaskRequest, TASK, {name: value}, f"{name} is {value}; {WHOLE} {low} to {high}")
        for name, low, high in [
            ("max_tokens", 1, 2**53),
            ("seed", 0, 2**32 - 2),
            ("deadline_ms", 1, 2**53),
            ("expected_tokens", 0, 2**53),
            ("max_attempts", 1, 100),
        ]
        for value in (low - 1, high + 1)
    ),
    Rule(TaskRequest, TASK, {"determinism": "strict"}, "determinism is 'strict' but seed is missing; give a seed"),
    Rule(
        TaskRequest,
        TASK,
        {"tool_choice": "auto"},
        "tool_choice is given but tools is empty; give tools or leave tool_choice out",
    ),
    Rule(
        TaskRequest,
        {**CHAT, "tools": (TOOL,)},
        {"tool_choice": "find"},
        "tool_choice 'find' is none of these; give one of them: auto, none, required, search",
    ),
    *(
        Rule(TaskRequest, TASK, {name: wrong}, f"{name} is {shown}; {PRINTABLE}")
        for name in ("session_id", "model_ref", "replica_id", "correlation_id", "sampler_profile_version")
        for wrong, shown in [
            ("", "''"),
            ("a\nb", r"'a\nb'"),
            ("a\u202eb", r"'a\u202eb'"),
            ("y" * 257, "'" + "y" * 76 + "…"),
        ]
    ),
    *(
        Rule(
            TaskRequest,
            TASK,
            {"traceparent": wrong},
            f"traceparent '{wrong}' is not in the W3C form; give 00-<32 hex>-<16 hex>-<2 hex>",
        )
        for wrong in ("", "00-7", "00-" + "A" * 32 + "-" + "0" * 16 + "-01")
    ),
    *(
        Rule(Sampling, {}, {name: wrong}, f"sampling.{name} is {wrong}; give a number from {low} to {high}")
        for name, low, high in [
            ("temperature", 0, 100),
            ("top_p", 0, 1),
            ("min_p", 0, 1),
            ("presence_penalty", -2, 2),
            ("frequency_penalty", -2, 2),
            ("repeat_penalty", 0, 100),
        ]
        for wrong in (low - 0.5, high + 0.5)
    ),
    *(
        Rule(Sampling, {}, {name: wrong}, f"sampling.{name} is {wrong}; {WHOLE} 0 to {high}")
        for name, high in [("top_k", 2**53), ("logprobs", 100)]
        for wrong in (-1, high + 1)
    ),
    Rule(
        Sampling,
        {},
        {"stop": ("a", "")},
        "sampling.stop holds an empty string, which would stop at once; remove it",
    ),
    Rule(
        Sampling,
        {},
        {"logit_bias": {5: 100.5}},
        "sampling.logit_bias[5] is 100.5; give a number from -100 to 100",
    ),
    Rule(Sampling, {}, {"logit_bias": {-1: 1.0}}, f"a token of sampling.logit_bias is -1; {WHOLE} 0 to {2**53}"),
    Rule(
        Message,
        MESSAGE,
        {"content": None},
        "a message of role 'user' has neither content nor tool_calls; give one of them",
    ),
    Rule(Message, MESSAGE, {"name": "a\tb"}, rf"messages[].name is 'a\tb'; {PRINTABLE}"),
    Rule(Message, MESSAGE, {"tool_call_id": ""}, f"messages[].tool_call_id is ''; {PRINTABLE}"),
    Rule(Tool, {"name": "a"}, {"name": ""}, f"tools[].name is ''; {PRINTABLE}"),
    Rule(JsonSchema, {"schema": {}}, {"name": ""}, f"response_format.name is ''; {PRINTABLE}"),
]
"""Rules of ours, which hold on every way."""

UNTYPED = [
    Rule(TaskRequest, TASK, {"task_id": 7}, "task_id 7 is no lower-case UUID; leave it out and one is made"),
    Rule(TaskRequest, TASK, {"workload": "x"}, choice("workload", "'completion', 'embedding', 'rerank'")),
    Rule(TaskRequest, TASK, {"determinism": "x"}, choice("determinism", "'strict', 'best_effort'")),
    Rule(TaskRequest, TASK, {"priority": "x"}, choice("priority", "'interactive', 'batch'")),
    Rule(TaskRequest, TASK, {"kv_hint": "x"}, choice("kv_hint", "'reuse', 'cold', None")),
    Rule(TaskRequest, TASK, {"max_tokens": True}, f"max_tokens is True; {WHOLE} 1 to {2**53}"),
    Rule(TaskRequest, TASK, {"max_tokens": 1.5}, f"max_tokens is 1.5; {WHOLE} 1 to {2**53}"),
    Rule(TaskRequest, TASK, {"session_id": 7}, f"session_id is 7; {PRINTABLE}"),
    Rule(TaskRequest, TASK, {"prompt": 7}, "prompt is of type int; give str"),
    Rule(TaskRequest, {}, {"messages": CANARY}, "messages is of type str; give tuple or list"),
    Rule(TaskRequest, EMBEDDING, {"inputs": CANARY}, "inputs is of type str; give tuple or list"),
    Rule(TaskRequest, EMBEDDING, {"inputs": (7,)}, "inputs[] is of type int; give str"),
    Rule(TaskRequest, RERANK, {"query": 7}, "query is of type int; give str"),
    Rule(
        TaskRequest,
        TASK,
        {"response_format": {"type": "json_object"}},
        "response_format is of type dict; give JsonSchema or Grammar or NoneType",
    ),
    Rule(TaskRequest, TASK, {"traceparent": 7}, "traceparent is of type int; give str or NoneType"),
    Rule(TaskRequest, TASK, {"extra": (1,)}, "extra is of type tuple; give dict"),
    Rule(Sampling, {}, {"temperature": True}, "sampling.temperature is True; give a number from 0 to 100"),
    Rule(Sampling, {}, {"temperature": "1"}, "sampling.temperature is '1'; give a number from 0 to 100"),
    Rule(Sampling, {}, {"stop": "ab"}, "sampling.stop is of type str; give tuple or list"),
    Rule(Sampling, {}, {"stop": (7,)}, "sampling.stop[] is of type int; give str"),
    Rule(
        Message,
        MESSAGE,
        {"role": "x"},
        choice("messages[].role", "'system', 'developer', 'user', 'assistant', 'tool'"),
    ),
    Rule(Message, MESSAGE, {"content": (7,)}, "messages[].content[] is of type int; give TextPart or ImagePart"),
    Rule(Message, MESSAGE, {"content": 7}, "messages[].content is of type int; give tuple or list"),
    Rule(Message, MESSAGE, {"tool_calls": ({},)}, "messages[].tool_calls[] is of type dict; give ToolCall"),
    Rule(Tool, {"name": "a"}, {"parameters": []}, "tools[].parameters is of type list; give dict"),
    Rule(JsonSchema, {"schema": {}}, {"schema": True}, "response_format.schema is of type bool; give dict"),
]
"""Wrong types and choices: a decoder refuses them by itself, we refuse them on the other ways."""


def utf8(name: str, place: int = 32) -> str:
    return f"{name} holds a character at {place} that UTF-8 cannot carry; decode the input as UTF-8"


def plain(name: str, error: str) -> str:
    return f"{name} cannot be written as JSON ({error}); give plain values"


UNSENDABLE = [
    Rule(TaskRequest, {}, {"messages": (MESSAGE,)}, "messages[] is of type dict; give Message"),
    Rule(TaskRequest, TASK, {"sampling": {"top_k": 1}}, "sampling is of type dict; give Sampling"),
    Rule(TaskRequest, TASK, {"tools": ({"name": "a"},)}, "tools[] is of type dict; give Tool"),
    Rule(Sampling, {}, {"temperature": NAN}, "sampling.temperature is nan; give a number from 0 to 100"),
    Rule(Sampling, {}, {"logit_bias": {5: NAN}}, "sampling.logit_bias[5] is nan; give a number from -100 to 100"),
    Rule(TaskRequest, TASK, {"prompt": CANARY + SURROGATE}, utf8("prompt")),
    Rule(TaskRequest, EMBEDDING, {"inputs": (CANARY + SURROGATE,)}, utf8("inputs[]")),
    Rule(TaskRequest, RERANK, {"query": CANARY + SURROGATE}, utf8("query")),
    Rule(TaskRequest, TASK, {"session_id": SURROGATE}, rf"session_id is '\ud800'; {PRINTABLE}"),
    Rule(TaskRequest, TASK, {"extra": {"a": object()}}, plain("extra", "TypeError")),
    Rule(TaskRequest, TASK, {"extra": {CANARY: SURROGATE}}, plain("extra", "UnicodeEncodeError")),
    Rule(Message, MESSAGE, {"content": CANARY + SURROGATE}, utf8("messages[].content")),
    Rule(Message, MESSAGE, {"content": (TextPart(CANARY + SURROGATE),)}, utf8("messages[].content")),
    Rule(Message, MESSAGE, {"content": (ImagePart(CANARY + SURROGATE),)}, utf8("messages[].content")),
    Rule(
        Message,
        MESSAGE,
        {"tool_calls": (ToolCall(id="1", name="a", arguments=SURROGATE),)},
        plain("messages[].tool_calls", "UnicodeEncodeError"),
    ),
    Rule(Sampling, {}, {"stop": (SURROGATE,)}, utf8("sampling.stop", 0)),
    Rule(Tool, {"name": "a"}, {"description": SURROGATE}, plain("tools[]", "UnicodeEncodeError")),
    Rule(
        JsonSchema,
        {"schema": {}},
        {"schema": {"enum": [SURROGATE]}},
        plain("response_format.schema", "UnicodeEncodeError"),
    ),
    Rule(Grammar, {"grammar": ""}, {"grammar": SURROGATE}, utf8("response_format.grammar", 0)),
    Rule(TaskRequest, TASK, {"seed": 10**5000}, f"seed is a very large int; {WHOLE} 0 to {2**32 - 2}"),
]
"""What no decoder meets: JSON cannot hold it, or says a Struct that way."""


def name_of(rule: Rule) -> str:
    return f"{rule.kind.__name__}-{'-'.join(rule.wrong)}"


every_rule = pytest.mark.parametrize("rule", [*RULES, *UNTYPED, *UNSENDABLE], ids=name_of)


@every_rule
def test_refused_on_construction(rule: Rule) -> None:
    """A wrong field is refused with its name, its value and the mend, and without the prompt."""
    with pytest.raises(ValueError, match=r".") as caught:
        rule.kind(**{**rule.valid, **rule.wrong})

    assert str(caught.value) == rule.message
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "rule", [r for r in [*RULES, *UNTYPED, *UNSENDABLE] if r.valid or r.kind is Sampling], ids=name_of
)
def test_refused_on_replace(rule: Rule) -> None:
    """A valid value does not become a wrong one by `replace`."""
    valid = rule.kind(**rule.valid)

    with pytest.raises(ValueError, match=r".") as caught:
        msgspec.structs.replace(valid, **rule.wrong)

    assert str(caught.value) == rule.message


@pytest.mark.parametrize("rule", RULES, ids=name_of)
def test_refused_on_decoding(rule: Rule) -> None:
    """What is refused on construction is refused on decoding, with the same words."""
    wire = msgspec.json.encode({**rule.valid, **rule.wrong})

    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(wire, type=rule.kind)

    assert str(caught.value) == rule.message


@pytest.mark.parametrize("rule", UNTYPED, ids=name_of)
def test_untyped_refused_on_decoding(rule: Rule) -> None:
    """What is of the wrong type or choice does not get through the decoder, whose message has no prompt either."""
    wire = msgspec.json.encode({**rule.valid, **rule.wrong})

    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(wire, type=rule.kind)

    assert f"$.{next(iter(rule.wrong))}" in str(caught.value)
    assert CANARY not in str(caught.value)


def test_decoding_names_the_place() -> None:
    """A refusal deep in a document names its JSON path."""
    wire = {"messages": [{"role": "user", "content": "a"}, {"role": "user"}], "sampling": {}}

    with pytest.raises(msgspec.ValidationError, match=r"give one of them - at `\$\.messages\[1\]`$"):
        msgspec.convert(wire, TaskRequest)


@pytest.mark.parametrize("wrong", [{"prmpt": "a"}, {"sampling": {"temprature": 1}}], ids=["field", "knob"])
def test_unknown_fields_are_refused(wrong: dict[str, Any]) -> None:
    """A misspelt field or knob is refused by its name, never passed over."""
    with pytest.raises(msgspec.ValidationError, match=r"unknown field `(prmpt|temprature)`"):
        msgspec.convert({"prompt": "a", **wrong}, TaskRequest)


def test_extra_refuses_cycles() -> None:
    """An `extra` that holds itself is refused, not recursed into for ever."""
    extra: dict[str, Any] = {}
    extra["self"] = extra

    with pytest.raises(ValueError, match=r"^extra cannot be written as JSON \(RecursionError\); give plain values$"):
        TaskRequest(prompt="a", extra=extra)


@pytest.mark.parametrize(
    "given",
    [
        {"max_tokens": 1, "seed": 0, "deadline_ms": 1, "expected_tokens": 0, "max_attempts": 1},
        {"max_tokens": 2**53, "seed": 2**32 - 2, "deadline_ms": 2**53, "expected_tokens": 2**53, "max_attempts": 100},
        {"sampling": Sampling(temperature=0, top_p=0, top_k=0, min_p=0, presence_penalty=-2, logprobs=0)},
        {"sampling": Sampling(temperature=100, top_p=1, top_k=2**53, min_p=1, frequency_penalty=2, logprobs=100)},
        {"sampling": Sampling(logit_bias={0: -100, 2**53: 100}, stop=("a",), repeat_penalty=100)},
        {"session_id": "s" * 256, "model_ref": "é 🦙"},
        {"determinism": "strict", "seed": 7},
    ],
)
def test_bounds_are_included(given: dict[str, Any]) -> None:
    """The smallest and the largest allowed values are allowed."""
    task = TaskRequest(**TASK, **given)

    assert {name: getattr(task, name) for name in given} == given


@pytest.mark.parametrize("subject", [TASK, CHAT, EMBEDDING, RERANK], ids=["prompt", "messages", "inputs", "rerank"])
def test_each_subject(subject: dict[str, Any]) -> None:
    """Each workload takes its own subject, and lists serve where tuples are asked for."""
    as_lists: dict[str, Any] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in subject.items()
    }

    assert TaskRequest(**subject)
    assert TaskRequest(**as_lists)


@pytest.mark.parametrize("chosen", ["auto", "none", "required", "search"])
def test_tool_choices(chosen: str) -> None:
    """A tool choice is one of three words or the name of a given tool."""
    task = TaskRequest(**CHAT, tools=(TOOL,), tool_choice=chosen)

    assert task.tool_choice == chosen


def test_content_may_be_missing_beside_tool_calls() -> None:
    """An assistant's turn may consist of tool calls alone."""
    message = Message(role="assistant", tool_calls=(CALL,))

    assert message.content is None


def test_task_ids_are_fresh() -> None:
    """A request without an id gets a random one; two requests never share it."""
    first, second = TaskRequest(prompt="a"), TaskRequest(prompt="a")

    assert first.task_id != second.task_id
    assert str(uuid.UUID(first.task_id)) == first.task_id


def test_replace_keeps_the_id() -> None:
    """A changed request is still the same task."""
    task = TaskRequest(prompt="a")

    assert msgspec.structs.replace(task, max_tokens=5).task_id == task.task_id


def test_frozen() -> None:
    """A request cannot be changed, so what was checked stays so."""
    task = TaskRequest(prompt="a")

    with pytest.raises(AttributeError):
        task.prompt = ""  # type: ignore[misc]


def test_defaults_stay_off_the_wire() -> None:
    """Only what was given is encoded, and the id."""
    task = TaskRequest(prompt="a")

    assert msgspec.json.encode(task) == msgspec.json.encode({"task_id": task.task_id, "prompt": "a"})
