"""What clients of OpenAI's API send, as tasks of the boundary. Pure.

A parameter that cannot be had and would change the answer is refused by its name, and so is one that nobody here knows;
what changes nothing is passed over.
"""

import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import msgspec
from llama_orch_adapter_api import (
    AdapterError,
    ImagePart,
    JsonSchema,
    Message,
    Sampling,
    TaskRequest,
    TextPart,
    Tool,
    ToolCall,
    one_line,
)

from ._mends import mend_of
from ._openai_errors import Unfit
from ._openai_wire import (
    AnyObject,
    ChatRequest,
    ChosenTool,
    CompletionRequest,
    FittingJson,
    ImageContent,
    PlainText,
    Request,
    SentMessage,
    SentTool,
    TextContent,
)

T = TypeVar("T")

PASSED_OVER = frozenset(("user", "safety_identifier", "metadata", "store", "prediction", "prompt_cache_retention"))
"""Parameters that do not change an answer."""

HANDED_ON = ("parallel_tool_calls", "reasoning_effort", "chat_template_kwargs")
"""Parameters of a chat that reach the engine as they are."""

_INSTEAD = {
    "functions": "use tools",
    "function_call": "use tool_choice",
    "guided_json": "use response_format",
    "repetition_penalty": "use repeat_penalty",
}
_MEND = "leave it out, or give it within `extra` if the engine knows it"
_CHOICES = ("auto", "none", "required")
_LONGEST = 400
"""Characters of a refusal: what the sender wrote stands in it."""

_PLACE = re.compile(r" - at (?:`key` in )?`\$\.?([^`]*)`$")
_FIELD = re.compile(r"(\w+)(?:\[\d*\])?(?= )")


_PARAMETERS = frozenset((*ChatRequest.__struct_fields__, *CompletionRequest.__struct_fields__))


class BadRequest(Unfit):
    """A request that cannot be done as it stands."""

    def __init__(self, why: str, param: str | None) -> None:
        super().__init__(400, AdapterError(one_line(why)[:_LONGEST], detail="bad_request", phase="queue"), param)


class Asked(msgspec.Struct, frozen=True):
    """What a request comes to. `logprobs`: the answer shall have those of its tokens."""

    pool_id: str
    task: TaskRequest
    stream: bool
    include_usage: bool
    logprobs: bool


def read_chat(body: bytes, correlation_id: str) -> Asked:
    """A chat as a task. Raises `BadRequest`."""
    sent = _read(body, ChatRequest)
    _refuse(bool(sent.top_logprobs), "top_logprobs", "is not 0; alternatives are not carried, leave it out")
    _refuse(not sent.messages, "messages", "is empty; give at least one")
    _refuse(sent.modalities not in (None, ["text"]), "modalities", 'is not ["text"]; answers are text alone')
    extra = {name: value for name in HANDED_ON if (value := getattr(sent, name)) is not None}
    return _asked(
        sent,
        correlation_id,
        logprobs=bool(sent.logprobs),
        messages=tuple(_message(i, message) for i, message in enumerate(sent.messages)),
        max_tokens=_length(sent),
        response_format=_format(sent.response_format),
        tools=_made("tools", lambda: tuple(map(_tool, sent.tools or ()))),
        tool_choice=_choice(sent),
        extra=extra | (sent.extra or {}),
    )


def read_completion(body: bytes, correlation_id: str) -> Asked:
    """A prompt as a task. Raises `BadRequest`."""
    sent = _read(body, CompletionRequest)
    _refuse(bool(sent.logprobs), "logprobs", "is not 0; alternatives are not carried, 0 gives the chosen tokens'")
    _refuse(bool(sent.echo), "echo", "is true; the prompt is not repeated, leave it out")
    _refuse(sent.best_of not in {None, 1}, "best_of", "is not 1; one answer is made, leave it out")
    _refuse(bool(sent.suffix), "suffix", "is given; nothing is filled in before it, leave it out")
    return _asked(
        sent,
        correlation_id,
        logprobs=sent.logprobs is not None,
        prompt=_prompt(sent.prompt),
        max_tokens=sent.max_tokens,
        extra=sent.extra or {},
    )


def _read(body: bytes, kind: type[T]) -> T:
    try:
        sent = _decoded(body, kind)
        if not isinstance(sent, dict):
            raise BadRequest("the body is no JSON object", None)
        _check_known((name for name, value in sent.items() if value is not None), kind)
        return msgspec.convert(sent, kind, str_keys=True)
    except RecursionError:
        raise BadRequest("the body is nested too deep", None) from None
    except UnicodeDecodeError:
        raise BadRequest("the body is not UTF-8; send it as UTF-8", None) from None
    except ValueError as error:
        raise _unread(str(error), kind) from None


def _decoded(body: bytes, kind: type) -> object:
    """The body as it is. What is wrong with a value is told with its place, which takes knowing what it should be."""
    try:
        return msgspec.json.decode(body)
    except msgspec.ValidationError:
        msgspec.json.decode(body, type=kind)
        raise


def _check_known(given: Iterable[str], kind: type) -> None:
    known: tuple[str, ...] = kind.__struct_fields__  # type: ignore[attr-defined]  # it is a Struct
    for name in given:
        _refuse(
            name not in known and name not in PASSED_OVER, name[:80], f"is not known here; {_INSTEAD.get(name, _MEND)}"
        )


def _refuse(condition: bool, param: str, why: str) -> None:  # noqa: FBT001  # reads like assert
    if condition:
        raise BadRequest(f"{param} {why}", param)


def _unread(why: str, kind: type) -> BadRequest:
    """What msgspec says of a value, as a refusal that names the place."""
    found = _PLACE.search(why)
    missing = re.search(r"missing required field `(\w+)`", why)
    place = found[1].partition("[...]")[0] if found else ""  # below that msgspec knows no names
    if missing:
        place = f"{place}.{missing[1]}".lstrip(".")
    told = _PLACE.sub("", why) + mend_of(why, kind)
    return BadRequest(f"{place}: {told}" if place else f"the body cannot be read: {told}", place or None)


def _made(param: str | None, make: Callable[[], T]) -> T:
    """A value of the boundary, whose own refusal is told as that of a parameter: this one, or that which it names."""
    try:
        return make()
    except ValueError as error:
        why = str(error).replace("sampling.", "").replace("session_id", "prompt_cache_key")
        found = _FIELD.match(why)
        named = found is not None and found[1] in _PARAMETERS
        raise BadRequest(why, param or (found[0] if found and named else None)) from None


def _asked(sent: Request, correlation_id: str, *, logprobs: bool, **facts: Any) -> Asked:  # noqa: ANN401  # fields of a task
    _refuse(sent.n not in {None, 1}, "n", f"is {sent.n}; one answer is made, leave it out or ask again for another one")
    task = _made(
        None,
        lambda: TaskRequest(
            sampling=_sampling(sent, logprobs=logprobs),
            seed=sent.seed,
            priority="batch" if sent.service_tier == "flex" else "interactive",
            session_id=sent.prompt_cache_key or None,
            correlation_id=correlation_id,
            **facts,
        ),
    )
    include_usage = sent.stream_options is not None and bool(sent.stream_options.include_usage)
    return Asked(sent.model, task, bool(sent.stream), include_usage, logprobs)


def _sampling(sent: Request, *, logprobs: bool) -> Sampling:
    return Sampling(
        temperature=sent.temperature,
        top_p=sent.top_p,
        top_k=sent.top_k,
        min_p=sent.min_p,
        presence_penalty=sent.presence_penalty,
        frequency_penalty=sent.frequency_penalty,
        repeat_penalty=sent.repeat_penalty,
        stop=(sent.stop,) if isinstance(sent.stop, str) else tuple(sent.stop or ()),
        logit_bias=sent.logit_bias,
        logprobs=0 if logprobs else None,
    )


def _length(sent: ChatRequest) -> int | None:
    old, new = sent.max_tokens, sent.max_completion_tokens
    _refuse(None not in {old, new} and old != new, "max_completion_tokens", "is not max_tokens; give one of them")
    return old if new is None else new


def _prompt(sent: str | list[Any]) -> str:
    prompt = sent[0] if isinstance(sent, list) and len(sent) == 1 else sent
    _refuse(not isinstance(prompt, str), "prompt", "is no single text; give one text, no tokens, and ask once for each")
    return str(prompt)


def _message(index: int, sent: SentMessage) -> Message:
    content = sent.content if sent.content is None or isinstance(sent.content, str) else tuple(map(_part, sent.content))
    calls = tuple(ToolCall(call.id, call.function.name, call.function.arguments) for call in sent.tool_calls or ())
    return _made(
        f"messages[{index}]",
        lambda: Message(sent.role, content, name=sent.name, tool_calls=calls, tool_call_id=sent.tool_call_id),
    )


def _part(sent: TextContent | ImageContent) -> TextPart | ImagePart:
    return TextPart(sent.text) if isinstance(sent, TextContent) else ImagePart(sent.image_url.url)


def _tool(sent: SentTool) -> Tool:
    function = sent.function
    return Tool(function.name, function.description or "", function.parameters or {})


def _choice(sent: ChatRequest) -> str | None:
    """What the boundary calls it. Without tools there is nothing to choose, which `auto` and `none` allow."""
    choice = sent.tool_choice
    if isinstance(choice, ChosenTool):
        name = choice.function.name
        _refuse(name in _CHOICES, "tool_choice", f"names a tool {name!r}, which is a word of its own; rename it")
        return name
    return choice if sent.tools or choice == "required" else None


def _format(sent: PlainText | AnyObject | FittingJson | None) -> JsonSchema | None:
    if sent is None or isinstance(sent, PlainText):
        return None
    if isinstance(sent, AnyObject):
        return JsonSchema({})
    wanted = sent.json_schema
    return _made("response_format", lambda: JsonSchema(wanted.schema or {}, wanted.name))
