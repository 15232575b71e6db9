"""What clients of OpenAI's API send, as Structs."""

from typing import Any, Literal

import msgspec


class Sent(msgspec.Struct, frozen=True):
    """A piece of what is sent. Fields that it does not name are passed over."""


class TextContent(Sent, frozen=True, tag_field="type", tag="text"):
    """A piece of a message's text."""

    text: str


class ImageUrl(Sent, frozen=True):
    """Where a picture is: a data URL, or one that the engine itself may fetch."""

    url: str


class ImageContent(Sent, frozen=True, tag_field="type", tag="image_url"):
    """A picture in a message."""

    image_url: ImageUrl


class CalledFunction(Sent, frozen=True):
    """What a tool call calls; `arguments` is JSON as text."""

    name: str
    arguments: str


class SentCall(Sent, frozen=True):
    """A tool call of an earlier answer."""

    id: str
    function: CalledFunction
    type: Literal["function"] = "function"


class SentMessage(Sent, frozen=True):
    """One turn of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[TextContent | ImageContent] | None = None
    name: str | None = None
    tool_calls: list[SentCall] | None = None
    tool_call_id: str | None = None


class Function(Sent, frozen=True):
    """A function that the model may call."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None


class SentTool(Sent, frozen=True):
    """A tool; functions are the only ones there are."""

    function: Function
    type: Literal["function"] = "function"


class ChosenFunction(Sent, frozen=True):
    """The name of a function."""

    name: str


class ChosenTool(Sent, frozen=True):
    """The tool that shall be called."""

    function: ChosenFunction
    type: Literal["function"] = "function"


class SchemaWanted(Sent, frozen=True):
    """The schema that the answer shall fit; without one any JSON object does."""

    name: str = "answer"
    schema: dict[str, Any] | None = None


class PlainText(Sent, frozen=True, tag_field="type", tag="text"):
    """Any answer."""


class AnyObject(Sent, frozen=True, tag_field="type", tag="json_object"):
    """Any JSON object."""


class FittingJson(Sent, frozen=True, tag_field="type", tag="json_schema"):
    """JSON that fits a schema, whether `strict` or not."""

    json_schema: SchemaWanted


class StreamOptions(Sent, frozen=True):
    """Whether a chunk with the usage comes last."""

    include_usage: bool | None = None


class Request(Sent, frozen=True, kw_only=True):
    """What both routes take; null is as if left out. `model` names the pool.

    `top_k`, `min_p`, `repeat_penalty` and `extra`, which reaches the engine's request body, are no parameters of
    OpenAI's. `service_tier` "flex" lets a task wait behind the others. Tasks of one `prompt_cache_key` go to one
    replica where the pool has affinity.
    """

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    logit_bias: dict[int, float] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    service_tier: Literal["auto", "default", "flex", "priority", "scale"] | None = None
    prompt_cache_key: str | None = None
    extra: dict[str, Any] | None = None


class ChatRequest(Request, frozen=True, kw_only=True):
    """The body of `POST /v1/chat/completions`."""

    messages: list[SentMessage]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    tools: list[SentTool] | None = None
    tool_choice: Literal["auto", "none", "required"] | ChosenTool | None = None
    response_format: PlainText | AnyObject | FittingJson | None = None
    modalities: list[str] | None = None
    parallel_tool_calls: bool | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class CompletionRequest(Request, frozen=True, kw_only=True):
    """The body of `POST /v1/completions`."""

    prompt: str | list[Any]
    logprobs: int | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None
