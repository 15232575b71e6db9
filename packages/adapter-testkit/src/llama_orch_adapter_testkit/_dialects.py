"""How llama.cpp, vLLM and any OpenAI-compatible server say what a fake engine has to say, in the shape of captures."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ._connection import Request
from ._dialect import Asked, Dialect, Finish, Load, Piece, State, Workload
from ._reply import Reply

DialectName = Literal["llamacpp", "vllm", "openai"]

_CHAT = "/v1/chat/completions"
_COMPLETIONS = "/v1/completions"
_NATIVE = "/completion"
_OTHERS: dict[str, Workload] = {"/v1/embeddings": "embedding", "/v1/rerank": "rerank"}
_CONTEXT = 2048
_DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True)
class OpenAIDialect:
    """OpenAI's routes and no others; one to derive from."""

    name: str = "openai"
    version: str = "unknown"
    model: str = "fake"
    states: frozenset[State] = frozenset({"ready", "down"})
    is_sse: bool = True
    keeps: bool = True
    server: str = "uvicorn"
    paths: tuple[str, ...] = (_CHAT, _COMPLETIONS)

    def look(self, request: Request, load: Load) -> Reply | None:
        """`/v1/models` alone."""
        del load
        if request.route != ("GET", "/v1/models"):
            return None
        return Reply.json(200, {"object": "list", "data": [{"id": self.model, "object": "model"}]})

    def asked(self, request: Request) -> Asked | None:
        """From the routes of OpenAI and of those who took them over."""
        if request.method != "POST" or request.path not in (*self.paths, *_OTHERS):
            return None
        body = request.json()
        if not body:
            return None  # a question whether there is such a route
        return Asked(
            request.path,
            body,
            _subject(body),
            _OTHERS.get(request.path, "completion"),
            _first(body, "n_predict", "max_tokens", "max_completion_tokens"),
            _first(body, "t_max_predict_ms"),
        )

    def head(self) -> bytes:
        """The connection is kept."""
        return _head(self.server)

    def token(self, asked: Asked, piece: Piece, number: int) -> bytes:
        """One chunk of one choice; which number it has, it does not tell."""
        del number
        delta: object = piece.text
        if asked.path == _CHAT:
            delta = _delta(piece)
        return _event(self._chunk(asked, delta, logprobs=_logprobs(asked, piece)))

    def last(self, asked: Asked, finish: Finish, tokens: int) -> tuple[bytes, ...]:
        """The finish reason, the usage, `[DONE]`."""
        total = asked.prompt_tokens + tokens
        usage = {"prompt_tokens": asked.prompt_tokens, "completion_tokens": tokens, "total_tokens": total}
        end = self._chunk(asked, {} if asked.path == _CHAT else "", finish)
        count = self._chunk(asked, {}) | {"choices": [], "usage": usage}
        return _event(end), _event(count), _DONE

    def outputs(self, asked: Asked, values: Sequence[Sequence[float]]) -> Reply:
        """Vectors in the order of the inputs, scores with the best one first."""
        document: dict[str, object] = {"model": self.model, "object": "list", "usage": {"prompt_tokens": 2}}
        if asked.workload == "embedding":
            vectors = [{"embedding": list(value), "index": i, "object": "embedding"} for i, value in enumerate(values)]
            return Reply.json(200, document | {"data": vectors})
        scores = [{"index": i, "relevance_score": value[0]} for i, value in enumerate(values)]
        return Reply.json(200, document | {"results": sorted(scores, key=lambda each: -each["relevance_score"])})

    def refusal(self, status: int, words: str, retry_after: float | None = None) -> Reply:
        """An object as `error`."""
        return _refusal({"code": status, "message": words, "type": "ServiceUnavailable"}, retry_after)

    def overflow(self) -> Reply:
        """The words of vLLM, which are OpenAI's."""
        words = f"This model's maximum context length is {_CONTEXT} tokens. However, your prompt contains more."
        return _refusal({"code": 400, "message": words, "type": "BadRequestError", "param": "input_tokens"})

    def broken(self, status: int, words: str) -> tuple[bytes, ...]:
        """`[DONE]` follows the error, as if all were well."""
        return _event({"error": {"code": status, "message": words, "type": "InternalServerError"}}), _DONE

    def _chunk(
        self, asked: Asked, text: object, finish: str | None = None, logprobs: object = None
    ) -> dict[str, object]:
        chat = asked.path == _CHAT
        choice = {"index": 0, "delta" if chat else "text": text, "logprobs": logprobs, "finish_reason": finish}
        kind = "chat.completion.chunk" if chat else "text_completion"
        return {"id": "cmpl-0", "object": kind, "created": 0, "model": self.model, "choices": [choice]}


@dataclass(frozen=True)
class VllmDialect(OpenAIDialect):
    """vLLM 0.32."""

    name: str = "vllm"
    version: str = "0.32.0"
    states: frozenset[State] = frozenset({"ready", "busy", "down"})

    def look(self, request: Request, load: Load) -> Reply | None:
        """Health without a body, version, models with their context, metrics."""
        models = [{"id": self.model, "object": "model", "max_model_len": _CONTEXT}]
        documents: dict[str, object] = {
            "/version": {"version": self.version},
            "/v1/models": {"object": "list", "data": models},
        }
        if request.method != "GET":
            return None
        if request.path == "/health":
            return Reply.raw(b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-length: 0\r\n\r\n")
        if request.path == "/metrics":
            gauges = {"num_requests_running": load.running, "num_requests_waiting": load.waiting}
            text = "".join(f'vllm:{name}{{engine="0"}} {value}.0\n' for name, value in gauges.items()).encode()
            head = b"HTTP/1.1 200 OK\r\nserver: uvicorn\r\ncontent-type: text/plain\r\ncontent-length: %d\r\n\r\n"
            return Reply.raw(head % len(text) + text)
        document = documents.get(request.path)
        return None if document is None else Reply.json(200, document)


@dataclass(frozen=True)
class LlamaCppDialect(OpenAIDialect):
    """llama.cpp's server of b11549: a route of its own for prompts, slots, and chat in OpenAI's dialect."""

    name: str = "llamacpp"
    version: str = "b11549"
    states: frozenset[State] = frozenset({"ready", "loading", "busy", "down"})
    server: str = "llama.cpp"
    keeps: bool = False
    paths: tuple[str, ...] = (_CHAT, _NATIVE)

    def look(self, request: Request, load: Load) -> Reply | None:
        """Health, props and slots."""
        if request.route == ("GET", "/health"):
            return Reply.json(200, {"status": "ok"})
        if request.route == ("GET", "/props"):
            return Reply.json(
                200,
                {
                    "default_generation_settings": {"n_ctx": _CONTEXT},
                    "total_slots": load.slots,
                    "model_alias": self.model,
                    "chat_template_caps": {"supports_tools": True, "supports_tool_calls": True},
                    "endpoint_slots": True,
                    "build_info": self.version,
                },
            )
        if request.method == "POST" and request.path in _OTHERS:
            return _refusal({"code": 400, "message": "the input is missing", "type": "invalid_request_error"})
        if request.route != ("GET", "/slots"):
            return None
        if "fail_on_no_slot" in request.query and load.running >= load.slots:
            return self.refusal(503, "no slot available")
        shown = min(load.slots, 64)
        working: list[dict[str, object]] = [{"is_processing": True, "params": {"seed": seed}} for seed in load.seeds]
        slots = (working + [{"is_processing": False}] * shown)[:shown]
        return Reply.json(200, [{"id": number, "n_ctx": _CONTEXT, **slot} for number, slot in enumerate(slots)])

    def head(self) -> bytes:
        """It says Keep-Alive and closes nevertheless."""
        return _head(self.server, "Keep-Alive: timeout=5, max=100\r\n")

    def token(self, asked: Asked, piece: Piece, number: int) -> bytes:
        """Of its own route, totals so far come with each token."""
        if asked.path != _NATIVE:
            return super().token(asked, piece, number)
        event = {
            "index": 0,
            "content": piece.text,
            "tokens": [number],
            "stop": False,
            "id_slot": -1,
            "tokens_predicted": number,
            "tokens_evaluated": asked.prompt_tokens,
        }
        likely = {} if piece.logprob is None or not asked.body.get("n_probs") else {"logprob": piece.logprob}
        return _event(event | ({"completion_probabilities": [{"token": piece.text, **likely}]} if likely else {}))

    def last(self, asked: Asked, finish: Finish, tokens: int) -> tuple[bytes, ...]:
        """Its own route ends on `stop: true`, and says no more."""
        if asked.path != _NATIVE:
            return super().last(asked, finish, tokens)
        timings = {"cache_n": 0, "prompt_n": asked.prompt_tokens, "predicted_n": tokens, "predicted_ms": 1.0}
        kind = "limit" if finish == "length" else "eos"
        stop = {"index": 0, "content": "", "tokens": [], "stop": True, "stop_type": kind, "timings": timings}
        return (_event(stop | {"tokens_predicted": tokens, "tokens_evaluated": asked.prompt_tokens}),)

    def refusal(self, status: int, words: str, retry_after: float | None = None) -> Reply:
        """An object as `error`, of a type of its own."""
        return _refusal({"code": status, "message": words, "type": "unavailable_error"}, retry_after)

    def overflow(self) -> Reply:
        """It counts both."""
        words = f"request (3001 tokens) exceeds the available context size ({_CONTEXT} tokens), try increasing it"
        kind = {"type": "exceed_context_size_error", "n_prompt_tokens": 3001, "n_ctx": _CONTEXT}
        return _refusal({"code": 400, "message": words, **kind})

    def broken(self, status: int, words: str) -> tuple[bytes, ...]:
        """Nothing follows the error."""
        return (_event({"error": {"code": status, "message": words, "type": "server_error"}}),)


OPENAI = OpenAIDialect()
VLLM = VllmDialect()
LLAMACPP = LlamaCppDialect()

DIALECTS: dict[DialectName, Dialect] = {"llamacpp": LLAMACPP, "vllm": VLLM, "openai": OPENAI}
"""By the names that a fake engine in a process of its own is told."""


def framed(data: bytes) -> bytes:
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(data), data)


LAST_CHUNK = b"0\r\n\r\n"


def _subject(body: Mapping[str, Any]) -> str:
    for name in ("prompt", "query"):
        if name in body:
            return str(body[name])
    return str(body["messages"][-1]["content"]) if "messages" in body else str(body.get("input", ""))


def _first(body: Mapping[str, Any], *names: str) -> int | None:
    return next((int(body[name]) for name in names if body.get(name) is not None), None)


def _head(server: str, keep: str = "") -> bytes:
    return (
        f"HTTP/1.1 200 OK\r\nServer: {server}\r\nContent-Type: text/event-stream\r\n"
        f"Transfer-Encoding: chunked\r\n{keep}\r\n"
    ).encode()


def _delta(piece: Piece) -> dict[str, object]:
    if piece.channel == "content":
        return {"content": piece.text}
    if piece.channel == "reasoning":
        return {"reasoning_content": piece.text}
    function = {"name": f"tool_{piece.call}", "arguments": piece.text}
    return {"tool_calls": [{"index": piece.call, "id": f"call_{piece.call}", "type": "function", "function": function}]}


def _logprobs(asked: Asked, piece: Piece) -> object:
    """In the shape of the route; None where nobody asked."""
    wanted = asked.body.get("logprobs")
    if piece.logprob is None or wanted is None or wanted is False:  # 0, of a prompt, asks for the chosen token's
        return None
    if asked.path == _CHAT:
        return {"content": [{"token": piece.text, "logprob": piece.logprob}]}
    return {"tokens": [piece.text], "token_logprobs": [piece.logprob]}


def _refusal(error: Mapping[str, Any], retry_after: float | None = None) -> Reply:
    headers = {} if retry_after is None else {"Retry-After": f"{retry_after:g}"}
    return Reply.json(error["code"], {"error": error}, headers=headers)


def _event(document: Mapping[str, object]) -> bytes:
    return b"data: " + json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"
