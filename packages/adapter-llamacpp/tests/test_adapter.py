"""The llama.cpp adapter against the engine's own bytes: whole, cut anywhere, broken off and mutilated."""

import asyncio
import json
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import llama_orch_adapter_llamacpp as package
import msgspec
import pytest
from llama_orch_adapter_api import (
    API_VERSION,
    AdapterContext,
    AdapterError,
    AdapterSpec,
    End,
    InternalError,
    Message,
    PoolUnavailable,
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
)
from llama_orch_adapter_llamacpp._adapter import LlamaCppAdapter, LlamaCppConfig
from llama_orch_adapter_llamacpp._wire import chat_body, completion_body
from llama_orch_adapter_testkit import (
    Capture,
    LoopbackEngine,
    Reply,
    Request,
    all_kinds_of_cuts,
    captures,
    cases,
    dice,
    mutilated_reply,
)

SECRET = "words nobody else may read"
NATIVE, CHAT = "/completion", "/v1/chat/completions"
TASKS = {
    NATIVE: TaskRequest(prompt=SECRET, seed=7),
    CHAT: TaskRequest(messages=(Message("user", SECRET),), seed=7),
}
STARTED = Started("llamacpp", "b0-unknown", "smollm2", "pool/r0", seed=7)
SHELF = {name: captures.load("llamacpp", name) for name in captures.names("llamacpp")}
GETS = {
    ("GET", "/health"): Reply.capture(SHELF["get_health"]),
    ("GET", "/props"): Reply.capture(SHELF["get_props"]),
    ("GET", "/slots"): Reply.capture(SHELF["get_slots_idle"]),
}


IMPATIENT = {"retry": {"base": 1e-9, "cap": 1e-9, "patience": 0.1}}
"""As many attempts as ever, and no time between them."""


def adapter_for(url: str, api_key: Secret | None = None, http: Mapping[str, object] | None = None) -> LlamaCppAdapter:
    config = LlamaCppConfig(url=url, api_key=api_key)
    return LlamaCppAdapter(AdapterContext("pool", "r0", config, Timeouts(), http or {}, time.monotonic, print))


@asynccontextmanager
async def running(
    script: Mapping[tuple[str, str], Reply | Sequence[Reply]], api_key: Secret | None = None
) -> AsyncIterator[tuple[LlamaCppAdapter, LoopbackEngine]]:
    """An adapter and its engine; what the script does not name is answered by a ready, idle engine."""
    async with LoopbackEngine({**GETS, **script}) as engine:
        adapter = adapter_for(engine.url, api_key)
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


async def outcome(adapter: LlamaCppAdapter, task: TaskRequest) -> Outcome:
    events: list[TokenEvent] = []
    try:
        async for event in adapter.submit(task):
            events.append(event)  # noqa: PERF401  # what came before an error is wanted too
    except WorkerError as error:
        return Outcome(events, error)
    return Outcome(events)


async def met_with(reply: Reply, path: str = NATIVE) -> Outcome:
    """What the route's task comes to with this reply."""
    async with running({("POST", path): reply}) as (adapter, _):
        return await outcome(adapter, TASKS[path])


async def test_a_trace_is_passed_on():
    """ORCH-3604: a task's traceparent goes to the engine as its header, and none where it has none."""
    trace = f"00-{'ab' * 16}-{'cd' * 8}-01"
    async with running({("POST", NATIVE): Reply.sse([])}) as (adapter, engine):
        for task in (msgspec.structs.replace(TASKS[NATIVE], traceparent=trace), TASKS[NATIVE]):
            await outcome(adapter, task)
        sent = [request.headers.get("traceparent") for request in engine.requests if request.method == "POST"]

    assert sent == [trace, None]


# Streams


class Stream(NamedTuple):
    """What a captured stream says: its route, its tokens' text, and its end."""

    path: str
    text: list[str]
    tokens_in: int | None
    tokens_out: int | None
    cached: int | None
    finish_reason: str = "length"


HELLO = ["Hello", " there", "!", " I", "'m", " here", " to"]
STREAMS = {
    "completion_stream": Stream(NATIVE, [" Paris", ".", "\n", "\n", "The", " United"], 5, 6, 0),
    "completion_stream_emoji": Stream(NATIVE, list("😃😄😏😐" + 9 * "😑"), 24, 40, 0),
    "completion_stream_cut_in_emoji": Stream(NATIVE, [], 24, 2, 23),
    "n_predict_0": Stream(NATIVE, [" the"], 3, 1, 2),
    "v1_chat_stream": Stream(CHAT, [*HELLO, " help"], 33, 8, 0),
    "v1_chat_stream_n2": Stream(CHAT, ["Sorry", ",", " I"], 33, 3, 32),
    "v1_chat_stream_stop_word": Stream(CHAT, [*HELLO, " "], None, None, None, "stop"),
}


def last_timings(one: Capture) -> dict[str, float]:
    """The timings of the capture's last event that has any."""
    events = [line.removeprefix(b"data: ") for line in one.body.splitlines() if line.startswith(b"data: {")]
    return [json.loads(event)["timings"] for event in events if b'"timings"' in event][-1]  # type: ignore[no-any-return]


def finish_event(data: bytes) -> tuple[int, int]:
    """Where the finish event begins and, past its blank line, ends."""
    marker = data.index(b'"stop":true' if b'"stop":true' in data else b'"finish_reason":"')
    return data.rindex(b"data: ", 0, marker), data.index(b"\n\n", marker) + 2


@pytest.mark.parametrize("name", STREAMS)
async def test_a_captured_stream_is_read(name: str):
    """Started, the tokens in order, and an end with the engine's own counts and figures."""
    expected, one = STREAMS[name], SHELF[name]
    seen = await met_with(Reply.capture(one), expected.path)

    timings = last_timings(one)
    assert seen == Outcome(
        [
            STARTED,
            *(Token(text, i) for i, text in enumerate(expected.text)),
            End(
                tokens_in=expected.tokens_in,
                tokens_out=expected.tokens_out,
                finish_reason=expected.finish_reason,  # type: ignore[arg-type]
                cached_tokens=expected.cached,
                decode_time_ms=timings["predicted_ms"],
                timings=timings,
            ),
        ]
    )


@pytest.mark.parametrize("name", [*STREAMS, "v1_chat_tools_stream"])
async def test_cuts_change_nothing(name: str):
    """However an answer is cut into pieces, inside characters, events, chunks and headers: the same events come."""
    one, path = SHELF[name], CHAT if "chat" in name else NATIVE
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
@pytest.mark.parametrize("name", ["completion_stream", "v1_chat_stream"])
async def test_a_truncated_answer_is_never_a_success(name: str, framing: str, reset: bool):
    """Whatever the framing, without its finish event an answer ends in WorkerReset (battery 8, truncation_matrix)."""
    body = SHELF[name].body
    begin, _ = finish_event(body)
    reply = Reply.raw(broken_off(body[:begin], framing), stop_after=len(body) * 2, reset=reset)
    seen = await met_with(reply, STREAMS[name].path)

    assert (seen.end, type(seen.error)) == (None, WorkerReset)
    assert seen.text == STREAMS[name].text
    assert seen.error is not None
    assert seen.error.phase == "decode"


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("name", ["completion_stream", "v1_chat_stream"])
@pytest.mark.parametrize("left_out", [b"data: [DONE]\n\n", b""], ids=["without DONE", "with DONE"])
async def test_a_finished_answer_is_a_success(name: str, framing: str, left_out: bytes):
    """With its finish event an answer is whole, though the connection broke after it (battery 8, truncation_matrix)."""
    body = SHELF[name].body.removesuffix(left_out)
    seen = await met_with(Reply.raw(broken_off(body, framing), stop_after=len(body) * 2), STREAMS[name].path)

    assert seen.error is None
    assert seen.text == STREAMS[name].text
    assert seen.end is not None
    assert seen.end.tokens_out == len(seen.text)


@pytest.mark.parametrize("cut", [0, 700])
async def test_a_reset_connection_is_a_reset(cut: int):
    """A TCP reset, before the head or in mid-stream, is a WorkerReset."""
    seen = await met_with(Reply.capture(SHELF["completion_stream"], stop_after=cut, reset=True))

    assert isinstance(seen.error, WorkerReset)


async def test_what_stands_between_events_is_passed_over():
    """Comments, before any data as well, `data: null` and empty events are no answer and no error."""
    reply = Reply.sse(
        [b":\n\n", "null", b": ping\n\n", {"content": "a"}, b"\n", "null", {"content": "", "stop": True}, b":\n\n"]
    )
    seen = await met_with(reply)

    assert seen == Outcome([STARTED, Token("a", 0), End(None, None, "stop")])


async def test_reasoning_and_tool_calls():
    """Both come in channels of their own; the calls are whole in the end."""
    deltas = [
        {"reasoning_content": "hm"},
        {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]},
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


@pytest.mark.parametrize("done", [[], ["[DONE]"]], ids=["alone", "before DONE"])
@pytest.mark.parametrize(
    ("path", "token"),
    [(NATIVE, {"content": "a"}), (CHAT, {"choices": [{"index": 0, "delta": {"content": "a"}}]})],
)
async def test_an_error_in_the_stream_is_raised(path: str, token: dict[str, object], done: list[str]):
    """An error object, as on an overflow of the KV cache, ends the task though the answer was a 200."""
    error = {"error": {"code": 500, "message": "Context size has been exceeded.", "type": "server_error"}}
    seen = await met_with(Reply.sse([token, error, *done]), path)

    assert (seen.text, seen.failure) == (["a"], "INTERNAL engine")
    assert seen.error is not None
    assert "500: Context size has been exceeded." in seen.error.message


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (Reply.sse(["{"]), "ADAPTER decode"),
        (Reply.sse(["[1]"]), "ADAPTER decode"),
        (Reply.sse(["{" + '"a":[' * 100_000]), "ADAPTER decode"),
        (Reply.sse([b'data: {"error":"\xf0\x9f"}\n\n']), "ADAPTER decode"),
        (Reply.sse([]), "WORKER_RESET truncated"),
        (Reply.sse(["[DONE]"]), "WORKER_RESET truncated"),
        (Reply.json(200, {"content": "a", "stop": True}), "ADAPTER decode"),
        (Reply.redirect("http://127.0.0.1:9/completion"), "ADAPTER redirect"),
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
KEY = Refusal(AdapterError, "auth", "401: Invalid API Key · ")
GONE = Refusal(AdapterError, "not_found", "404: File Not Found · ")
LOADING = Refusal(PoolUnavailable, "loading", "503: Loading model · ")
NO_RERANK = Refusal(AdapterError, "unsupported", "501: This server does not support reranking")
NO_EMBEDDING = Refusal(AdapterError, "unsupported", "501: This server does not support embeddings")
TOO_LONG = Refusal(AdapterError, "context_length", "400: request (3001 tokens) exceeds the available context size")
PROMPT_MISSING = Refusal(*BAD, "400: [json.exception.out_of_range.403] key 'prompt' not found")
REFUSALS = {
    "bad_role": Refusal(*BAD, "400: Expected 'messages' to be an array"),
    "bad_temp": Refusal(*BAD, "400: Field 'temperature'"),
    "bad_type_prompt": Refusal(*BAD, '400: "prompt" elements must be a string'),
    "emb_rerank": NO_RERANK,
    "emb_too_long": Refusal(InternalError, "engine", "500: input (3001 tokens) is too large to process"),
    "embedding_unsupported": NO_EMBEDDING,
    "err_bad_json": Refusal(*BAD, "400: [json.exception.parse_error.101]"),
    "err_empty_body": Refusal(*BAD, "400: [json.exception.parse_error.101]"),
    "err_missing_messages": Refusal(*BAD, "400: 'messages' is required"),
    "err_missing_prompt": PROMPT_MISSING,
    "err_missing_prompt_completion": PROMPT_MISSING,
    "err_prompt_too_long": TOO_LONG,
    "err_prompt_too_long_stream": TOO_LONG,
    "err_unknown_path": GONE,
    "err_wrong_method": GONE,
    "get_api_tags": GONE,
    "get_root": GONE,
    "get_slots_fail_on_no_slot_busy": Refusal(PoolUnavailable, "overloaded", "503: no slot available"),
    "get_version": GONE,
    "grammar_bad": Refusal(*BAD, "400: Failed to initialize samplers: failed to parse grammar"),
    "key_metrics": KEY,
    "key_models": KEY,
    "key_none": KEY,
    "key_props": KEY,
    "key_slots": KEY,
    "key_unknown": KEY,
    "key_wrong": KEY,
    "loading_get_health": LOADING,
    "loading_get_metrics": LOADING,
    "loading_get_models": LOADING,
    "loading_get_props": LOADING,
    "loading_get_slots": LOADING,
    "loading_get_v1_models": LOADING,
    "loading_post_completions": LOADING,
    "loading_unknown": LOADING,
    "n3_gt_slots": Refusal(*BAD, "400: Field 'n'"),
    "n_predict_m5": Refusal(*BAD, "400: "),
    "n_predict_neg_str": Refusal(*BAD, "400: "),
    "off_metrics": Refusal(AdapterError, "unsupported", "501: This server does not support metrics endpoint"),
    "off_slots": Refusal(AdapterError, "unsupported", "501: This server does not support slots endpoint"),
    "post_slots_erase": Refusal(AdapterError, "unsupported", "501: "),
    "rerank_missing": Refusal(*BAD, "400: "),
    "rerank_unsupported": NO_RERANK,
    "v1_embeddings_unsupported": NO_EMBEDDING,
    "v1_rerank_unsupported": NO_RERANK,
}
RETRIABLE = {"loading", "overloaded", "engine"}
MENDS = {
    "bad_request": "correct the request",
    "context_length": "shorten the prompt",
    "auth": "set api_key",
    "not_found": "check url and model",
    "unsupported": "start the engine with this feature",
    "loading": "wait until it is ready",
    "overloaded": "wait, or add replicas",
    "engine": "look at the engine's own log",
}


def test_every_refusal_is_expected_to_be_something():
    """No captured answer with an error status is left out of the table."""
    assert REFUSALS.keys() == {name for name, one in SHELF.items() if one.status >= 400}


@pytest.mark.parametrize("name", REFUSALS)
async def test_a_refusal_says_what_where_and_the_mend(name: str):
    """Status and the engine's own words decide; the message names both, the engine and the mend, never the prompt."""
    async with running({("POST", NATIVE): Reply.capture(SHELF[name])}) as (adapter, engine):
        seen = await outcome(adapter, TASKS[NATIVE])

    expected = REFUSALS[name]
    assert seen.events == []
    assert seen.error is not None
    assert (type(seen.error), seen.error.detail) == (expected.kind, expected.detail)
    assert seen.error.message.startswith(f"the engine answered {expected.words}")
    assert f" · {engine.url.removeprefix('http://')} · {MENDS[expected.detail]}" in seen.error.message
    assert SECRET not in str(seen.error)
    assert (seen.error.retriable, seen.error.engine_fault) == (
        expected.detail in RETRIABLE,
        expected.kind is InternalError,
    )


async def test_an_overflowing_queue_may_ask_to_wait():
    """The seconds of Retry-After come with the error."""
    refused = Reply.json(503, {"error": {"message": "no slot available"}}, headers={"Retry-After": "7"})
    seen = await met_with(refused, CHAT)

    assert seen.error is not None
    assert seen.error.retry_after == 7.0


@pytest.mark.parametrize("name", ["completion_stream", "v1_chat_stream"])
async def test_a_finished_answer_is_not_held_up(name: str):
    """The finish event ends a task, though the engine then neither says more nor closes the connection."""
    one, path = SHELF[name], STREAMS[name].path
    finish = b'"stop":true' if path == NATIVE else b'"finish_reason":"length"'
    end_of_event = one.response.index(b"\n\n", one.response.index(finish)) + 2
    seen = await met_with(Reply.capture(one, stop_after=end_of_event, hang=True), path)

    assert seen.end is not None
    assert seen.end.finish_reason == "length"
    assert "".join(seen.text) == "".join(STREAMS[name].text)


# Health, props, version

BUSY = Reply.capture(SHELF["get_slots_fail_on_no_slot_busy"])
READY = (True, True, "ready", "")


@pytest.mark.parametrize(
    ("health", "slots", "expected"),
    [
        (SHELF["get_health"], Reply.capture(SHELF["fail_on_no_slot_idle"]), READY),
        (SHELF["key_health"], Reply.capture(SHELF["key_slots"]), (True, False, "down", "401: Invalid API Key")),
        (SHELF["get_health"], Reply.capture(SHELF["off_slots"]), READY),
        (SHELF["get_health"], Reply.raw(b"nonsense\r\n\r\n", stop_after=99), (True, False, "down", "not HTTP")),
        (SHELF["get_health"], Reply.capture(SHELF["loading_get_slots"]), (True, False, "loading", "Loading model")),
        (SHELF["get_health"], BUSY, (True, True, "busy", "every slot is working")),
        (SHELF["loading_get_health"], BUSY, (True, False, "loading", "503: Loading model")),
        (SHELF["get_slots_fail_on_no_slot_busy"], BUSY, (True, False, "down", "503: no slot available")),
        (SHELF["emb_too_long"], BUSY, (True, False, "down", "answered 500: ")),
    ],
    ids=[
        "idle",
        "wrong key",
        "no slots route",
        "slots nonsense",
        "loads again",
        "busy",
        "loading",
        "unavailable",
        "broken",
    ],
)
async def test_health(health: Capture, slots: Reply, expected: tuple[bool, bool, str, str]):
    """Loading is no failure, busy is ready, and an engine without `/slots` is simply ready."""
    async with running({("GET", "/health"): Reply.capture(health), ("GET", "/slots"): slots}) as (adapter, engine):
        seen = await adapter.health()

    live, ready, state, words = expected
    assert (seen.live, seen.ready, seen.state) == (live, ready, state)
    assert words in seen.detail
    assert ready <= (engine.requests[-1].query == {"fail_on_no_slot": "1"})


async def test_health_of_an_engine_that_is_not_there():
    """A refused connection is an answer: down, and not live."""
    async with LoopbackEngine({}) as engine:
        adapter = adapter_for(engine.url)
    seen = await adapter.health()
    await adapter.aclose()

    assert (seen.live, seen.ready, seen.state) == (False, False, "down")
    assert "cannot connect" in seen.detail


@pytest.mark.parametrize("name", [name for name in SHELF if name.startswith("loading_")])
async def test_while_loading_every_path_says_so(name: str):
    """A task, props and health meet the same 503, whatever was asked for: loading, to be tried again."""
    loading = Reply.capture(SHELF[name])
    paths = [("GET", "/health"), ("GET", "/props"), ("POST", NATIVE)]
    async with running(dict.fromkeys(paths, loading)) as (adapter, _):
        health = await adapter.health()
        seen = await outcome(adapter, TASKS[NATIVE])
        with pytest.raises(PoolUnavailable, match="Loading model"):
            await adapter.props()

    assert (health.live, health.ready, health.state) == (True, False, "loading")
    assert seen.failure == "POOL_UNAVAILABLE loading"


@pytest.mark.parametrize(("slots", "free"), [("get_slots_idle", 2), ("get_slots_busy", 0)])
async def test_props(slots: str, free: int):
    """Slots and capabilities as the engine tells them now."""
    async with running({("GET", "/slots"): Reply.capture(SHELF[slots])}) as (adapter, _):
        seen = await adapter.props()

    assert (seen.slots_total, seen.slots_free) == (2, free)
    assert (seen.capabilities.engine_version, seen.capabilities.model_id) == ("b0-unknown", "smollm2")
    assert (seen.capabilities.ctx_max, seen.capabilities.slots) == (2048, 2)


async def test_props_of_an_engine_without_slots():
    """Where `/props` says that there is no `/slots`, it is not asked, and nobody knows how many are free."""
    told = json.loads(SHELF["get_props"].body) | {"endpoint_slots": False}
    async with running({("GET", "/props"): Reply.json(200, told)}) as (adapter, engine):
        seen = await adapter.props()

    assert (seen.slots_total, seen.slots_free, seen.capabilities.ctx_max) == (2, None, 2048)
    assert [request.path for request in engine.requests] == ["/props"]


async def test_the_version_is_asked_for_once():
    """It pins a replica set, and tasks need it: one look at the engine serves all, until props are asked anew."""
    async with running({("POST", NATIVE): Reply.capture(SHELF["completion_stream"])}) as (adapter, engine):
        versions = [await adapter.engine_version(), await adapter.engine_version()]
        await outcome(adapter, TASKS[NATIVE])

    assert versions == ["b0-unknown"] * 2
    assert [request.path for request in engine.requests] == ["/props", "/slots", NATIVE]


async def test_an_engine_replaced_behind_its_url():
    """What is known of an engine is forgotten when a task fails: the next one tells of the engine that is there now."""
    other = SHELF["get_props"].body.replace(b'"model_alias":"smollm2"', b'"model_alias":"other"')
    props = [Reply.capture(SHELF["get_props"]), Reply.json(200, json.loads(other))]
    replies = [Reply.capture(SHELF["completion_stream"], stop_after=600), Reply.capture(SHELF["completion_stream"])]
    async with running({("GET", "/props"): props, ("POST", NATIVE): replies}) as (adapter, _):
        failed = await outcome(adapter, TASKS[NATIVE])
        served = await outcome(adapter, TASKS[NATIVE])

    assert failed.error is not None
    assert isinstance(served.events[0], Started)
    assert served.events[0].model == "other"


# What is sent


@pytest.mark.parametrize(("path", "body_of"), [(NATIVE, completion_body), (CHAT, chat_body)])
async def test_a_task_is_posted(path: str, body_of: Callable[[TaskRequest], dict[str, object]]):
    """The body is the task's, the key is in its header, and the connection is to be closed after the stream."""
    task = TaskRequest(
        prompt=TASKS[path].prompt,
        messages=TASKS[path].messages,
        max_tokens=3,
        sampling=Sampling(temperature=0.5, stop=("x",)),
        extra={"cache_prompt": False},
    )
    script = {("POST", path): Reply.capture(SHELF["key_wrong"])}
    async with running(script, api_key=Secret("sekret")) as (adapter, engine):
        seen = await outcome(adapter, task)

    posted = engine.requests[-1]
    assert seen.failure == "ADAPTER auth"
    assert posted.json() == json.loads(json.dumps(body_of(task)))
    assert {request.headers["authorization"] for request in engine.requests} == {"Bearer sekret"}
    assert posted.headers["content-type"] == "application/json"
    assert posted.headers["connection"] == "close"


@pytest.mark.parametrize("path", TASKS)
async def test_each_stream_has_a_connection_of_its_own(path: str):
    """This engine closes after a stream although it says Keep-Alive: no task is sent into a closing connection."""
    stream = Reply.capture(SHELF["v1_chat_stream" if path == CHAT else "completion_stream"])
    async with running({("POST", path): stream}) as (adapter, engine):
        seen = [await outcome(adapter, TASKS[path]) for _ in range(3)]

    assert [one.error for one in seen] == [None] * 3
    assert engine.connections_made == 3


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
    assert (spec.engine, spec.api, spec.config_type, spec.factory) == (
        "llamacpp",
        API_VERSION,
        LlamaCppConfig,
        package.LlamaCppAdapter,
    )
    assert spec.launch is not None


# Cancelling


@pytest.mark.parametrize("path", TASKS)
async def test_closing_the_stream_stops_the_engine(path: str):
    """Closed in mid-decode, the connection is dropped: that is what cancels in this engine."""
    one = SHELF["v1_chat_stream" if path == CHAT else "completion_stream"]
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
    one = SHELF["completion_stream"]
    reply = Reply.silence() if sent is None else Reply.capture(one, stop_after=sent, hang=True)
    async with running({("POST", NATIVE): reply}) as (adapter, engine):
        waiting = asyncio.create_task(outcome(adapter, TASKS[NATIVE]))
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
    shelf = [SHELF[name] for name in ("get_health", "get_props", "get_slots_busy", *STREAMS, *list(REFUSALS)[:8])]
    asyncio.get_running_loop().set_debug(False)  # it makes this five times as slow

    def script(request: Request) -> Reply:
        return reply if request.method == "POST" or probing else GETS[request.route]

    async with LoopbackEngine(script) as engine:
        adapter = adapter_for(engine.url, http=IMPATIENT)
        for _ in range(cases(10_000, nightly=1_000_000)):
            reply, path = mutilated_reply(chance, chance.choice(shelf)), chance.choice([NATIVE, CHAT])
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
