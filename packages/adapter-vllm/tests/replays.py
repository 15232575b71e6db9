"""The engine's captures, what they say, and what tasks come to that meet them."""

import re
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from llama_orch_adapter_api import (
    AdapterContext,
    AdapterError,
    Message,
    Secret,
    Started,
    TaskRequest,
    Timeouts,
    WorkerError,
)
from llama_orch_adapter_testkit import (
    LoopbackEngine,
    Outcome,
    Reply,
    captures,
    outcome,
)
from llama_orch_adapter_vllm._adapter import VllmAdapter, VllmConfig

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


async def met_with(reply: Reply, path: str = COMPLETIONS) -> Outcome:
    """What the route's task comes to with this reply."""
    async with running({("POST", path): reply}) as (adapter, _):
        return await outcome(adapter, TASKS[path])


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
