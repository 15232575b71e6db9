"""What hypothesis draws of the vocabulary: any valid value, with every field taken or left out."""

from datetime import UTC
from typing import Any, get_args

from hypothesis import strategies as st
from llama_orch_adapter_api import (
    Capabilities,
    Embedding,
    End,
    Error,
    Grammar,
    ImagePart,
    JsonSchema,
    Message,
    Metrics,
    PoolEvent,
    Sampling,
    Score,
    Started,
    TaskRequest,
    TextPart,
    Timeouts,
    Token,
    Tool,
    ToolCall,
    WireEvent,
    WorkerHealth,
    WorkerProps,
)
from llama_orch_adapter_api._events import Channel, FinishReason
from llama_orch_adapter_api._props import State
from llama_orch_adapter_api._task import MAX_SEED, Determinism, KvHint, Priority, Role, Workload

MAX_INT = 2**53

texts = st.text(st.characters(codec="utf-8"), max_size=12)
filled_texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12)
names = st.text(st.characters(codec="utf-8").filter(str.isprintable), min_size=1, max_size=12)
counts = st.integers(0, MAX_INT)
floats = st.floats(allow_nan=False, allow_infinity=False)
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(texts, json_values, max_size=3)


def tuples(values: st.SearchStrategy[Any], least: int = 0) -> st.SearchStrategy[Any]:
    return st.lists(values, min_size=least, max_size=3).map(tuple)


def maybe(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.none() | values


def one_of(literal: object) -> st.SearchStrategy[Any]:
    return st.sampled_from(get_args(literal))


tool_calls = tuples(st.builds(ToolCall, id=texts, name=texts, arguments=texts))
contents = texts | tuples(st.builds(TextPart, text=texts) | st.builds(ImagePart, url=texts))
messages = st.builds(
    Message,
    role=one_of(Role),
    content=contents,
    name=maybe(names),
    tool_calls=tool_calls,
    tool_call_id=maybe(names),
)
samplings = st.builds(
    Sampling,
    temperature=maybe(st.floats(0, 100)),
    top_p=maybe(st.floats(0, 1)),
    top_k=maybe(counts),
    min_p=maybe(st.floats(0, 1)),
    presence_penalty=maybe(st.floats(-2, 2)),
    frequency_penalty=maybe(st.floats(-2, 2)),
    repeat_penalty=maybe(st.floats(0, 100)),
    stop=tuples(filled_texts),
    logit_bias=maybe(st.dictionaries(counts, st.floats(-100, 100), max_size=3)),
    logprobs=maybe(st.integers(0, 100)),
)
tools = st.builds(Tool, name=names, description=texts, parameters=json_objects)
subjects = st.one_of(
    st.fixed_dictionaries({"workload": st.just("completion"), "prompt": filled_texts}),
    st.fixed_dictionaries({"workload": st.just("completion"), "messages": tuples(messages, 1)}),
    st.fixed_dictionaries({"workload": st.just("embedding"), "inputs": tuples(texts, 1)}),
    st.fixed_dictionaries({"workload": st.just("rerank"), "inputs": tuples(texts, 1), "query": texts}),
)


@st.composite
def _task_requests(draw: st.DrawFn) -> TaskRequest:
    fields = st.fixed_dictionaries(
        {},
        optional={
            "task_id": st.uuids().map(str),
            "session_id": names,
            "model_ref": names,
            "max_tokens": st.integers(1, MAX_INT),
            "sampling": samplings,
            "seed": st.integers(0, MAX_SEED),
            "sampler_profile_version": names,
            "response_format": st.builds(JsonSchema, schema=json_objects, name=names)
            | st.builds(Grammar, grammar=texts),
            "priority": one_of(Priority),
            "deadline_ms": st.integers(1, MAX_INT),
            "expected_tokens": counts,
            "kv_hint": one_of(KvHint),
            "max_attempts": st.integers(1, 100),
            "replica_id": names,
            "correlation_id": names,
            "traceparent": st.from_regex(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", fullmatch=True),
            "extra": json_objects,
        },
    )
    given = draw(subjects) | draw(fields)
    if "seed" in given:
        given["determinism"] = draw(one_of(Determinism))
    given["tools"] = draw(tuples(tools))
    if given["tools"]:
        choices = ["auto", "none", "required", *(tool.name for tool in given["tools"])]
        given["tool_choice"] = draw(maybe(st.sampled_from(choices)))
    return TaskRequest(**given)


task_requests = _task_requests()

started = st.builds(
    Started,
    engine=texts,
    engine_version=texts,
    model=texts,
    replica=texts,
    tokens_in=maybe(counts),
    seed=maybe(counts),
    sampler_profile_version=maybe(names),
)
tokens = st.builds(Token, t=filled_texts, i=counts, channel=one_of(Channel), logprob=maybe(floats))
metrics = st.builds(
    Metrics,
    tokens_in=maybe(counts),
    tokens_out=maybe(counts),
    prompt_progress=maybe(st.floats(0, 1)),
    tokens_per_second=maybe(floats),
)
outputs = st.builds(Embedding, index=counts, vector=tuples(floats)) | st.builds(Score, index=counts, score=floats)
ends = st.builds(
    End,
    tokens_in=maybe(counts),
    tokens_out=maybe(counts),
    finish_reason=one_of(FinishReason),
    cached_tokens=maybe(counts),
    decode_time_ms=maybe(floats),
    timings=st.dictionaries(texts, floats, max_size=3),
    outputs=tuples(outputs),
    tool_calls=tool_calls,
    seed=maybe(counts),
    sampler_profile_version=maybe(names),
)
errors = st.builds(
    Error, code=texts, message=texts, engine=maybe(texts), retriable=st.booleans(), retry_after_ms=maybe(counts)
)
healths = st.builds(WorkerHealth, live=st.booleans(), ready=st.booleans(), state=one_of(State), detail=texts)
capabilities = st.builds(
    Capabilities,
    engine=texts,
    engine_version=texts,
    model_id=texts,
    observed_at=st.datetimes(timezones=st.just(UTC)),
    model_digest=maybe(texts),
    model_source=maybe(texts),
    ctx_max=maybe(counts),
    batching=st.booleans(),
    slots=maybe(counts),
    workloads=tuples(one_of(Workload)),
    features=tuples(texts),
)
props = st.builds(WorkerProps, slots_total=maybe(counts), slots_free=maybe(counts), capabilities=capabilities)
places = names.filter(lambda name: "/" not in name)
seconds = st.floats(0.001, 86_400)
pool_events = st.builds(
    PoolEvent,
    pool_id=places,
    engine=places,
    replica=json_objects,
    replica_id=places,
    timeouts=maybe(st.builds(Timeouts, connect=seconds, drain=seconds, preload=seconds)),
    http=maybe(json_objects),
)

WIRE: dict[str, tuple[Any, st.SearchStrategy[Any]]] = {
    "task_request": (TaskRequest, task_requests),
    "started": (WireEvent, started),
    "token": (WireEvent, tokens),
    "metrics": (WireEvent, metrics),
    "end": (WireEvent, ends),
    "error": (WireEvent, errors),
    "health": (WorkerHealth, healths),
    "props": (WorkerProps, props),
    "capabilities": (Capabilities, capabilities),
    "pool_event": (PoolEvent, pool_events),
}
"""Everything that goes over a wire: the type it is decoded to, and its values."""
