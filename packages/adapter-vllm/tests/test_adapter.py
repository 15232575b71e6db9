"""The vLLM adapter against the engine's own bytes: whole, cut anywhere, broken off and mutilated."""

import asyncio
import json
import os
import random
import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import llama_orch_adapter_vllm as package
import msgspec
import pytest
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterContext,
    AdapterError,
    AdapterSpec,
    End,
    Message,
    Sampling,
    Secret,
    Started,
    TaskRequest,
    Timeouts,
    Token,
    TokenEvent,
    ToolCall,
    WorkerError,
    WorkerHealth,
    WorkerProps,
    WorkerReset,
    token_budget,
)
from llama_orch_adapter_testkit import (
    LoopbackEngine,
    Reply,
    Request,
    all_kinds_of_cuts,
    captures,
    cases,
    dice,
    mutilated_reply,
)
from llama_orch_adapter_vllm._adapter import VllmAdapter, VllmConfig
from llama_orch_adapter_vllm._wire import request_body

SECRET = "words nobody else may read"
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
TASKS = {
    COMPLETIONS: TaskRequest(prompt=SECRET, seed=7),
    CHAT: TaskRequest(messages=(Message("user", SECRET),), seed=7),
}
STARTED = Started("vllm", "0.32.0", "smollm2", "pool/r0", seed=7)
SHELF = {name: captures.load("vllm", name) for name in captures.names("vllm")}
GETS = {
    ("GET", "/health"): Reply.capture(SHELF["get_health"]),
    ("GET", "/version"): Reply.capture(SHELF["get_version"]),
    ("GET", "/v1/models"): Reply.capture(SHELF["get_v1_models"]),
    ("GET", "/metrics"): Reply.capture(SHELF["get_metrics_idle"]),
}


IMPATIENT = {"retry": {"base": 1e-9, "cap": 1e-9, "patience": 0.1}}
"""As many attempts as ever, and no time between them."""


def adapter_for(
    url: str, api_key: Secret | None = None, slots: int | None = None, http: Mapping[str, object] | None = None
) -> VllmAdapter:
    config = VllmConfig(url=url, api_key=api_key, slots=slots)
    return VllmAdapter(AdapterContext("pool", "r0", config, Timeouts(), http or {}, time.monotonic, print))


@asynccontextmanager
async def running(
    script: Mapping[tuple[str, str], Reply | Sequence[Reply]], api_key: Secret | None = None, slots: int | None = None
) -> AsyncIterator[tuple[VllmAdapter, LoopbackEngine]]:
    """An adapter and its engine; what the script does not name is answered by a ready, idle engine."""
    async with LoopbackEngine({**GETS, **script}) as engine:
        adapter = adapter_for(engine.url, api_key, slots)
        try:
            yield adapter, engine
        finally:
            await adapter.aclose()


class Outcome(NamedTuple):
    """What a task came to: its events, and the error they ended in."""

    events: list[TokenEvent]
    error: WorkerError | None = None

    @property
    def text(self) -> list[str]:
        return [event.t for event in self.events if isinstance(event, Token)]

    @property
    def end(self) -> End | None:
        last = self.events[-1] if self.events else None
        return last if isinstance(last, End) else None

    @property
    def failure(self) -> str:
        return f"{self.error.code} {self.error.detail}" if self.error else ""


async def outcome(adapter: VllmAdapter, task: TaskRequest) -> Outcome:
    events: list[TokenEvent] = []
    try:
        async for event in adapter.submit(task):
            events.append(event)  # noqa: PERF401  # what came before an error is wanted too
    except WorkerError as error:
        return Outcome(events, error)
    return Outcome(events)


async def met_with(reply: Reply, path: str = COMPLETIONS) -> Outcome:
    """What the route's task comes to with this reply."""
    async with running({("POST", path): reply}) as (adapter, _):
        return await outcome(adapter, TASKS[path])


async def test_a_trace_is_passed_on():
    """ORCH-3604: a task's traceparent goes to the engine as its header, and none where it has none."""
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    async with running({("POST", COMPLETIONS): Reply.sse([])}) as (adapter, engine):
        for task in (msgspec.structs.replace(TASKS[COMPLETIONS], traceparent=trace), TASKS[COMPLETIONS]):
            await outcome(adapter, task)
        sent = [request.headers.get("traceparent") for request in engine.requests if request.method == "POST"]

    assert sent == [trace, None]


# Streams


class Stream(NamedTuple):
    """What a captured stream says: its route, its tokens' text, and the counts of its end."""

    path: str
    text: list[str]
    tokens_in: int | None = None
    tokens_out: int | None = None
    logprobs: tuple[float, ...] = ()


CAPITAL = [" Paris", ".", "\n", "\n", "The", " answer"]
STREAMS = {
    "chat_logprobs": Stream(CHAT, ["Wow"]),
    "request_id_header_auto": Stream(COMPLETIONS, ["-"]),
    "v1_chat_stream": Stream(CHAT, ["Hello", " there", "!", " I", "'m", " here", " to", " help"], 33, 8),
    "v1_chat_stream_emoji": Stream(CHAT, list("💡👺👬🐁\n💪💤💧🌳🯈―\n👉👁💸👑🔄👪👦👨🏻―")),
    "v1_chat_stream_n2": Stream(CHAT, ["How", " may", " I"]),
    "v1_completions_logprobs_stream": Stream(
        COMPLETIONS, CAPITAL[:2], logprobs=(-0.2692539393901825, -0.3885854184627533)
    ),
    "v1_completions_prompts2_stream": Stream(COMPLETIONS, CAPITAL[:2]),
    "v1_completions_stream": Stream(COMPLETIONS, CAPITAL, 5, 6),
    "v1_completions_stream_contusage": Stream(COMPLETIONS, CAPITAL[:3], 5, 3),
    "v1_completions_stream_cut_in_emoji": Stream(COMPLETIONS, []),
    "v1_completions_stream_emoji": Stream(COMPLETIONS, list("😃😄😏😐" + 9 * "😑")),
    "v1_completions_stream_nousage": Stream(COMPLETIONS, CAPITAL[:2]),
}
MATRIX = ["v1_completions_stream", "v1_chat_stream"]


def finish_event(data: bytes) -> tuple[int, int]:
    """Where the first answer's finish event begins and, past its blank line, ends."""
    marker = re.search(rb'"index":0,[^\n]*"finish_reason":"', data)
    assert marker
    return data.rindex(b"data: ", 0, marker.end()), data.index(b"\n\n", marker.end()) + 2


@pytest.mark.parametrize("name", STREAMS)
async def test_a_captured_stream_is_read(name: str):
    """Started, the tokens in order with their logprobs where asked for, and an end with the engine's own counts."""
    expected = STREAMS[name]
    seen = await met_with(Reply.capture(SHELF[name]), expected.path)

    logprobs = expected.logprobs or [None] * len(expected.text)
    assert seen == Outcome(
        [
            STARTED,
            *(Token(t, i, logprob=p) for i, (t, p) in enumerate(zip(expected.text, logprobs, strict=True))),
            End(expected.tokens_in, expected.tokens_out, "length"),
        ]
    )


def test_every_stream_is_expected_to_be_something():
    """No captured stream is left out of the table; the broken one has a test of its own."""
    broken = "v1_completions_stream_server_sigterm"

    assert {one.name for one in captures.streams("vllm")} == STREAMS.keys() | {broken}


@pytest.mark.parametrize("name", STREAMS)
async def test_cuts_change_nothing(name: str):
    """However an answer is cut into pieces, inside characters, events, chunks and headers: the same events come."""
    one, path = SHELF[name], STREAMS[name].path
    whole = await met_with(Reply.capture(one), path)
    cut = {
        kind: await met_with(Reply.capture(one, cuts=cuts), path)
        for kind, cuts in all_kinds_of_cuts(one.response).items()
    }

    assert whole.end
    assert cut == dict.fromkeys(cut, whole)


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_cut_off_is_no_success(name: str):
    """Cut off anywhere, an answer ends well if and only if its finish event had come, and no token is lost."""
    one, path = SHELF[name], STREAMS[name].path
    kinds = all_kinds_of_cuts(one.response)
    _, finish = finish_event(one.response)
    near = {*range(finish - 2, finish + 2), 0, 1, len(one.response) - 1}
    offsets = sorted(near | set(random.Random(name).sample(sorted(set().union(*kinds.values())), 15)))
    seen = [await met_with(Reply.capture(one, stop_after=offset), path) for offset in offsets]

    ended_well = {offset for offset, got in zip(offsets, seen, strict=True) if got.end}
    lengths = [len(got.text) for got in seen]
    assert ended_well == {offset for offset in offsets if offset >= finish}
    assert {got.failure for got in seen} == {"", "WORKER_RESET reset", "WORKER_RESET truncated"}
    assert all(got.text == STREAMS[name].text[: len(got.text)] for got in seen)
    assert lengths == sorted(lengths)
    assert lengths[-1] == len(STREAMS[name].text)


def broken_off(body: bytes, framing: str) -> bytes:
    """An answer that ends with `body`: without its last chunk, short of its length, or with neither promised."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
    match framing:
        case "chunked":
            return head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(body), body)
        case "length":
            return head + b"Content-Length: %d\r\n\r\n" % (len(body) + 1) + body
        case _:
            return head + b"Connection: close\r\n\r\n" + body


@pytest.mark.parametrize("reset", [False, True], ids=["close", "reset"])
@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("name", MATRIX)
async def test_a_truncated_answer_is_never_a_success(name: str, framing: str, reset: bool):
    """Whatever the framing, without its finish event an answer ends in WorkerReset (battery 8, truncation_matrix)."""
    body = SHELF[name].body
    begin, _ = finish_event(body)
    reply = Reply.raw(broken_off(body[:begin], framing), stop_after=len(body) * 2, reset=reset)
    seen = await met_with(reply, STREAMS[name].path)

    assert (seen.end, type(seen.error)) == (None, WorkerReset)
    assert seen.text == STREAMS[name].text[:-1]
    assert seen.error is not None
    assert seen.error.phase == "decode"


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("left_out", [b"data: [DONE]\n\n", b""], ids=["without DONE", "with DONE"])
async def test_a_finished_answer_is_a_success(name: str, framing: str, left_out: bytes):
    """With its finish event an answer is whole, though the connection broke after it (battery 8, truncation_matrix)."""
    body = SHELF[name].body.removesuffix(left_out)
    seen = await met_with(Reply.raw(broken_off(body, framing), stop_after=len(body) * 2), STREAMS[name].path)

    assert seen.error is None
    assert seen.text == STREAMS[name].text
    assert seen.end == End(STREAMS[name].tokens_in, STREAMS[name].tokens_out, "length")


@pytest.mark.parametrize("cut", [0, 700])
async def test_a_reset_connection_is_a_reset(cut: int):
    """A TCP reset, before the head or in mid-stream, is a WorkerReset."""
    seen = await met_with(Reply.capture(SHELF["v1_completions_stream"], stop_after=cut, reset=True))

    assert isinstance(seen.error, WorkerReset)


async def test_what_stands_between_events_is_passed_over():
    """Comments, before any data as well, `data: null` and empty events are no answer and no error."""
    end = {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    seen = await met_with(
        Reply.sse(
            [b":\n\n", "null", b": ping\n\n", {"choices": [{"text": "a"}]}, b"\n", "null", end, b":\n\n", "[DONE]"]
        )
    )

    assert seen == Outcome([STARTED, Token("a", 0), End(None, None, "stop")])


async def test_reasoning_and_tool_calls():
    """Both come in channels of their own; the calls are whole in the end."""
    deltas = [
        {"role": "assistant", "content": ""},
        {"reasoning": "hm"},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]},
    ]
    chunks = [{"choices": [{"index": 0, "delta": delta, "finish_reason": None}]} for delta in deltas]
    finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": "tool_calls"}]}
    seen = await met_with(Reply.sse([*chunks, finish, "[DONE]"]), CHAT)

    assert seen.events[1:] == [
        Token("hm", 0, "reasoning"),
        Token("{}", 1, "tool_call"),
        End(None, None, "tool_calls", tool_calls=(ToolCall("a", "f", "{}"),)),
    ]


async def test_a_dead_core_ends_the_stream_in_its_error():
    """The engine answers 200, an error object and `[DONE]`: that is its failure, after the tokens it had sent."""
    seen = await met_with(Reply.capture(SHELF["v1_completions_stream_server_sigterm"]))

    assert (seen.text, seen.failure) == ([",", " Anth", "rax", " worked"], "INTERNAL engine")
    assert seen.error is not None
    assert "500: EngineCore encountered an issue." in seen.error.message
    assert (seen.error.retriable, seen.error.engine_fault) == (True, True)


@pytest.mark.parametrize("done", [[], ["[DONE]"]], ids=["alone", "before DONE"])
@pytest.mark.parametrize(("reason", "failure"), [("abort", "WORKER_RESET aborted"), ("error", "INTERNAL engine")])
async def test_giving_up_is_no_end(reason: str, failure: str, done: list[str]):
    """A task that the engine aborted has not finished, though it has a finish reason."""
    given_up = {"choices": [{"index": 0, "text": "b", "finish_reason": reason}]}
    seen = await met_with(Reply.sse([{"choices": [{"text": "a"}]}, given_up, *done]))

    assert (seen.end, seen.failure) == (None, failure)


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (Reply.sse(["{"]), "ADAPTER decode"),
        (Reply.sse(["[1]"]), "ADAPTER decode"),
        (Reply.sse(["{" + '"a":[' * 100_000]), "ADAPTER decode"),
        (Reply.sse([b'data: {"error":"\xf0\x9f"}\n\n']), "ADAPTER decode"),
        (Reply.sse([]), "WORKER_RESET truncated"),
        (Reply.sse(["[DONE]"]), "WORKER_RESET truncated"),
        (Reply.json(200, {"choices": [{"text": "a", "finish_reason": "stop"}]}), "ADAPTER decode"),
        (Reply.redirect("http://127.0.0.1:9/v1/completions"), "ADAPTER redirect"),
        (Reply.raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", stop_after=99), "ADAPTER decode"),
    ],
    ids=["half", "list", "deep", "half a character", "empty", "DONE alone", "whole", "redirect", "not HTTP"],
)
async def test_an_answer_that_is_none(reply: Reply, failure: str):
    """What is not the engine's stream is an error that says so, on both routes."""
    seen = [await met_with(reply, path) for path in TASKS]

    assert [one.failure for one in seen] == [failure] * 2
    assert [one.text for one in seen] == [[], []]


# Errors


class Refusal(NamedTuple):
    """What a captured refusal becomes, and words of its message."""

    kind: type[WorkerError]
    detail: str
    words: str


BAD = (AdapterError, "bad_request")
KEY = Refusal(AdapterError, "auth", "401: Unauthorized · ")
GONE = Refusal(AdapterError, "not_found", "404: Not Found · ")
TOO_MANY = Refusal(AdapterError, "context_length", "400: max_tokens=5000 cannot be greater than max_model_len=1024.")
TOO_LONG = Refusal(AdapterError, "context_length", "400: This model's maximum context length is 1024 tokens.")
INVALID = Refusal(*BAD, r"400: 1 validation error:\n  {'type': ")
REFUSALS = {
    "err_bad_json": INVALID,
    "err_bad_temp": Refusal(*BAD, "400: temperature must be non-negative"),
    "err_chat_max_tokens_too_large": TOO_MANY,
    "err_empty_body": INVALID,
    "err_empty_messages": Refusal(*BAD, "400: Cannot apply chat template to an empty conversation."),
    "err_max_tokens_negative": Refusal(*BAD, "400: max_tokens must be at least 1"),
    "err_max_tokens_too_large": TOO_MANY,
    "err_missing_messages": INVALID,
    "err_missing_prompt": Refusal(*BAD, "400: Either prompt or prompt_embeds must be provided"),
    "err_no_content_type": Refusal(*BAD, r"400: 1 validation error:\n  Unsupported Media Type"),
    "err_prompt_too_long": TOO_LONG,
    "err_prompt_too_long_stream": TOO_LONG,
    "err_temp_str": INVALID,
    "err_unknown_model": Refusal(AdapterError, "not_found", "404: The model `nope` does not exist."),
    "err_unknown_path": GONE,
    "err_wrong_method": Refusal(*BAD, "405: Method Not Allowed · "),
    "get_server_info": GONE,
    "get_tokenizer_info": GONE,
    "get_v1_model_one": GONE,
    "key_models": KEY,
    "key_none": KEY,
    "key_unknown": KEY,
    "key_wrong": KEY,
    "max_tokens_0": Refusal(*BAD, "400: max_tokens must be at least 1"),
    "rerank_unsupported": GONE,
    "score_unsupported": GONE,
    "tools_unsupported": Refusal(*BAD, '400: "auto" tool choice requires --enable-auto-tool-choice'),
    "v1_embeddings_unsupported": GONE,
    "v1_rerank_unsupported": GONE,
}
MENDS = {
    "bad_request": "correct the request",
    "context_length": "shorten the prompt",
    "auth": "set api_key",
    "not_found": "check url and model",
}


def test_every_refusal_is_expected_to_be_something():
    """No captured answer with an error status is left out of the table."""
    assert REFUSALS.keys() == {name for name, one in SHELF.items() if one.status >= 400}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_says_what_where_and_the_mend(name: str):
    """Status and the engine's own words decide; the message names both, the engine and the mend, never the prompt."""
    async with running({("POST", COMPLETIONS): Reply.capture(SHELF[name])}) as (adapter, engine):
        seen = await outcome(adapter, TASKS[COMPLETIONS])

    expected = REFUSALS[name]
    assert seen.events == []
    assert seen.error is not None
    assert (type(seen.error), seen.error.detail) == (expected.kind, expected.detail)
    assert seen.error.message.startswith(f"the engine answered {expected.words}")
    assert f" · {engine.url.removeprefix('http://')} · {MENDS[expected.detail]}" in seen.error.message
    assert SECRET not in str(seen.error)
    assert (seen.error.retriable, seen.error.engine_fault) == (False, False)


async def test_a_refusal_does_not_repeat_what_was_sent():
    """The engine quotes the offending input in its own words; the message leaves that out."""
    seen = await met_with(Reply.capture(SHELF["err_temp_str"]))

    assert b"'input': 'hot'" in SHELF["err_temp_str"].body
    assert seen.error is not None
    assert "hot" not in seen.error.message


@pytest.mark.parametrize("status", [429, 503])
async def test_an_overloaded_engine_may_ask_to_wait(status: int):
    """Too many tasks: to be tried again, elsewhere at once, here after the seconds of Retry-After."""
    seen = await met_with(Reply.json(status, {"error": {"message": "busy"}}, headers={"Retry-After": "7"}), CHAT)

    assert seen.failure == "POOL_UNAVAILABLE overloaded"
    assert seen.error is not None
    assert (seen.error.retry_after, seen.error.retriable, seen.error.engine_fault) == (7.0, True, False)


# Health, props, version

IDLE, BUSY = Reply.capture(SHELF["get_metrics_idle"]), Reply.capture(SHELF["get_metrics_busy"])
EMPTY_503 = Reply.raw(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n")
GAUGES = b"vllm:num_requests_running 4.0\nvllm:num_requests_waiting 0.0\n"
FULL = Reply.raw(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(GAUGES), GAUGES))
READY = (True, True, "ready", "")


@pytest.mark.parametrize(
    ("health", "metrics", "expected"),
    [
        (Reply.capture(SHELF["get_health"]), IDLE, READY),
        (Reply.capture(SHELF["key_health"]), IDLE, READY),
        (Reply.capture(SHELF["get_health"]), Reply.capture(SHELF["err_unknown_path"]), READY),
        (Reply.capture(SHELF["get_health"]), Reply.json(200, {}), READY),
        (Reply.capture(SHELF["get_health"]), Reply.raw(b"nonsense\r\n\r\n", stop_after=99), READY),
        (Reply.capture(SHELF["get_health"]), FULL, READY),
        (Reply.capture(SHELF["get_health"]), BUSY, (True, True, "busy", "4 running, 1 waiting, KV cache 1% full")),
        (EMPTY_503, BUSY, (True, False, "down", "answered 503 · ")),
        (Reply.json(500, {}), BUSY, (True, False, "down", "answered 500 · ")),
    ],
    ids=["idle", "key", "no metrics route", "no metrics", "metrics nonsense", "working", "busy", "dead core", "broken"],
)
async def test_health(health: Reply, metrics: Reply, expected: tuple[bool, bool, str, str]):
    """A waiting task makes it busy, which is ready; an engine without metrics is simply ready; 503 is a dead core."""
    async with running({("GET", "/health"): health, ("GET", "/metrics"): metrics}) as (adapter, _):
        seen = await adapter.health()

    live, ready, state, words = expected
    assert (seen.live, seen.ready, seen.state) == (live, ready, state)
    assert words in seen.detail


async def test_health_of_an_engine_that_is_not_there():
    """A refused connection is an answer: down, and not live. So it is while the engine loads."""
    async with LoopbackEngine({}) as engine:
        adapter = adapter_for(engine.url)
    seen = await adapter.health()
    await adapter.aclose()

    assert (seen.live, seen.ready, seen.state) == (False, False, "down")
    assert "cannot connect" in seen.detail


@pytest.mark.parametrize(
    ("slots", "metrics", "free"),
    [(4, IDLE, 4), (4, BUSY, 0), (6, BUSY, 2), (6, Reply.capture(SHELF["err_unknown_path"]), None)],
)
async def test_props(slots: int, metrics: Reply, free: int | None):
    """Capabilities are the engine's own; how many slots it has is configured, how many are free it tells."""
    async with running({("GET", "/metrics"): metrics}, slots=slots) as (adapter, _):
        seen = await adapter.props()

    assert (seen.slots_total, seen.slots_free, seen.capabilities.slots) == (slots, free, slots)
    assert (seen.capabilities.engine_version, seen.capabilities.model_id) == ("0.32.0", "smollm2")
    assert seen.capabilities.ctx_max == 1024


async def test_props_where_slots_are_not_configured():
    """Nobody knows how many there are, so the engine is not asked how many work."""
    async with running({}) as (adapter, engine):
        seen = await adapter.props()

    assert (seen.slots_total, seen.slots_free) == (None, None)
    assert [request.path for request in engine.requests] == ["/version", "/v1/models"]


async def test_the_version_is_asked_for_once():
    """It pins a replica set, and tasks need it: one look at the engine serves all, until props are asked anew."""
    stream = Reply.capture(SHELF["v1_completions_stream"])
    async with running({("POST", COMPLETIONS): stream}) as (adapter, engine):
        versions = [await adapter.engine_version(), await adapter.engine_version()]
        await outcome(adapter, TASKS[COMPLETIONS])

    assert versions == ["0.32.0"] * 2
    assert [request.path for request in engine.requests] == ["/version", "/v1/models", COMPLETIONS]


async def test_props_need_the_key():
    """Version, health and metrics stay open; the models do not, and a wrong key says so."""
    async with running({("GET", "/v1/models"): Reply.capture(SHELF["key_models"])}) as (adapter, _):
        with pytest.raises(AdapterError, match=r"401: Unauthorized .* set api_key"):
            await adapter.props()


async def test_an_engine_replaced_behind_its_url():
    """A model that is gone fails one task; the next one asks what is served now, and asks for that."""
    other = json.loads(SHELF["get_v1_models"].body.replace(b'"id":"smollm2"', b'"id":"other"'))
    models = [Reply.capture(SHELF["get_v1_models"]), Reply.json(200, other)]
    replies = [Reply.capture(SHELF["err_unknown_model"]), Reply.capture(SHELF["v1_completions_stream"])]
    async with running({("GET", "/v1/models"): models, ("POST", COMPLETIONS): replies}) as (adapter, engine):
        failed = await outcome(adapter, TASKS[COMPLETIONS])
        served = await outcome(adapter, TASKS[COMPLETIONS])

    assert failed.failure == "ADAPTER not_found"
    assert served.end is not None
    assert [request.json()["model"] for request in engine.requests if request.method == "POST"] == ["smollm2", "other"]


# What is sent


@pytest.mark.parametrize("path", TASKS)
@pytest.mark.parametrize("model", [None, "lora"])
async def test_a_task_is_posted(path: str, model: str | None):
    """The body is the task's, for the model it names or else the engine's own; the key is in its header."""
    task = TaskRequest(
        prompt=TASKS[path].prompt,
        messages=TASKS[path].messages,
        model_ref=model,
        max_tokens=3,
        sampling=Sampling(temperature=0.5, stop=("x",)),
        extra={"min_tokens": 1},
    )
    script = {("POST", path): Reply.capture(SHELF["v1_completions_stream"])}
    async with running(script, Secret("sekret")) as (adapter, engine):
        seen = await outcome(adapter, task)

    posted = engine.requests[-1]
    assert posted.json() == json.loads(json.dumps(request_body(task, model or "smollm2")))
    assert seen.events[0] == Started("vllm", "0.32.0", model or "smollm2", "pool/r0")
    assert {request.headers["authorization"] for request in engine.requests} == {"Bearer sekret"}
    assert posted.headers["content-type"] == "application/json"


async def test_streams_share_a_connection():
    """This engine keeps a connection after a stream: props and three tasks need one."""
    stream = Reply.capture(SHELF["v1_completions_stream"])
    async with running({("POST", COMPLETIONS): stream}) as (adapter, engine):
        seen = [await outcome(adapter, TASKS[COMPLETIONS]) for _ in range(3)]

    assert all(one.end for one in seen)
    assert engine.connections_made == 1


@pytest.mark.parametrize(
    "task",
    [
        TaskRequest(workload="embedding", inputs=("a",)),
        TaskRequest(workload="rerank", inputs=("a",), query="b"),
    ],
    ids=lambda task: task.workload,
)
async def test_other_workloads_are_refused(task: TaskRequest):
    """What this adapter does not serve never reaches the engine, and says where to go."""
    async with running({}) as (adapter, engine):
        with pytest.raises(AdapterError, match=f"workload '{task.workload}' is not served · .* · send it to") as caught:
            adapter.submit(task)

    assert caught.value.detail == "unsupported"
    assert engine.requests == []


def test_the_entry_point_registers_the_engine():
    """The package registers one engine, whose settings name a URL and refuse what they do not know."""
    registered: list[AdapterSpec] = []
    package.llama_orch_register_adapters(registered.append)

    [spec] = registered
    assert spec == AdapterSpec("vllm", API_VERSION, VllmConfig, package.VllmAdapter, advise=token_budget)


def test_slots_are_at_least_one():
    """A replica without slots could take no task."""
    with pytest.raises(msgspec.ValidationError, match=r">= 1 - at `\$\.slots`"):
        msgspec.convert({"url": "http://127.0.0.1:8000", "slots": 0}, VllmConfig)


# Cancelling


@pytest.mark.parametrize("path", TASKS)
async def test_closing_the_stream_stops_the_engine(path: str):
    """Closed in mid-decode, the connection is dropped: that is what cancels in this engine."""
    one = SHELF["v1_chat_stream" if path == CHAT else "v1_completions_stream"]
    reply = Reply.capture(one, stop_after=all_kinds_of_cuts(one.response)["events"][2], hang=True)
    async with running({("POST", path): reply}) as (adapter, engine):
        stream = adapter.submit(TASKS[path])
        async for event in stream:
            if isinstance(event, Token):
                break
        await stream.aclose()  # type: ignore[attr-defined]  # submit gives an async generator
        await (await engine.request(2)).disconnected()

    assert engine.requests[2].path == path


@pytest.mark.parametrize("sent", [None, 0, 400], ids=["no head", "nothing", "head and more"])
async def test_cancelling_the_waiting_task_stops_the_engine(sent: int | None):
    """Cancelled before the head, before the first token or in the middle of an event, nothing is left behind."""
    one = SHELF["v1_completions_stream"]
    reply = Reply.silence() if sent is None else Reply.capture(one, stop_after=sent, hang=True)
    async with running({("POST", COMPLETIONS): reply}) as (adapter, engine):
        waiting = asyncio.create_task(outcome(adapter, TASKS[COMPLETIONS]))
        request = await engine.request(2)
        for _ in range(20):
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await request.disconnected()


async def test_closing_the_adapter_lets_go_of_its_connections():
    """After `aclose` no connection is open; a second one does nothing."""
    async with running({}) as (adapter, engine):
        await adapter.health()
        assert engine.open_connections == 1
        await adapter.aclose()
        await adapter.aclose()
        await engine.deserted()


# Any bytes at all


@pytest.mark.nightly
@pytest.mark.timeout(60 if not os.environ.get("NIGHTLY") else 7200)
async def test_any_bytes_end_in_an_event_or_a_worker_error():
    """Whatever answers, nothing but WorkerErrors comes out (battery 5, client_path_fuzz); SEED replays a run."""
    chance = dice()
    shelf = [SHELF[name] for name in ("get_version", "get_v1_models", *STREAMS, *list(REFUSALS)[:8])]
    asyncio.get_running_loop().set_debug(False)  # it makes this five times as slow

    def script(request: Request) -> Reply:
        return reply if request.method == "POST" or probing else GETS[request.route]

    async with LoopbackEngine(script) as engine:
        adapter = adapter_for(engine.url, http=IMPATIENT)
        for _ in range(cases(10_000, nightly=1_000_000)):
            reply, path = mutilated_reply(chance, chance.choice(shelf)), chance.choice([COMPLETIONS, CHAT])
            probing, asked = chance.random() < 0.2, chance.choice(["health", "props"])
            async with asyncio.timeout(5):
                if not probing:
                    seen = await outcome(adapter, TASKS[path])
                    assert (seen.end is None) == (seen.error is not None)
                elif asked == "health":
                    assert isinstance(await adapter.health(), WorkerHealth)
                else:
                    with suppress(WorkerError):
                        assert isinstance(await adapter.props(), WorkerProps)
        await adapter.aclose()
