"""How llama.cpp and vLLM say what a fake engine has to say, in the shape of the captures."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ._connection import Request
from ._reply import Reply

DialectName = Literal["llamacpp", "vllm"]

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
MODEL = "fake"


@dataclass(frozen=True)
class Load:
    """How busy an engine is; `seeds` are those of the tasks that run."""

    slots: int
    running: int
    waiting: int
    seeds: tuple[int | None, ...] = ()


def said_of_itself(dialect: DialectName, request: Request, load: Load) -> Reply | None:
    """The answer to a GET; None for what this engine does not have."""
    if request.method != "GET":
        return None
    if dialect == "llamacpp":
        return _llamacpp(request, load)
    documents: dict[str, object] = {
        "/version": {"version": "0.32.0"},
        "/v1/models": {"object": "list", "data": [{"id": MODEL, "object": "model", "max_model_len": 2048}]},
    }
    if request.path == "/health":
        return Reply.raw(b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: 0\r\n\r\n")
    if request.path == "/metrics":
        gauges = {"num_requests_running": load.running, "num_requests_waiting": load.waiting}
        text = "".join(f'vllm:{name}{{engine="0"}} {value}.0\n' for name, value in gauges.items()).encode()
        head = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n"
        return Reply.raw(head % len(text) + text)
    document = documents.get(request.path)
    return None if document is None else Reply.json(200, document)


def refusal(dialect: DialectName, status: int, words: str, retry_after: float | None = None) -> Reply:
    """An error document with that status."""
    kind = "unavailable_error" if dialect == "llamacpp" else "ServiceUnavailable"
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Reply.json(status, {"error": {"code": status, "message": words, "type": kind}}, headers=headers)


def generates(dialect: DialectName, request: Request) -> bool:
    """Whether it asks for a stream of tokens."""
    paths = (_CHAT, "/completion") if dialect == "llamacpp" else (_CHAT, _COMPLETIONS)
    return request.method == "POST" and request.path in paths


def subject(body: Mapping[str, Any]) -> str:
    """The prompt, or the last message."""
    if "prompt" in body:
        return str(body["prompt"])
    return str(body["messages"][-1]["content"])


def wanted(body: Mapping[str, Any], otherwise: int) -> int:
    """How many tokens are asked for."""
    named = (body.get(name) for name in ("n_predict", "max_tokens", "max_completion_tokens"))
    return next((int(count) for count in named if count is not None), otherwise)


def head(dialect: DialectName) -> bytes:
    """The head of a stream; llama.cpp says Keep-Alive and closes nevertheless."""
    server = "llama.cpp" if dialect == "llamacpp" else "uvicorn"
    keep = "Keep-Alive: timeout=5, max=100\r\n" if dialect == "llamacpp" else ""
    return (
        f"HTTP/1.1 200 OK\r\nServer: {server}\r\nContent-Type: text/event-stream\r\n"
        f"Transfer-Encoding: chunked\r\n{keep}\r\n"
    ).encode()


def token(path: str, text: str, number: int, prompt_tokens: int) -> bytes:
    """The event of one token, the first having number 1."""
    if path == "/completion":
        return _event(
            {
                "index": 0,
                "content": text,
                "tokens": [number],
                "stop": False,
                "id_slot": -1,
                "tokens_predicted": number,
                "tokens_evaluated": prompt_tokens,
            }
        )
    return _event(_chunk(path, {"content": text} if path == _CHAT else text))


def last(path: str, tokens: int, prompt_tokens: int) -> bytes:
    """All that follows the last token, the end of the body included."""
    if path == "/completion":
        timings = {"cache_n": 0, "prompt_n": prompt_tokens, "predicted_n": tokens, "predicted_ms": 1.0}
        stop = {"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": "limit", "timings": timings}
        return _event(stop | {"tokens_predicted": tokens, "tokens_evaluated": prompt_tokens}) + _LAST_CHUNK
    usage = {"prompt_tokens": prompt_tokens, "completion_tokens": tokens, "total_tokens": prompt_tokens + tokens}
    finish = _chunk(path, {} if path == _CHAT else "", "length")
    count = _chunk(path, {}) | {"choices": [], "usage": usage}
    return _event(finish) + _event(count) + _framed(b"data: [DONE]\n\n") + _LAST_CHUNK


_LAST_CHUNK = b"0\r\n\r\n"


def _llamacpp(request: Request, load: Load) -> Reply | None:
    if request.path == "/health":
        return Reply.json(200, {"status": "ok"})
    if request.path == "/props":
        settings = {"n_ctx": 2048}
        return Reply.json(
            200,
            {
                "default_generation_settings": settings,
                "total_slots": load.slots,
                "model_alias": MODEL,
                "endpoint_slots": True,
                "build_info": "b11549-fake",
            },
        )
    if request.path != "/slots":
        return None
    if "fail_on_no_slot" in request.query and load.running >= load.slots:
        return refusal("llamacpp", 503, "no slot available")
    shown = min(load.slots, 64)
    working: list[dict[str, object]] = [{"is_processing": True, "params": {"seed": seed}} for seed in load.seeds]
    slots = (working + [{"is_processing": False}] * shown)[:shown]
    return Reply.json(200, [{"id": number, "n_ctx": 2048, **slot} for number, slot in enumerate(slots)])


def _chunk(path: str, text: object, finish: str | None = None) -> dict[str, object]:
    chat = path == _CHAT
    choice = {"index": 0, "delta" if chat else "text": text, "logprobs": None, "finish_reason": finish}
    kind = "chat.completion.chunk" if chat else "text_completion"
    return {"id": "cmpl-0", "object": kind, "created": 0, "model": MODEL, "choices": [choice]}


def _event(document: Mapping[str, object]) -> bytes:
    return _framed(b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n")


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
