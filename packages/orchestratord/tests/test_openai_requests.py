"""What clients of OpenAI's API send, as tasks."""

from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import ImagePart, JsonSchema, Message, Sampling, TextPart, Tool, ToolCall
from llama_orch_orchestratord._openai_requests import Asked, BadRequest, read_chat, read_completion
from llama_orch_orchestratord._openai_wire import ChatRequest

HELLO = [{"role": "user", "content": "hello"}]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


def chat(**facts: Any) -> Asked:
    return read_chat(msgspec.json.encode({"model": "chat", "messages": HELLO, **facts}), "c-1")


def completion(**facts: Any) -> Asked:
    return read_completion(msgspec.json.encode({"model": "chat", "prompt": "p", **facts}), "c-1")


def test_a_chat_is_a_task_of_its_pool() -> None:
    """The model names the pool, and the engine's own defaults hold for all that is not said."""
    asked = chat()

    assert (asked.pool_id, asked.stream, asked.include_usage, asked.logprobs) == ("chat", False, False, False)
    assert asked.task.messages == (Message("user", "hello"),)
    assert (asked.task.sampling, asked.task.max_tokens, asked.task.priority) == (Sampling(), None, "interactive")
    assert asked.task.correlation_id == "c-1"


def test_messages_are_the_boundarys() -> None:
    """Roles, parts, names and tool calls are taken over; what else a message has is passed over."""
    asked = chat(
        messages=[
            {"role": "developer", "content": "d", "name": "n"},
            {
                "role": "user",
                "content": [{"type": "text", "text": "t"}, {"type": "image_url", "image_url": {"url": "u"}}],
            },
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
            {"role": "tool", "tool_call_id": "1", "content": "r"},
        ]
    )

    assert asked.task.messages == (
        Message("developer", "d", name="n"),
        Message("user", (TextPart("t"), ImagePart("u"))),
        Message("assistant", tool_calls=(ToolCall("1", "f", "{}"),)),
        Message("tool", "r", tool_call_id="1"),
    )


def test_every_knob_reaches_the_task() -> None:
    """What OpenAI has, and what engines have besides."""
    knobs = {
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 3,
        "min_p": 0.125,
        "presence_penalty": 1.0,
        "frequency_penalty": -1.0,
        "repeat_penalty": 1.5,
    }
    asked = completion(**knobs, stop="END", logit_bias={"7": -1}, logprobs=0, seed=5, max_tokens=9, extra={"a": 1})

    assert asked.task.sampling == Sampling(**knobs, stop=("END",), logit_bias={7: -1.0}, logprobs=0)
    assert (asked.task.prompt, asked.task.seed, asked.task.max_tokens, asked.task.extra) == ("p", 5, 9, {"a": 1})
    assert asked.logprobs


def test_null_is_as_if_left_out() -> None:
    """Clients send null for what they do not want."""
    unset = dict.fromkeys(set(ChatRequest.__struct_fields__) - {"model", "messages"})

    assert _alike(chat(**unset), chat())


def test_what_changes_nothing_is_passed_over() -> None:
    """Among it the defaults of what cannot be had otherwise."""
    spare = {
        "user": "u",
        "safety_identifier": "s",
        "metadata": {"a": "b"},
        "store": True,
        "service_tier": "auto",
        "prompt_cache_retention": "24h",
        "prediction": {"type": "content", "content": "x"},
        "n": 1,
        "modalities": ["text"],
        "top_logprobs": 0,
        "response_format": {"type": "text"},
        "tool_choice": "auto",
    }

    assert _alike(chat(**spare), chat())
    assert _alike(completion(echo=False, best_of=1, suffix=""), completion())


def test_a_flexible_task_waits_behind_the_others() -> None:
    """`service_tier` "flex" is the boundary's batch, and `prompt_cache_key` its session."""
    asked = chat(service_tier="flex", prompt_cache_key="k")

    assert (asked.task.priority, asked.task.session_id) == ("batch", "k")


def test_what_engines_know_is_handed_on() -> None:
    """Three parameters of a chat reach the engine's body; `extra` goes over them."""
    asked = chat(
        parallel_tool_calls=False,
        reasoning_effort="low",
        chat_template_kwargs={"a": 1},
        extra={"reasoning_effort": "high"},
    )

    assert asked.task.extra == {
        "parallel_tool_calls": False,
        "reasoning_effort": "high",
        "chat_template_kwargs": {"a": 1},
    }


@pytest.mark.parametrize(
    ("sent", "tools", "choice"),
    [
        ("auto", TOOLS, "auto"),
        ("none", TOOLS, "none"),
        ("required", TOOLS, "required"),
        ({"type": "function", "function": {"name": "f"}}, TOOLS, "f"),
        ("auto", [], None),
        ("none", [], None),
    ],
    ids=["auto", "none", "required", "named", "auto of none", "none of none"],
)
def test_tools_and_their_choice(sent: Any, tools: Any, choice: str | None) -> None:
    """A choice is the boundary's; where there is nothing to choose, none is made."""
    asked = chat(tools=tools, tool_choice=sent)

    assert asked.task.tools == ((Tool("f"),) if tools else ())
    assert asked.task.tool_choice == choice


@pytest.mark.parametrize(
    ("sent", "wanted"),
    [
        ({"type": "json_object"}, JsonSchema({})),
        ({"type": "json_schema", "json_schema": {"name": "n", "schema": {"a": 1}}}, JsonSchema({"a": 1}, "n")),
        ({"type": "json_schema", "json_schema": {"name": "n", "strict": True}}, JsonSchema({}, "n")),
    ],
    ids=["object", "schema", "no schema"],
)
def test_the_format_of_the_answer(sent: Any, wanted: JsonSchema) -> None:
    """Any object, or one that fits a schema."""
    assert chat(response_format=sent).task.response_format == wanted


def test_one_length_has_two_names() -> None:
    """The newer one alone, the older one alone, or both where they agree."""
    lengths = [{"max_tokens": 5}, {"max_completion_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 5}]

    assert [chat(**length).task.max_tokens for length in lengths] == [5, 5, 5]


@pytest.mark.parametrize(
    ("param", "facts"),
    [
        ("model", {"model": 3}),
        ("messages", {"messages": []}),
        ("messages[0].role", {"messages": [{"role": "function", "content": "x"}]}),
        ("messages[0].content[0].type", {"messages": [{"role": "user", "content": [{"type": "file"}]}]}),
        ("messages[1]", {"messages": [*HELLO, {"role": "assistant"}]}),
        ("n", {"n": 2}),
        ("max_completion_tokens", {"max_tokens": 1, "max_completion_tokens": 2}),
        ("max_tokens", {"max_completion_tokens": 0}),
        ("temperature", {"temperature": "hot"}),
        ("top_p", {"top_p": 2}),
        ("seed", {"seed": 2**64}),
        ("stop", {"stop": ["a", ""]}),
        ("logit_bias", {"logit_bias": {"x": 1}}),
        ("logit_bias[7]", {"logit_bias": {"7": 101}}),
        ("top_logprobs", {"logprobs": True, "top_logprobs": 1}),
        ("modalities", {"modalities": ["text", "audio"]}),
        ("tools[0].type", {"tools": [{"type": "custom"}]}),
        ("tools", {"tools": [{"type": "function", "function": {"name": ""}}]}),
        ("tool_choice", {"tool_choice": "required"}),
        ("tool_choice", {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "g"}}}),
        ("tool_choice", {"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "auto"}}}),
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": ""}}}),
        ("response_format.type", {"response_format": {"type": "grammar"}}),
        ("prompt_cache_key", {"prompt_cache_key": "k" * 300}),
        ("service_tier", {"service_tier": "none"}),
        ("functions", {"functions": []}),
        ("verbosity", {"verbosity": "low"}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_bad_chat_is_refused_by_name(param: str, facts: Any) -> None:
    """The refusal names the field."""
    with pytest.raises(BadRequest) as caught:
        chat(**facts)

    assert (caught.value.status, caught.value.param) == (400, param)
    assert param.split("[", maxsplit=1)[0].split(".", maxsplit=1)[0].removesuffix("s") in caught.value.error.message


@pytest.mark.parametrize(
    ("param", "facts"),
    [
        ("prompt", {"prompt": ""}),
        ("prompt", {"prompt": [1, 2]}),
        ("prompt", {"prompt": ["a", "b"]}),
        ("logprobs", {"logprobs": 2}),
        ("echo", {"echo": True}),
        ("best_of", {"best_of": 2}),
        ("suffix", {"suffix": "x"}),
        ("tools", {"tools": []}),
    ],
    ids=["empty", "tokens", "many", "logprobs", "echo", "best_of", "suffix", "unknown"],
)
def test_a_bad_prompt_is_refused_by_name(param: str, facts: Any) -> None:
    """As that of a chat."""
    with pytest.raises(BadRequest) as caught:
        completion(**facts)

    assert caught.value.param == param


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"prompt": "\xff"}', b"[" * 100_000], ids=["nothing", "list", "cut", "latin", "deep"]
)
def test_nonsense_is_refused(body: bytes) -> None:
    """What is no JSON object is told as such, and names no field."""
    with pytest.raises(BadRequest, match="the body") as caught:
        read_completion(body, "c-1")

    assert caught.value.param is None


def test_what_is_missing_is_named() -> None:
    """A field that has to be there."""
    with pytest.raises(BadRequest) as caught:
        read_chat(b'{"model": "chat"}', "c-1")

    assert caught.value.param == "messages"


def _alike(one: Asked, other: Asked) -> bool:
    """Whether two requests come to the same, but for the ids of their tasks."""
    task = msgspec.structs.replace(one.task, task_id=other.task.task_id)
    return msgspec.structs.replace(one, task=task) == other


@pytest.mark.parametrize(
    ("field", "param"),
    [
        ('"temperature": 1e999', "temperature"),
        ('"logit_bias": {"5": 1e999}', "logit_bias"),
        ('"extra": {"deep": [1e999]}', "extra"),
        ('"metadata": {"a": 1e999}', None),
    ],
)
def test_a_number_that_no_float_holds_has_its_field(field: str, param: str | None) -> None:
    """It is found while the JSON is read, and named nevertheless, unless it stands in what is passed over."""
    with pytest.raises(BadRequest) as caught:
        read_chat(f'{{"model": "chat", "messages": [], {field}}}'.encode(), "c-1")

    assert caught.value.param == param
    assert "Number out of range; give one that a 64-bit number holds" in caught.value.error.message


def test_a_choice_is_refused_with_what_it_may_be() -> None:
    """Roles, types of parts and words of a parameter."""
    for facts, told in (
        (
            {"messages": [{"role": "function"}]},
            "messages[0].role: Invalid enum value 'function'; give one of: assistant,",
        ),
        ({"response_format": {"type": "grammar"}}, "; give one of: text, json_object, json_schema"),
        ({"service_tier": "fast"}, "; give one of: auto, default, flex, priority, scale"),
    ):
        with pytest.raises(BadRequest) as caught:
            chat(**facts)

        assert told in caught.value.error.message
