"""OpenAI's dialect against what llama.cpp and vLLM sent, and against chunks made for what neither was seen to send."""

import json
from collections.abc import Iterable
from typing import Any, NamedTuple

import msgspec
import pytest
from llama_orch_adapter_api import (
    AdapterError,
    End,
    InternalError,
    PoolUnavailable,
    Token,
    ToolCall,
    WorkerError,
    WorkerReset,
)
from llama_orch_adapter_testkit import Capture, captures, splits, sse_cuts
from llama_orch_http_util import SSEDecoder
from llama_orch_http_util.openai import CHUNK, Answer

WHERE = "engine:8000"
OTHER_DIALECTS = {
    "completion_stream",
    "completion_stream_emoji",
    "completion_stream_cut_in_emoji",
    "n_predict_0",
    "v1_messages_stream",
    "v1_responses_stream",
}
STREAMS = [one for one in captures.streams() if one.name not in OTHER_DIALECTS]


def read(answer: Answer, pieces: Iterable[bytes]) -> list[Token]:
    """The tokens of a stream's body, fed piece by piece, up to `[DONE]`."""
    frames, tokens = SSEDecoder(), list[Token]()
    for piece in pieces:
        for frame in frames.feed(piece):
            if bytes(frame.data) == b"[DONE]":
                return tokens
            tokens += answer.take(CHUNK.decode(frame.data))
    return tokens


def take(*chunks: dict[str, Any], answer: Answer | None = None) -> tuple[list[Token], Answer]:
    """The tokens of chunks made by hand, and the answer that made them."""
    answer = answer or Answer(WHERE)
    tokens = [token for chunk in chunks for token in answer.take(CHUNK.decode(json.dumps(chunk)))]
    return tokens, answer


def delta(finish_reason: str | None = None, index: int = 0, **fields: object) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": fields, "finish_reason": finish_reason}]}


def text(words: str, finish_reason: str | None = None, **fields: object) -> dict[str, Any]:
    return {"choices": [{"index": 0, "text": words, "finish_reason": finish_reason, **fields}]}


def called(index: int, name: str | None = None, arguments: str | None = None, **fields: object) -> dict[str, Any]:
    """A chunk with a piece of the tool call of that index."""
    return delta(tool_calls=[{"index": index, "function": {"name": name, "arguments": arguments}, **fields}])


class Read(NamedTuple):
    """What a capture says: its tokens' text, and (tokens_in, tokens_out, cached_tokens, decode_time_ms) of the end."""

    tokens: list[str]
    counts: tuple[int | None, int | None, int | None, float | None] = (None, None, None, None)
    finish_reason: str = "length"


CAPITAL = [" Paris", ".", "\n", "\n", "The"]
HELLO = ["Hello", " there", "!", " I", "'m", " here", " to"]
EXPECTED = {
    "llamacpp/v1_chat_stream": Read([*HELLO, " help"], (33, 8, 0, 2323.847)),
    "llamacpp/v1_chat_stream_n2": Read(["Sorry", ",", " I"], (33, 3, 32, 67.383)),
    "llamacpp/v1_chat_stream_stop_word": Read([*HELLO, " "], (None, None, None, 82.014), "stop"),
    "llamacpp/v1_completions_logprobs_stream": Read([" Paris", "."], (5, 2, 4, 25.083)),
    "llamacpp/v1_completions_stream": Read([*CAPITAL, " United"], (5, 6, 4, 8938.625)),
    "llamacpp/v1_completions_stream_http10": Read([" of", " the"], (2, 2, 0, 9.7)),
    "llamacpp/v1_completions_stream_nousage": Read(CAPITAL[:3], (5, 3, 4, 1184.175)),
    "vllm/chat_logprobs": Read(["Wow"]),
    "vllm/request_id_header_auto": Read(["-"]),
    "vllm/v1_chat_stream": Read([*HELLO, " help"], (33, 8, None, None)),
    "vllm/v1_chat_stream_emoji": Read(list("💡👺👬🐁\n💪💤💧🌳🯈―\n👉👁💸👑🔄👪👦👨🏻―")),
    "vllm/v1_chat_stream_n2": Read(["How", " may", " I"]),
    "vllm/v1_completions_logprobs_stream": Read([" Paris", "."]),
    "vllm/v1_completions_prompts2_stream": Read([" Paris", "."]),
    "vllm/v1_completions_stream": Read([*CAPITAL, " answer"], (5, 6, None, None)),
    "vllm/v1_completions_stream_contusage": Read(CAPITAL[:3], (5, 3, None, None)),
    "vllm/v1_completions_stream_cut_in_emoji": Read([]),
    "vllm/v1_completions_stream_emoji": Read(list("😃😄😏😐" + 9 * "😑")),
    "vllm/v1_completions_stream_nousage": Read([" Paris", "."]),
}
LONG = {"llamacpp/get_v1_stream_replay": 100, "llamacpp/v1_chat_tools_stream": 60}
BROKEN = {
    "llamacpp/v1_completions_stream_server_killed9",
    "llamacpp/v1_completions_stream_server_sigterm",
    "vllm/v1_completions_stream_server_sigterm",
}


def test_every_capture_is_expected_to_be_something():
    """No captured stream of this dialect is left out of the tables above."""
    assert {str(one) for one in STREAMS} == EXPECTED.keys() | LONG.keys() | BROKEN


@pytest.mark.parametrize("name", EXPECTED)
def test_a_captured_stream_is_read(name: str):
    """Tokens, counts and finish reason are what the engine said, for the first of its answers."""
    answer = Answer(WHERE)
    tokens = read(answer, [captures.load(*name.split("/")).body])
    end = answer.end()

    expected = EXPECTED[name]
    assert answer.finished
    assert [token.t for token in tokens] == expected.tokens
    assert [token.i for token in tokens] == list(range(len(tokens)))
    assert {token.channel for token in tokens} <= {"content"}
    assert (end.tokens_in, end.tokens_out, end.cached_tokens, end.decode_time_ms) == expected.counts
    assert (end.finish_reason, end.tool_calls, end.outputs) == (expected.finish_reason, (), ())


@pytest.mark.parametrize("name", LONG)
def test_a_long_capture_is_read(name: str):
    """As many tokens as the engine counted, none empty, and its last word is a finish."""
    answer = Answer(WHERE)
    tokens = read(answer, [captures.load(*name.split("/")).body])

    assert answer.finished
    assert len(tokens) == LONG[name] == answer.end().timings["predicted_n"]
    assert all(token.t for token in tokens)


@pytest.mark.parametrize("one", STREAMS, ids=str)
def test_cuts_change_nothing(one: Capture):
    """However a body is cut, the same tokens come, and the same end or error."""

    def outcome(pieces: list[bytes]) -> tuple[list[Token], End | None, str]:
        answer, tokens, error = Answer(WHERE), list[Token](), ""
        try:
            tokens = read(answer, pieces)
        except WorkerError as raised:
            error = raised.message
        return tokens, answer.end() if answer.finished else None, error

    whole = outcome([one.body])

    assert {kind: outcome(splits(one.body, cuts)) for kind, cuts in sse_cuts(one.body).items()} == dict.fromkeys(
        sse_cuts(one.body), whole
    )


@pytest.mark.parametrize("name", ["killed9", "sigterm"])
def test_a_killed_engine_leaves_no_end(name: str):
    """A stream that broke off is not finished, whatever had come of it."""
    answer = Answer(WHERE)
    tokens = read(answer, [captures.load("llamacpp", f"v1_completions_stream_server_{name}").body])

    assert "".join(token.t for token in tokens) == ", the city of New"
    assert not answer.finished


def test_logprobs_are_the_chosen_tokens():
    """Each token has its own natural-log probability, in llama.cpp's shape and in vLLM's; without them None."""
    seen = {
        engine: [t.logprob for t in read(Answer(WHERE), [captures.load(engine, "v1_completions_logprobs_stream").body])]
        for engine in ("llamacpp", "vllm")
    }

    assert seen["llamacpp"] == [-0.25889989733695984, -0.3981500566005707]
    assert seen["vllm"] == [-0.2692539393901825, -0.3885854184627533]
    assert take(text("a"))[0][0].logprob is None


@pytest.mark.parametrize(
    "logprobs",
    [
        None,
        {},
        {"content": None},
        {"content": []},
        {"content": [{}]},
        {"token_logprobs": []},
        {"token_logprobs": [None]},
    ],
    ids=str,
)
def test_a_token_may_lack_its_logprob(logprobs: object):
    """Where the engine leaves it out, in whichever way, it is None."""
    assert take(text("a", logprobs=logprobs))[0] == [Token("a", 0)]


def test_deltas_without_text_are_no_tokens():
    """A role alone, null and empty text make no token and count for nothing."""
    tokens, answer = take(
        delta(role="assistant", content=None), delta(content=""), delta(), delta(content="a"), delta("stop", content="")
    )

    assert tokens == [Token("a", 0)]
    assert answer.finished


def test_text_may_come_with_the_finish_reason():
    """The last piece of text is not lost when it comes in the finish event."""
    assert take(text("a"), text("b", "stop"))[0] == [Token("a", 0), Token("b", 1)]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_has_its_own_channel(name: str):
    """Both names of reasoning lead to one channel; indices run over all channels."""
    first, second = ({"choices": [{"delta": {name: "hm"}}]}, {"choices": [{"delta": {name: "so", "content": "4"}}]})
    tokens, _ = take(first, second, delta("stop", content="2"))

    assert tokens == [Token("hm", 0, "reasoning"), Token("so", 1, "reasoning"), Token("4", 2), Token("2", 3)]


def test_reasoning_told_twice_is_read_once():
    """Some versions send it under both names at once."""
    assert take(delta(reasoning="hm", reasoning_content="hm"))[0] == [Token("hm", 0, "reasoning")]


def test_tool_calls_are_put_together():
    """Pieces of several calls may interleave; each call is whole in the end, in the order of its index."""
    tokens, answer = take(
        called(1, "time", "", id="b"),
        called(0, "weather", '{"city"', id="a"),
        called(1, arguments="{}"),
        called(0, arguments=':"Paris"}'),
        delta("tool_calls"),
    )

    assert [(token.t, token.channel) for token in tokens] == [
        ('{"city"', "tool_call"),
        ("{}", "tool_call"),
        (':"Paris"}', "tool_call"),
    ]
    assert answer.end().finish_reason == "tool_calls"
    assert answer.end().tool_calls == (ToolCall("a", "weather", '{"city":"Paris"}'), ToolCall("b", "time", "{}"))


def test_a_name_repeated_with_each_piece_is_one_name():
    """Older vLLM sends name with every piece and no id; the id is then made of the index."""
    _, answer = take(called(0, "f", "{"), called(0, "f", "}"), delta("stop"))

    assert answer.end().tool_calls == (ToolCall("call_0", "f", "{}"),)


def test_a_call_without_function_is_survived():
    """A piece that holds an id alone adds nothing else."""
    tokens, answer = take(delta(tool_calls=[{"index": 0, "id": "a"}]), called(0, "f"), delta("tool_calls"))

    assert tokens == []
    assert answer.end().tool_calls == (ToolCall("a", "f", ""),)


def test_only_the_first_answer_is_read():
    """Other indices neither add tokens nor finish the answer."""
    tokens, answer = take(delta(content="a"), delta(index=1, content="x"), delta("stop", index=1))

    assert tokens == [Token("a", 0)]
    assert not answer.finished


def test_the_last_usage_counts():
    """Usage may come with every chunk; it holds totals."""
    first, last = ({"prompt_tokens": 5, "completion_tokens": n} for n in (1, 2))
    _, answer = take(
        {**text("a"), "usage": first}, {**text("b", "stop"), "usage": last}, {"choices": [], "usage": None}
    )

    assert (answer.end().tokens_in, answer.end().tokens_out) == (5, 2)


def test_figures_that_are_no_numbers_are_left_out():
    """A null among the timings, which stands for a quotient by zero, does not cost the answer its end."""
    _, answer = take({**text("a", "stop"), "timings": {"predicted_ms": 2.5, "prompt_per_second": None}})

    assert answer.end().timings == {"predicted_ms": 2.5}
    assert answer.end().decode_time_ms == 2.5


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("function_call", "tool_calls"),
        ("content_filter", "content_filter"),
        ("repetition", "stop"),
    ],
)
def test_finish_reasons(said: str, meant: str):
    """The engine's word becomes one of the boundary's; a word nobody knows is a stop."""
    assert take(text("a", said))[1].end().finish_reason == meant


@pytest.mark.parametrize(
    ("said", "kind", "detail"), [("abort", WorkerReset, "aborted"), ("error", InternalError, "engine")]
)
def test_giving_up_is_no_end(said: str, kind: type[WorkerError], detail: str):
    """VLLM's `abort` and `error` are failures that look like ends."""
    answer = Answer(WHERE)
    with pytest.raises(kind, match=rf"gave the task up \({said}\) · {WHERE} · look") as caught:
        take(text("a", said), answer=answer)

    assert (caught.value.detail, caught.value.phase) == (detail, "decode")
    assert not answer.finished


@pytest.mark.parametrize(
    ("said", "kind", "detail", "words"),
    [
        ({"code": 500, "message": "KV full", "type": "server_error"}, InternalError, "engine", "500: KV full"),
        ({"code": "500", "message": "KV full"}, InternalError, "engine", "500: KV full"),
        ({"message": "no code"}, InternalError, "engine", "500: no code"),
        ("a string", InternalError, "engine", "500: a string"),
        ({"code": 400, "message": "bad"}, AdapterError, "bad_request", "400: bad"),
        (
            {"code": 400, "message": "long", "type": "exceed_context_size_error"},
            AdapterError,
            "context_length",
            "400: long",
        ),
        ({"code": 503, "message": "busy"}, PoolUnavailable, "overloaded", "503: busy"),
    ],
    ids=str,
)
def test_an_error_in_the_stream_is_raised(said: object, kind: type[WorkerError], detail: str, words: str):
    """An error object or string means what its code means, and without one that the engine broke."""
    with pytest.raises(kind) as caught:
        take(text("a"), {"error": said})

    assert caught.value.detail == detail
    assert words in caught.value.message
    assert WHERE in caught.value.message
    assert caught.value.phase == "decode"


@pytest.mark.parametrize("error", [{"message": None}, {"param": {}}, {"code": 500.0}, {"type": 7}, {}], ids=str)
def test_an_odd_error_object_is_an_error(error: dict[str, object]):
    """An error object counts whatever its fields hold, also beside `"choices": null`."""
    with pytest.raises(InternalError, match="the engine broke off with 500"):
        take(text("a"), {"choices": None, "error": error})


@pytest.mark.parametrize("after", [b"", b"data: [DONE]\n\n"], ids=["alone", "before DONE"])
def test_an_error_outranks_done(after: bytes):
    """VLLM ends a broken stream with the error and `[DONE]`, llama.cpp with the error alone: neither is a success."""
    one = captures.load("vllm", "v1_completions_stream_server_sigterm")
    body = one.body.removesuffix(b"data: [DONE]\n\n") + after

    with pytest.raises(InternalError, match="500: EngineCore encountered an issue"):
        read(Answer(WHERE), [body])


@pytest.mark.parametrize(
    "chunk",
    [
        {"usage": {"prompt_tokens": -1}},
        {"usage": {"completion_tokens": 2**53 + 1}},
        {"usage": {"prompt_tokens_details": {"cached_tokens": 1.5}}},
        {"choices": [{"index": -1}]},
        {"choices": [{"delta": {"tool_calls": [{"index": 10**30}]}}]},
        {"choices": {}},
        {"choices": [{"text": 1}]},
        {"timings": {"predicted_ms": "fast"}},
        {"error": 5},
        [],
    ],
    ids=str,
)
def test_nonsense_is_refused(chunk: object):
    """Counts are bounded whole numbers, and every field has its type."""
    with pytest.raises(msgspec.ValidationError):
        CHUNK.decode(json.dumps(chunk))


@pytest.mark.parametrize("half", [rb"\ud83d", rb"\ude00", b"\xf0\x9f"], ids=str)
def test_half_a_character_is_refused(half: bytes):
    """No token can hold a part of a character."""
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        CHUNK.decode(b'{"choices":[{"text":"' + half + b'"}]}')
