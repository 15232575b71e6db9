"""llama.cpp's own routes: the captured bodies, and the bodies that tasks become."""

import json
from collections import ChainMap
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import (
    AdapterError,
    Capabilities,
    End,
    Grammar,
    InternalError,
    JsonSchema,
    Message,
    Sampling,
    TaskRequest,
    Token,
    Tool,
    WorkerError,
    WorkerProps,
)
from llama_orch_adapter_llamacpp._wire import (
    EVENT,
    PROPS,
    SLOTS,
    Modalities,
    NativeAnswer,
    Props,
    Slot,
    TemplateCaps,
    chat_body,
    completion_body,
    worker_props,
)
from llama_orch_adapter_testkit import captures

WHERE = "engine:8080"
NOW = datetime(2026, 11, 23, tzinfo=UTC)
FEATURES = ("chat", "grammar", "json_schema", "logprobs", "seed")


def native(*events: dict[str, Any] | bytes) -> tuple[list[Token], NativeAnswer]:
    """The tokens of `/completion` events, and the answer that made them."""
    answer = NativeAnswer(WHERE)
    raw = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return [token for event in raw for token in answer.take(EVENT.decode(event))], answer


# What the engine sends


def test_props_of_the_captured_engine():
    """`/props` and `/slots` become exact capacity and capabilities."""
    props = PROPS.decode(captures.load("llamacpp", "get_props").body)
    slots = SLOTS.decode(captures.load("llamacpp", "get_slots_idle").body)

    assert worker_props(props, slots, NOW) == WorkerProps(
        slots_total=2,
        slots_free=2,
        capabilities=Capabilities(
            engine="llamacpp",
            engine_version="b0-unknown",
            model_id="smollm2",
            observed_at=NOW,
            ctx_max=2048,
            batching=True,
            slots=2,
            features=FEATURES,
        ),
    )


@pytest.mark.parametrize(
    ("name", "free"),
    [("get_slots_idle", 2), ("get_slots_after", 2), ("get_slots_busy", 0), ("fail_on_no_slot_idle", 2)],
)
def test_free_slots_are_those_that_do_not_work(name: str, free: int):
    """Every captured answer of `/slots` is understood, and its idle slots are counted."""
    slots = SLOTS.decode(captures.load("llamacpp", name).body)

    assert len(slots) == 2
    assert worker_props(Props(2, "b1"), slots, NOW).slots_free == free


@pytest.mark.parametrize(
    ("alias", "path", "model_id"),
    [
        ("tiny", "/models/a.gguf", "tiny"),
        ("", "/models/a.gguf", "a.gguf"),
        ("", "C:\\models\\a.gguf", "a.gguf"),
        ("", "a.gguf", "a.gguf"),
        ("", "", "unknown"),
    ],
)
def test_a_model_is_named_without_its_folder(alias: str, path: str, model_id: str):
    """The alias names the model, else its file's name: folders are nobody's business."""
    props = Props(1, "b1", model_alias=alias, model_path=path)

    assert worker_props(props, None, NOW).capabilities.model_id == model_id


@pytest.mark.parametrize(
    ("modalities", "template", "more"),
    [
        (Modalities(), TemplateCaps(supports_tools=True), ("tools",)),
        (Modalities(), TemplateCaps(supports_tool_calls=True), ("tools",)),
        (Modalities(vision=True, audio=True), TemplateCaps(), ("vision", "audio")),
    ],
    ids=str,
)
def test_features_follow_from_model_and_template(modalities: Modalities, template: TemplateCaps, more: tuple[str, ...]):
    """What only some models can do is listed where this one can."""
    props = Props(1, "b1", modalities=modalities, chat_template_caps=template)

    assert worker_props(props, None, NOW).capabilities.features == FEATURES + more


@pytest.mark.parametrize(("slots", "ctx_max"), [(None, 2048), ([], 2048), ([Slot(False, 512)], 512)], ids=str)
def test_the_context_is_that_of_a_slot(slots: list[Slot] | None, ctx_max: int):
    """`/slots` tells the context of one slot; without it, the defaults do."""
    props = PROPS.decode(captures.load("llamacpp", "get_props").body)

    assert worker_props(props, slots, NOW).capabilities.ctx_max == ctx_max


def test_without_slots_nobody_knows_how_many_are_free():
    """An engine without `/slots` has a number of slots, and no number of free ones."""
    props = worker_props(Props(4, "b1"), None, NOW)

    assert (props.slots_total, props.slots_free) == (4, None)


def test_a_whole_answer_is_an_event_as_well():
    """What `/completion` answers to a request that does not stream is understood by the same type."""
    tokens, answer = native(captures.load("llamacpp", "completion_nostream").body)

    assert tokens == [Token(" Paris.\n\nThe United", 0)]
    assert (answer.end().tokens_in, answer.end().tokens_out, answer.end().cached_tokens) == (5, 6, 4)


def test_an_event_may_be_several_tokens():
    """The engine holds back incomplete characters, so its count is the number of tokens, not that of events."""
    tokens, answer = native(
        {"content": "😃", "tokens_predicted": 3},
        {"content": "", "stop": True, "stop_type": "limit", "tokens_evaluated": 24, "tokens_predicted": 4},
    )

    assert tokens == [Token("😃", 0)]
    assert answer.end() == End(24, 4, "length")


@pytest.mark.parametrize(
    ("said", "meant"), [("limit", "length"), ("eos", "stop"), ("word", "stop"), ("none", "stop"), ("", "stop")]
)
def test_stop_types(said: str, meant: str):
    """Only the limit is a length."""
    assert native({"stop": True, "stop_type": said})[1].end().finish_reason == meant


def test_text_may_come_with_the_stop():
    """The last event's own text is a token."""
    assert native({"content": "a"}, {"content": "b", "stop": True})[0] == [Token("a", 0), Token("b", 1)]


def test_the_logprob_is_the_chosen_tokens():
    """Alternatives stand beside it, and may be likelier."""
    chosen = {"id": 2, "token": "go", "logprob": -5.25, "top_logprobs": [{"id": 1, "token": "be", "logprob": -3.5}]}

    assert native({"content": "go", "completion_probabilities": [chosen]})[0] == [Token("go", 0, "content", -5.25)]
    assert native({"content": "go", "completion_probabilities": [{"prob": 0.5}]})[0] == [Token("go", 0)]


@pytest.mark.parametrize(
    ("timings", "cached", "decode_ms", "kept"),
    [
        ({}, None, None, {}),
        ({"cache_n": 3, "predicted_ms": 2.5}, 3, 2.5, {"cache_n": 3.0, "predicted_ms": 2.5}),
        ({"cache_n": None, "predicted_ms": None}, None, None, {}),
        ({"cache_n": 1e300}, None, None, {"cache_n": 1e300}),
        ({"cache_n": -1}, None, None, {"cache_n": -1.0}),
    ],
    ids=str,
)
def test_timings(timings: dict[str, Any], cached: int | None, decode_ms: float | None, kept: dict[str, float]):
    """Figures are kept under the engine's names; a null is left out, and no count is made of nonsense."""
    end = native({"stop": True, "timings": timings})[1].end()

    assert (end.cached_tokens, end.decode_time_ms, end.timings) == (cached, decode_ms, kept)


@pytest.mark.parametrize(
    ("error", "kind", "detail"),
    [
        ({"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}, InternalError, "engine"),
        ({"code": 400, "message": "too long", "type": "exceed_context_size_error"}, AdapterError, "context_length"),
        ("words", InternalError, "engine"),
    ],
    ids=str,
)
def test_an_error_in_the_stream_is_raised(error: object, kind: type[WorkerError], detail: str):
    """An overflow of the KV cache ends a running stream with an error object."""
    with pytest.raises(kind) as caught:
        native({"content": "a"}, {"error": error})

    assert caught.value.detail == detail
    assert WHERE in caught.value.message


@pytest.mark.parametrize(
    ("decoder", "body"),
    [
        (PROPS, {"total_slots": -1, "build_info": "b1"}),
        (PROPS, {"total_slots": 2}),
        (PROPS, {"total_slots": 2**60, "build_info": "b1"}),
        (SLOTS, [{"is_processing": "no", "n_ctx": 1}]),
        (SLOTS, {}),
        (EVENT, {"tokens_predicted": -1}),
        (EVENT, {"tokens_evaluated": 10**30}),
        (EVENT, {"content": 1}),
        (EVENT, []),
    ],
    ids=str,
)
def test_nonsense_is_refused(decoder: msgspec.json.Decoder[object], body: object):
    """Counts are bounded whole numbers, and every field has its type."""
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
