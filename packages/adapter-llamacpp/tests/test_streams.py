"""The engine's streams, whole, cut anywhere, broken off and with what may stand between: what tasks come to."""

import json
import random

import msgspec
import pytest
from llama_orch_adapter_api import (
    End,
    Token,
    ToolCall,
    WorkerReset,
)
from llama_orch_adapter_testkit import (
    Capture,
    Outcome,
    Reply,
    all_kinds_of_cuts,
    outcome,
)

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    CHAT,
    NATIVE,
    SHELF,
    STARTED,
    STREAMS,
    TASKS,
    finish_event,
    last_timings,
    met_with,
    running,
)


@pytest.mark.parametrize("name", STREAMS)
async def test_a_captured_stream_is_read(name: str):
    """Started, the tokens in order, and an end with the engine's own counts and figures."""
    expected, one = STREAMS[name], SHELF[name]
    seen = await met_with(Reply.capture(one), expected.path)

    timings = last_timings(one)
    assert seen == Outcome(
        (
            STARTED,
            *(Token(text, i) for i, text in enumerate(expected.text)),
            End(
                tokens_in=expected.tokens_in,
                tokens_out=expected.tokens_out,
                finish_reason=expected.finish_reason,  # type: ignore[arg-type]
                cached_tokens=expected.cached,
                decode_time_ms=timings["predicted_ms"],
                timings=timings,
                seed=7,
            ),
        )
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
    lengths = [len(got.pieces) for got in seen]
    assert ended_well == {offset for offset in offsets if offset >= finish}
    assert {got.failure for got in seen} == {"", "WORKER_RESET reset", "WORKER_RESET truncated"}
    assert all(got.pieces == STREAMS[name].text[: len(got.pieces)] for got in seen)
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
    assert seen.pieces == STREAMS[name].text
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
    assert seen.pieces == STREAMS[name].text
    assert seen.end is not None
    assert seen.end.tokens_out == len(seen.pieces)


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

    assert seen == Outcome((STARTED, Token("a", 0), End(None, None, "stop", seed=7)))


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

    assert [*seen.events[1:]] == [
        Token("hm", 0, "reasoning"),
        Token("{}", 1, "tool_call"),
        End(None, None, "tool_calls", tool_calls=(ToolCall("a", "f", "{}"),), seed=7),
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

    assert (seen.pieces, seen.failure) == (["a"], "INTERNAL engine")
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
    assert [one.pieces for one in seen] == [[], []]


def texts_of(one: Capture) -> list[str]:
    """The pieces of text in a stream of the OpenAI dialect, in their order."""
    events = [json.loads(line[6:]) for line in one.body.splitlines() if line.startswith(b"data: {")]
    choices = [choice for event in events for choice in event["choices"]]
    texts = [choice["text"] if "text" in choice else choice["delta"].get("content") for choice in choices]
    return [text for text in texts if text]


@pytest.mark.parametrize(
    "name",
    [
        "v1_completions_stream",
        "v1_completions_stream_http10",
        "v1_completions_stream_nousage",
        "v1_completions_logprobs_stream",
        "v1_chat_tools_stream",
        "get_v1_stream_replay",
    ],
)
async def test_every_stream_of_the_dialect_is_read(name: str):
    """Usage beside the last choice or absent, text instead of deltas, an answer to HTTP/1.0: the text is whole."""
    seen = await met_with(Reply.capture(SHELF[name]), CHAT)

    assert seen.pieces == texts_of(SHELF[name])
    assert seen.end is not None


@pytest.mark.parametrize("name", ["v1_completions_stream_server_killed9", "v1_completions_stream_server_sigterm"])
async def test_an_engine_that_died_is_a_reset(name: str):
    """Killed, it ends without a last chunk; stopped, after a comment: resets, and what it had sent is not lost."""
    seen = await met_with(Reply.capture(SHELF[name]), CHAT)

    assert seen.failure.startswith("WORKER_RESET")
    assert seen.pieces == texts_of(SHELF[name]) != []


async def test_any_model_name_is_served():
    """The engine has one model and takes every name for it, as it was seen to; `Started` tells which one that is."""
    seen_to = SHELF["err_unknown_model_200"]
    asked = msgspec.structs.replace(TASKS[NATIVE], model_ref="nope")
    async with running({("POST", NATIVE): Reply.capture(SHELF["completion_stream"])}) as (adapter, engine):
        seen = await outcome(adapter, asked)

    assert b'"model": "nope"' in seen_to.request
    assert seen_to.response.startswith(b"HTTP/1.1 200 ")
    assert b'"model":"smollm2"' in seen_to.body
    assert engine.requests[-1].json()["model"] == "nope"
    assert seen.end is not None
    assert seen.started is not None
    assert seen.started.model == "smollm2"


@pytest.mark.parametrize("name", ["v1_messages_stream", "v1_responses_stream"])
async def test_another_dialect_is_never_a_success(name: str):
    """What the engine streams on its other routes has no finish event of ours."""
    seen = await met_with(Reply.capture(SHELF[name]), CHAT)

    assert (seen.pieces, seen.end) == ([], None)


@pytest.mark.parametrize("path", TASKS)
@pytest.mark.parametrize(
    "name", ["v1_chat_nostream", "v1_completions_nostream", "err_unknown_model_200", "key_ok", "key_x"]
)
async def test_a_whole_answer_is_no_stream(name: str, path: str):
    """The engine was asked to stream: what is answered in one piece is refused."""
    seen = await met_with(Reply.capture(SHELF[name]), path)

    assert (seen.failure, seen.pieces) == ("ADAPTER decode", [])
