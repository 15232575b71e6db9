"""What a caller asks of an engine. One request type for every engine; it is valid by construction.

Checks stand in `__post_init__`, so they hold for construction, `replace` and decoding alike. A refusal is a
`ValueError` (a `msgspec.ValidationError` with the JSON path when decoding) that names the field and the mend.
"""

import re
import uuid
from typing import Any, Literal, get_args

import msgspec

from ._check import (
    MAX_INT,
    encodable,
    identifier,
    instance,
    jsonable,
    one_of,
    require,
    sequence,
    shown,
    whole,
    within,
)

Workload = Literal["completion", "embedding", "rerank"]
Role = Literal["system", "developer", "user", "assistant", "tool"]
Determinism = Literal["strict", "best_effort"]
Priority = Literal["interactive", "batch"]
KvHint = Literal["reuse", "cold"]

_CHOICES: dict[str, tuple[object, ...]] = {
    "workload": get_args(Workload),
    "determinism": get_args(Determinism),
    "priority": get_args(Priority),
    "kv_hint": (*get_args(KvHint), None),
}

MAX_SEED = 2**32 - 2
"""Seeds are unsigned 32-bit; llama.cpp reads 2**32 - 1 as "choose one at random", so that one is no seed."""

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class TextPart(msgspec.Struct, frozen=True, tag_field="type", tag="text"):
    """A piece of a message's text."""

    text: str


class ImagePart(msgspec.Struct, frozen=True, tag_field="type", tag="image"):
    """A picture in a message. `url` is a data URL or one that the engine itself may fetch."""

    url: str


ContentPart = TextPart | ImagePart


class ToolCall(msgspec.Struct, frozen=True):
    """A call of a tool by the model. `arguments` is the JSON text as the model wrote it, not parsed."""

    id: str
    name: str
    arguments: str


class Tool(msgspec.Struct, frozen=True):
    """A function the model may call. `parameters` is a JSON schema."""

    name: str
    description: str = ""
    parameters: dict[str, Any] = {}

    def __post_init__(self) -> None:
        identifier("tools[].name", self.name)
        instance("tools[].parameters", self.parameters, dict)
        jsonable("tools[]", self)


class Message(msgspec.Struct, frozen=True, omit_defaults=True):
    """One turn of a chat. `content` is text or typed parts; None only beside `tool_calls`."""

    role: Role
    content: str | tuple[ContentPart, ...] | None = None
    name: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None

    def __post_init__(self) -> None:
        one_of("messages[].role", self.role, get_args(Role))
        require(
            self.content is not None or bool(self.tool_calls),
            f"a message of role {self.role!r} has neither content nor tool_calls; give one of them",
        )
        for text in _texts(self.content):
            encodable("messages[].content", text)
        identifier("messages[].name", self.name)
        identifier("messages[].tool_call_id", self.tool_call_id)
        sequence("messages[].tool_calls", self.tool_calls, ToolCall)
        jsonable("messages[].tool_calls", self.tool_calls)


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How the next token is chosen. None leaves a knob at the engine's own default.

    `logprobs` asks for that many alternatives per token (0: the chosen token's alone). `logit_bias` maps token ids
    to what is added to their logit. Penalties are 0 (or 1 for `repeat_penalty`) when off.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repeat_penalty: float | None = None
    stop: tuple[str, ...] = ()
    logit_bias: dict[int, float] | None = None
    logprobs: int | None = None

    def __post_init__(self) -> None:
        within("sampling.temperature", self.temperature, 0, 100)
        within("sampling.top_p", self.top_p, 0, 1)
        whole("sampling.top_k", self.top_k, 0, MAX_INT)
        within("sampling.min_p", self.min_p, 0, 1)
        within("sampling.presence_penalty", self.presence_penalty, -2, 2)
        within("sampling.frequency_penalty", self.frequency_penalty, -2, 2)
        within("sampling.repeat_penalty", self.repeat_penalty, 0, 100)
        whole("sampling.logprobs", self.logprobs, 0, 100)
        for token, bias in (self.logit_bias or {}).items():
            whole("a token of sampling.logit_bias", token, 0, MAX_INT)
            within(f"sampling.logit_bias[{token}]", bias, -100, 100)
        sequence("sampling.stop", self.stop, str)
        for word in self.stop:
            require(bool(word), "sampling.stop holds an empty string, which would stop at once; remove it")
            encodable("sampling.stop", word)


class JsonSchema(msgspec.Struct, frozen=True, tag_field="type", tag="json_schema"):
    """The answer shall be JSON that fits `schema`; an empty schema asks for any JSON object."""

    schema: dict[str, Any]
    name: str = "answer"

    def __post_init__(self) -> None:
        identifier("response_format.name", self.name)
        instance("response_format.schema", self.schema, dict)
        jsonable("response_format.schema", self.schema)


class Grammar(msgspec.Struct, frozen=True, tag_field="type", tag="grammar"):
    """The answer shall fit a grammar, in the engine's own notation (GBNF for llama.cpp, EBNF for vLLM)."""

    grammar: str

    def __post_init__(self) -> None:
        encodable("response_format.grammar", self.grammar)


ResponseFormat = JsonSchema | Grammar


def new_task_id() -> str:
    """A fresh random UUID in its canonical text form."""
    return str(uuid.uuid4())


class TaskRequest(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One task for an engine of a pool: exactly one of `prompt`, `messages` or `inputs`.

    `prompt` is completed as it is; `messages` are rendered by the engine's chat template; `inputs` are the texts to
    embed, or the documents to score against `query`. `max_tokens` None leaves the length to the engine.
    `deadline_ms` counts from submit and bounds everything; an adapter is given what is left of it when it is asked.
    `expected_tokens` is a hint for scheduling. `max_attempts` 1 switches retries off; None takes the host's number.
    `replica_id` pins the task to one replica.
    `extra` reaches the engine's request body as it is, over whatever the adapter put there.
    """

    task_id: str = msgspec.field(default_factory=new_task_id)
    session_id: str | None = None
    workload: Workload = "completion"
    model_ref: str | None = None
    prompt: str | None = None
    messages: tuple[Message, ...] = ()
    inputs: tuple[str, ...] = ()
    query: str | None = None
    max_tokens: int | None = None
    sampling: Sampling = Sampling()
    seed: int | None = None
    determinism: Determinism = "best_effort"
    sampler_profile_version: str | None = None
    response_format: ResponseFormat | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: str | None = None
    priority: Priority = "interactive"
    deadline_ms: int | None = None
    expected_tokens: int | None = None
    kv_hint: KvHint | None = None
    max_attempts: int | None = None
    replica_id: str | None = None
    correlation_id: str | None = None
    traceparent: str | None = None
    extra: dict[str, Any] = {}

    def __post_init__(self) -> None:
        require(
            isinstance(self.task_id, str) and _UUID.fullmatch(self.task_id) is not None,
            f"task_id {shown(self.task_id)} is no lower-case UUID; leave it out and one is made",
        )
        for name, allowed in _CHOICES.items():
            one_of(name, getattr(self, name), allowed)
        self._check_subject()
        instance("sampling", self.sampling, Sampling)
        instance("response_format", self.response_format, JsonSchema, Grammar, type(None))
        whole("max_tokens", self.max_tokens, 1, MAX_INT)
        whole("seed", self.seed, 0, MAX_SEED)
        whole("deadline_ms", self.deadline_ms, 1, MAX_INT)
        whole("expected_tokens", self.expected_tokens, 0, MAX_INT)
        whole("max_attempts", self.max_attempts, 1, 100)
        require(
            self.determinism != "strict" or self.seed is not None,
            "determinism is 'strict' but seed is missing; give a seed",
        )
        self._check_tools()
        for name in ("session_id", "model_ref", "replica_id", "correlation_id", "sampler_profile_version"):
            identifier(name, getattr(self, name))
        instance("traceparent", self.traceparent, str, type(None))
        require(
            self.traceparent is None or _TRACEPARENT.fullmatch(self.traceparent) is not None,
            f"traceparent {shown(self.traceparent)} is not in the W3C form; give 00-<32 hex>-<16 hex>-<2 hex>",
        )
        instance("extra", self.extra, dict)
        jsonable("extra", self.extra)

    def _check_subject(self) -> None:
        given = [name for name in ("prompt", "messages", "inputs") if getattr(self, name) not in (None, (), [])]
        wanted = ("prompt", "messages") if self.workload == "completion" else ("inputs",)
        require(
            len(given) == 1 and given[0] in wanted,
            f"workload {self.workload!r} takes {' or '.join(wanted)}, exactly one of them; "
            f"given: {' and '.join(given) or 'none'}",
        )
        require(self.prompt != "", "prompt is empty; give at least one character")
        require(
            (self.query is not None) == (self.workload == "rerank"),
            "query goes with workload 'rerank', which needs it; "
            f"the workload is {self.workload!r} and query is {'missing' if self.query is None else 'given'}",
        )
        sequence("messages", self.messages, Message)
        sequence("inputs", self.inputs, str)
        for name, text in (("prompt", self.prompt), ("query", self.query), *(("inputs[]", i) for i in self.inputs)):
            if text is not None:
                encodable(name, text)

    def _check_tools(self) -> None:
        sequence("tools", self.tools, Tool)
        if self.tool_choice is None:
            return
        require(bool(self.tools), "tool_choice is given but tools is empty; give tools or leave tool_choice out")
        choices = ("auto", "none", "required", *(tool.name for tool in self.tools))
        require(
            self.tool_choice in choices,
            f"tool_choice {shown(self.tool_choice)} is none of these; give one of them: {', '.join(choices)}",
        )


def _texts(content: str | tuple[ContentPart, ...] | None) -> tuple[str, ...]:
    if content is None:
        return ()
    if isinstance(content, str):
        return (content,)
    sequence("messages[].content", content, TextPart, ImagePart)
    return tuple(part.text if isinstance(part, TextPart) else part.url for part in content)
