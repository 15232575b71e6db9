"""A task's events as an answer of OpenAI's API."""

import json
import tracemalloc
from typing import Any

import pytest
from llama_orch_adapter_api import AdapterError, End, InternalError, Metrics, Started, TaskRequest, Token, ToolCall
from llama_orch_orchestratord import _openai_forms
from llama_orch_orchestratord._openai_forms import ChatChunks, OpenAIForm, TextChunks, WholeChat, WholeText
from llama_orch_orchestratord._openai_requests import Asked

ID = "00000000-0000-4000-8000-000000000001"
STARTED = Started("words", "1", "m", "chat/0")
TOKENS = (Token("é", 0, logprob=-0.5), Token("x", 1, logprob=float("-inf")))
END = End(3, 2, "stop", cached_tokens=1)
USAGE = {
    "prompt_tokens": 3,
    "completion_tokens": 2,
    "total_tokens": 5,
    "prompt_tokens_details": {"cached_tokens": 1},
}


def form(kind: type[OpenAIForm], *, logprobs: bool = False, include_usage: bool = False) -> OpenAIForm:
    task = TaskRequest(task_id=ID, prompt="p")
    return kind(Asked("chat", task, stream=True, include_usage=include_usage, logprobs=logprobs), created=7)


def told(writer: OpenAIForm, *events: Any) -> bytes:
    return b"".join(writer.event(number, event) for number, event in enumerate(events))


def chunks(written: bytes) -> list[Any]:
    """The documents of a stream; what is no JSON, as text."""
    lines = written.decode().removesuffix("\n\n").split("\n\n")
    data = [line.removeprefix("data: ") for line in lines]
    return [text if text == "[DONE]" else json.loads(text) for text in data]


def test_a_chat_in_chunks() -> None:
    """The role, each token, the finish, the usage, `[DONE]`; metrics are nothing. Each chunk tells the same facts."""
    *found, done = chunks(told(form(ChatChunks, include_usage=True), STARTED, TOKENS[0], Metrics(3), TOKENS[1], END))

    assert done == "[DONE]"
    assert [(each["choices"] or [{}])[0].get("delta") for each in found] == [
        {"role": "assistant", "content": ""},
        {"content": "é"},
        {"content": "x"},
        {},
        None,
    ]
    assert [each["usage"] for each in found] == [None] * 4 + [USAGE]
    assert {(each["id"], each["created"], each["model"], each["object"]) for each in found} == {
        (f"chatcmpl-{ID}", 7, "chat", "chat.completion.chunk")
    }
    assert {each["system_fingerprint"] for each in found} == {"words-1"}
    assert found[3]["choices"][0]["finish_reason"] == "stop"


def test_a_pool_may_have_any_name() -> None:
    """Also one that looks like a part of a chunk; and a token that comes before its stream has started is told."""
    name = 'a"content":""b'
    task = TaskRequest(task_id=ID, prompt="p")
    writer = ChatChunks(Asked(name, task, stream=True, include_usage=False, logprobs=False), created=7)
    found = chunks(told(writer, Token('"', 0), STARTED, Token('"', 1)))

    assert [each["model"] for each in found] == [name] * 3
    assert [each["choices"][0]["delta"]["content"] for each in found] == ['"', "", '"']


def test_a_chat_in_one_piece() -> None:
    """What a model thinks, says and calls, each in its place."""
    events = (Token("hm", 0, "reasoning"), Token("yes", 1), Token("{}", 2, "tool_call"))
    end = End(None, 2, "tool_calls", tool_calls=(ToolCall("c", "f", "{}"),))
    answer = json.loads(told(form(WholeChat), STARTED, *events, end))

    assert answer["object"] == "chat.completion"
    assert answer["usage"] is None
    assert answer["choices"] == [
        {
            "index": 0,
            "finish_reason": "tool_calls",
            "logprobs": None,
            "message": {
                "role": "assistant",
                "content": "yes",
                "refusal": None,
                "reasoning_content": "hm",
                "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            },
        }
    ]


def test_thoughts_and_calls_in_chunks() -> None:
    """Thoughts come as they are thought; calls come whole, all in one chunk, before the finish."""
    events = (Token("hm", 0, "reasoning"), Token("{", 1, "tool_call"), Token("}", 2, "tool_call"))
    end = End(3, 3, "tool_calls", tool_calls=(ToolCall("c", "f", "{}"), ToolCall("d", "g", "")))
    *found, done = chunks(told(form(ChatChunks), STARTED, *events, end))

    assert done == "[DONE]"
    assert [each["choices"][0]["delta"] for each in found[1:]] == [
        {"reasoning_content": "hm"},
        {
            "tool_calls": [
                {"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"index": 1, "id": "d", "type": "function", "function": {"name": "g", "arguments": ""}},
            ]
        },
        {},
    ]
    assert found[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_empty_answer_is_a_text() -> None:
    """Only tool calls alone leave the content null."""
    answer = json.loads(told(form(WholeChat), STARTED, END))

    assert answer["choices"][0]["message"] == {"role": "assistant", "content": "", "refusal": None}


@pytest.mark.parametrize("channel", ["content", "reasoning"])
def test_a_prompt_keeps_every_token(channel: Any) -> None:
    """A completed prompt has one channel, whatever the engine calls it."""
    events = (STARTED, Token("a", 0, channel), Token("b", 1, channel), END)
    whole = json.loads(told(form(WholeText), *events))
    *streamed, last, done = chunks(told(form(TextChunks), *events))

    assert whole["choices"] == [{"index": 0, "text": "ab", "logprobs": None, "finish_reason": "stop"}]
    assert whole["usage"] == USAGE
    assert [each["choices"][0]["text"] for each in streamed] == ["a", "b"]
    assert (last["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")
    assert all("usage" not in each for each in (*streamed, last))


def test_logprobs_of_a_chat() -> None:
    """With the bytes of each token, and a number where the engine says infinity."""
    wanted = [
        {"token": "é", "logprob": -0.5, "bytes": [195, 169], "top_logprobs": []},
        {"token": "x", "logprob": -9999.0, "bytes": [120], "top_logprobs": []},
    ]
    whole = json.loads(told(form(WholeChat, logprobs=True), STARTED, *TOKENS, END))
    streamed = chunks(told(form(ChatChunks, logprobs=True), STARTED, *TOKENS, END))

    assert whole["choices"][0]["logprobs"] == {"content": wanted, "refusal": None}
    assert [each["choices"][0]["logprobs"] for each in streamed[1:3]] == [
        {"content": [entry], "refusal": None} for entry in wanted
    ]


def test_logprobs_of_a_prompt() -> None:
    """With the place where each token begins, over all chunks."""
    whole = json.loads(told(form(WholeText, logprobs=True), STARTED, *TOKENS, END))
    streamed = chunks(told(form(TextChunks, logprobs=True), STARTED, *TOKENS, END))
    logprobs = whole["choices"][0]["logprobs"]

    assert (logprobs["tokens"], logprobs["token_logprobs"], logprobs["text_offset"]) == (
        ["é", "x"],
        [-0.5, -9999.0],
        [0, 1],
    )
    assert [each["choices"][0]["logprobs"]["text_offset"] for each in streamed[:2]] == [[0], [1]]


def test_logprobs_that_the_engine_did_not_tell() -> None:
    """Are null, not made up."""
    whole = json.loads(told(form(WholeChat, logprobs=True), STARTED, Token("a", 0), END))

    assert whole["choices"][0]["logprobs"] is None


@pytest.mark.parametrize("kind", [ChatChunks, TextChunks, WholeChat, WholeText])
def test_a_failure_is_a_refusal_and_the_last_event(kind: type[OpenAIForm]) -> None:
    """It is told in the stream, and kept for the status of an answer that had not begun; `[DONE]` does not follow."""
    writer = form(kind)
    (event,) = chunks(writer.failure(0, InternalError("it broke", detail="engine")))

    assert event["error"]["message"] == "it broke"
    assert writer.refusal is not None
    assert (writer.refusal.status, writer.begun) == (500, False)


def test_a_cancelled_task_is_no_answer() -> None:
    """What was said so far must not look like all there is."""
    writer = form(ChatChunks)
    *_, event = chunks(told(writer, STARTED, TOKENS[0], End(None, None, "cancelled")))

    assert event["error"]["code"] == "cancelled"
    assert writer.begun
    assert writer.refusal is not None
    assert writer.refusal.status == 499


@pytest.mark.parametrize("logprobs", [False, True])
def test_a_whole_answer_is_bounded(monkeypatch: pytest.MonkeyPatch, logprobs: bool) -> None:
    """One that would grow for ever ends its task."""
    monkeypatch.setattr(_openai_forms, "MOST", 1000)
    writer = form(WholeChat, logprobs=logprobs)
    taken = 0
    with pytest.raises(AdapterError, match="stream it, or set max_tokens"):
        for taken in range(2000):
            writer.event(taken, Token("a", taken, logprob=-1.0))

    assert taken == (7 if logprobs else 1000)


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize("kind", [WholeChat, WholeText])
def test_a_whole_answer_holds_its_text_alone(kind: type[OpenAIForm], ends: bool) -> None:
    """Many tokens of one character hold no more than their characters, and nothing once the answer is made."""
    writer = form(kind)
    tracemalloc.start()
    try:
        for number in range(100_000):
            writer.event(number, Token(chr(0x4E00 + number % 20_000), number))
        held, _ = tracemalloc.get_traced_memory()
        if ends:
            writer.event(100_000, END)
        else:
            writer.failure(100_000, InternalError("it broke", detail="engine"))
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 100_000 * 4
    assert left < 50_000


@pytest.mark.parametrize("kind", [WholeChat, WholeText])
def test_a_whole_answer_is_what_was_said(kind: type[OpenAIForm]) -> None:
    """Line breaks of every kind and characters of every width are as the engine gave them, in its order."""
    said = ["a\r\n", "\r", "\n\u2028", "é漢😀", ""]
    whole = json.loads(told(form(kind), STARTED, *(Token(text, i) for i, text in enumerate(said)), END))
    (choice,) = whole["choices"]

    assert (choice["text"] if kind is WholeText else choice["message"]["content"]) == "".join(said)


@pytest.mark.parametrize("logprobs", [False, True])
def test_a_completed_prompt_is_of_all_channels_in_order(logprobs: bool) -> None:
    """What a model thinks stands where it was said."""
    events = (STARTED, Token("a", 0), Token("b", 1, "reasoning"), Token("c", 2), END)
    whole = json.loads(told(form(WholeText, logprobs=logprobs), *events))

    assert whole["choices"][0]["text"] == "abc"
