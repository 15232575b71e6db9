"""What a task becomes in OpenAI's dialect: a route, headers and a body."""

from collections.abc import Sequence

import msgspec
from llama_orch_adapter_api import ImagePart, JsonSchema, Message, TaskRequest, TextPart, Tool

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
EMBEDDINGS = "/v1/embeddings"
RERANK = "/v1/rerank"

_SAMPLING = ("temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty")
"""The knobs that both engines know under the boundary's own names."""


def path_of(task: TaskRequest) -> str:
    """Where a task goes: messages to the chat route, a prompt to the other, and each other workload to its own."""
    match task.workload:
        case "embedding":
            return EMBEDDINGS
        case "rerank":
            return RERANK
    return CHAT if task.messages else COMPLETIONS


def headers_of(task: TaskRequest) -> dict[str, str]:
    """The headers of a task's request: its trace context (W3C), where it has one."""
    return {} if task.traceparent is None else {"traceparent": task.traceparent}


def body_of(task: TaskRequest, model: str | None) -> dict[str, object]:
    """The request body of a task, for the route that `path_of` names. `extra` is not in it yet.

    Vectors are asked for in base64, as OpenAI's own client asks: a fourth of the bytes, and the exact figures.
    """
    named = {} if model is None else {"model": model}
    match task.workload:
        case "embedding":
            return named | {"input": task.inputs, "encoding_format": "base64"}
        case "rerank":
            return named | {"query": task.query, "documents": task.inputs}
    return _streamed_body(task, named)


def _streamed_body(task: TaskRequest, named: dict[str, str]) -> dict[str, object]:
    body: dict[str, object] = {"stream": True, "stream_options": {"include_usage": True}, **named}
    if task.messages:
        body["messages"] = [_message(message) for message in task.messages]
    else:
        body["prompt"] = task.prompt
    optional = {"max_tokens": task.max_tokens, "seed": task.seed, **sampling_of(task), **_logprobs(task)}
    body.update((name, value) for name, value in optional.items() if value is not None)
    if isinstance(task.response_format, JsonSchema):
        body["response_format"] = _response_format(task.response_format)
    if task.tools:
        body["tools"] = tools_of(task.tools)
    if task.tool_choice is not None:
        body["tool_choice"] = _tool_choice(task.tool_choice)
    return body


def sampling_of(task: TaskRequest) -> dict[str, object]:
    """The sampling knobs that were set, under the names that llama.cpp and vLLM share."""
    sampling = task.sampling
    knobs: dict[str, object] = {name: getattr(sampling, name) for name in _SAMPLING}
    if sampling.stop:
        knobs["stop"] = sampling.stop
    if sampling.logit_bias:
        knobs["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias.items()}
    return {name: value for name, value in knobs.items() if value is not None}


def tools_of(tools: Sequence[Tool]) -> list[dict[str, object]]:
    """The tools as both engines take them."""
    return [{"type": "function", "function": msgspec.to_builtins(tool)} for tool in tools]


def _logprobs(task: TaskRequest) -> dict[str, object]:
    wanted = task.sampling.logprobs
    if wanted is None:
        return {}
    return {"logprobs": True, "top_logprobs": wanted} if task.messages else {"logprobs": wanted}


def _response_format(wanted: JsonSchema) -> dict[str, object]:
    if not wanted.schema:
        return {"type": "json_object"}
    return {"type": "json_schema", "json_schema": {"name": wanted.name, "schema": wanted.schema, "strict": True}}


def _tool_choice(choice: str) -> object:
    return choice if choice in ("auto", "none", "required") else {"type": "function", "function": {"name": choice}}


def _message(message: Message) -> dict[str, object]:
    wire: dict[str, object] = {"role": message.role, "content": _content(message)}
    if message.name is not None:
        wire["name"] = message.name
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        wire["tool_calls"] = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in message.tool_calls
        ]
    return wire


def _content(message: Message) -> object:
    if message.content is None or isinstance(message.content, str):
        return message.content
    return [_part(part) for part in message.content]


def _part(part: TextPart | ImagePart) -> dict[str, object]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": part.url}}
