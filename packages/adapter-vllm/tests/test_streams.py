"""The engine's streams, whole, cut anywhere, broken off and with what may stand between: what tasks come to."""

import random

import pytest
from llama_orch_adapter_api import (
    End,
    Token,
    ToolCall,
    WorkerReset,
)
from llama_orch_adapter_testkit import (
    Outcome,
    Reply,
    all_kinds_of_cuts,
    captures,
)

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    CHAT,
    MATRIX,
    SHELF,
    STARTED,
    STREAMS,
    TASKS,
    finish_event,
    met_with,
)


@pytest.mark.parametrize("name", STREAMS)
async def test_a_captured_stream_is_read(name: str):
    """Started, the tokens in order with their logprobs where asked for, and an end with the engine's own counts."""
    expected = STREAMS[name]
    seen = await met_with(Reply.capture(SHELF[name]), expected.path)

    logprobs = expected.logprobs or [None] * len(expected.text)
    assert seen == Outcome(
        (
            STARTED,
            *(Token(t, i, logprob=p) for i, (t, p) in enumerate(zip(expected.text, logprobs, strict=True))),
            End(expected.tokens_in, expected.tokens_out, "length", seed=7),
        )
    )


def test_every_stream_is_expected_to_be_something():
    """No captured stream is left out of the table; the broken one has a test of its own."""
    broken = "v1_completions_stream_server_sigterm"

    assert {one.name for one in captures.streams("vllm")} == STREAMS.keys() | {broken}


@pytest.mark.parametrize("name", STREAMS)
async def test_cuts_change_nothing(name: str):
    """However an answer is cut into pieces, inside characters, events, chunks and headers: the same events come."""
    one, path = SHELF[name], STREAMS[name].path
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
@pytest.mark.parametrize("name", MATRIX)
async def test_a_truncated_answer_is_never_a_success(name: str, framing: str, reset: bool):
    """Whatever the framing, without its finish event an answer ends in WorkerReset (battery 8, truncation_matrix)."""
    body = SHELF[name].body
    begin, _ = finish_event(body)
    reply = Reply.raw(broken_off(body[:begin], framing), stop_after=len(body) * 2, reset=reset)
    seen = await met_with(reply, STREAMS[name].path)

    assert (seen.end, type(seen.error)) == (None, WorkerReset)
    assert seen.pieces == STREAMS[name].text[:-1]
    assert seen.error is not None
    assert seen.error.phase == "decode"


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
@pytest.mark.parametrize("name", MATRIX)
@pytest.mark.parametrize("left_out", [b"data: [DONE]\n\n", b""], ids=["without DONE", "with DONE"])
async def test_a_finished_answer_is_a_success(name: str, framing: str, left_out: bytes):
    """With its finish event an answer is whole, though the connection broke after it (battery 8, truncation_matrix)."""
    body = SHELF[name].body.removesuffix(left_out)
    seen = await met_with(Reply.raw(broken_off(body, framing), stop_after=len(body) * 2), STREAMS[name].path)

    assert seen.error is None
    assert seen.pieces == STREAMS[name].text
    assert seen.end == End(STREAMS[name].tokens_in, STREAMS[name].tokens_out, "length", seed=7)


@pytest.mark.parametrize("cut", [0, 700])
async def test_a_reset_connection_is_a_reset(cut: int):
    """A TCP reset, before the head or in mid-stream, is a WorkerReset."""
    seen = await met_with(Reply.capture(SHELF["v1_completions_stream"], stop_after=cut, reset=True))

    assert isinstance(seen.error, WorkerReset)


async def test_what_stands_between_events_is_passed_over():
    """Comments, before any data as well, `data: null` and empty events are no answer and no error."""
    end = {"choices": [{"index": 0, "text": "", "finish_reason": "stop"}]}
    seen = await met_with(
        Reply.sse(
            [b":\n\n", "null", b": ping\n\n", {"choices": [{"text": "a"}]}, b"\n", "null", end, b":\n\n", "[DONE]"]
        )
    )

    assert seen == Outcome((STARTED, Token("a", 0), End(None, None, "stop", seed=7)))


async def test_reasoning_and_tool_calls():
    """Both come in channels of their own; the calls are whole in the end."""
    deltas = [
        {"role": "assistant", "content": ""},
        {"reasoning": "hm"},
        {"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f"}}]},
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


async def test_a_dead_core_ends_the_stream_in_its_error():
    """The engine answers 200, an error object and `[DONE]`: that is its failure, after the tokens it had sent."""
    seen = await met_with(Reply.capture(SHELF["v1_completions_stream_server_sigterm"]))

    assert (seen.pieces, seen.failure) == ([",", " Anth", "rax", " worked"], "INTERNAL engine")
    assert seen.error is not None
    assert "500: EngineCore encountered an issue." in seen.error.message
    assert (seen.error.retriable, seen.error.engine_fault) == (True, True)


@pytest.mark.parametrize("done", [[], ["[DONE]"]], ids=["alone", "before DONE"])
@pytest.mark.parametrize(("reason", "failure"), [("abort", "WORKER_RESET aborted"), ("error", "INTERNAL engine")])
async def test_giving_up_is_no_end(reason: str, failure: str, done: list[str]):
    """A task that the engine aborted has not finished, though it has a finish reason."""
    given_up = {"choices": [{"index": 0, "text": "b", "finish_reason": reason}]}
    seen = await met_with(Reply.sse([{"choices": [{"text": "a"}]}, given_up, *done]))

    assert (seen.end, seen.failure) == (None, failure)


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (Reply.sse(["{"]), "ADAPTER decode"),
        (Reply.sse(["[1]"]), "ADAPTER decode"),
        (Reply.sse(["{" + '"a":[' * 100_000]), "ADAPTER decode"),
        (Reply.sse([b'data: {"error":"\xf0\x9f"}\n\n']), "ADAPTER decode"),
        (Reply.sse([]), "WORKER_RESET truncated"),
        (Reply.sse(["[DONE]"]), "WORKER_RESET truncated"),
        (Reply.json(200, {"choices": [{"text": "a", "finish_reason": "stop"}]}), "ADAPTER decode"),
        (Reply.redirect("http://127.0.0.1:9/v1/completions"), "ADAPTER redirect"),
        (Reply.raw(b"SSH-2.0-OpenSSH_9.6\r\n\r\n", stop_after=99), "ADAPTER decode"),
    ],
    ids=["half", "list", "deep", "half a character", "empty", "DONE alone", "whole", "redirect", "not HTTP"],
)
async def test_an_answer_that_is_none(reply: Reply, failure: str):
    """What is not the engine's stream is an error that says so, on both routes."""
    seen = [await met_with(reply, path) for path in TASKS]

    assert [one.failure for one in seen] == [failure] * 2
    assert [one.pieces for one in seen] == [[], []]


@pytest.mark.parametrize("path", TASKS)
@pytest.mark.parametrize(
    "name",
    ["v1_chat_nostream", "extra_field", "missing_model_ok", "request_id_body", "request_id_dup", "request_id_header"],
)
async def test_a_whole_answer_is_no_stream(name: str, path: str):
    """The engine was asked to stream: what is answered in one piece is refused."""
    seen = await met_with(Reply.capture(SHELF[name]), path)

    assert (seen.failure, seen.pieces) == ("ADAPTER decode", [])
