"""The engine's captures, what they say, and what tasks come to that meet them."""

import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    InternalError,
    Message,
    PoolUnavailable,
    Secret,
    Started,
    TaskRequest,
    Timeouts,
    WorkerError,
)
from llama_orch_adapter_llamacpp._adapter import LlamaCppAdapter, LlamaCppConfig
from llama_orch_adapter_testkit import (
    Capture,
    LoopbackEngine,
    Outcome,
    Reply,
    captures,
    outcome,
)

SECRET = "words nobody else may read"
NATIVE, CHAT = "/completion", "/v1/chat/completions"
TASKS = {
    NATIVE: TaskRequest(prompt=SECRET, seed=7),
    CHAT: TaskRequest(messages=(Message("user", SECRET),), seed=7),
}
STARTED = Started("llamacpp", "b0-unknown", "smollm2", "pool/r0", seed=7)
SHELF = {name: captures.load("llamacpp", name) for name in captures.names("llamacpp")}
IDLE = {
    ("GET", "/health"): Reply.capture(SHELF["get_health"]),
    ("GET", "/props"): Reply.capture(SHELF["get_props"]),
    ("GET", "/slots"): Reply.capture(SHELF["get_slots_idle"]),
    ("POST", "/v1/embeddings"): Reply.capture(SHELF["v1_embeddings_unsupported"]),
    ("POST", "/v1/rerank"): Reply.capture(SHELF["v1_rerank_unsupported"]),
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
    async with LoopbackEngine({**IDLE, **script}) as engine:
        adapter = adapter_for(engine.url, api_key)
        try:
            yield adapter, engine
        finally:
            await adapter.aclose()


async def met_with(reply: Reply, path: str = NATIVE) -> Outcome:
    """What the route's task comes to with this reply."""
    async with running({("POST", path): reply}) as (adapter, _):
        return await outcome(adapter, TASKS[path])


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
