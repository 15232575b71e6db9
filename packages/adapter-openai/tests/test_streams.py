"""The streams and refusals of two engines that speak the dialect, and its whole answers: what tasks come to."""

from typing import Any

import pytest
from llama_orch_adapter_api import Embedding, End, Score, Started, TaskRequest, Token
from llama_orch_adapter_testkit import Outcome, Reply, all_kinds_of_cuts, outcome

from .replays import (  # type: ignore[import-not-found]  # test folders are no packages
    CHAT,
    COMPLETIONS,
    SECRET,
    capture,
    met_with,
    reply,
    running,
)

STARTED = Started("openai", "unknown", "smollm2", "pool/r0", seed=7)
HELLO = ["Hello", " there", "!", " I", "'m", " here", " to", " help"]
CAPITAL = [" Paris", ".", "\n", "\n", "The"]
STREAMS = {
    "llamacpp/v1_chat_stream": (CHAT, HELLO, 33, 8),
    "vllm/v1_chat_stream": (CHAT, HELLO, 33, 8),
    "llamacpp/v1_completions_stream": (COMPLETIONS, [*CAPITAL, " United"], 5, 6),
    "vllm/v1_completions_stream": (COMPLETIONS, [*CAPITAL, " answer"], 5, 6),
    "vllm/v1_completions_stream_nousage": (COMPLETIONS, CAPITAL[:2], None, None),
}


@pytest.mark.parametrize("name", STREAMS)
async def test_a_captured_stream_is_read(name: str):
    """The tokens in their order, and an end with the engine's own counts, however the bytes are cut."""
    path, pieces, tokens_in, tokens_out = STREAMS[name]
    one = capture(name)
    whole = await met_with(Reply.capture(one), path)
    cut = {
        kind: await met_with(Reply.capture(one, cuts=at), path) for kind, at in all_kinds_of_cuts(one.response).items()
    }

    assert whole.events[:-1] == (STARTED, *(Token(text, i) for i, text in enumerate(pieces)))
    assert whole.end is not None
    assert (whole.end.tokens_in, whole.end.tokens_out) == (tokens_in, tokens_out)
    assert (whole.end.finish_reason, whole.end.seed) == ("length", 7)
    assert cut == dict.fromkeys(cut, whole)


@pytest.mark.parametrize("name", STREAMS)
async def test_a_stream_cut_off_is_no_success(name: str):
    """Without its finish event an answer is cut, and the tokens before it are told."""
    path, pieces, *_ = STREAMS[name]
    finish = capture(name).response.index(b'"finish_reason":"')
    seen = await met_with(Reply.capture(capture(name), stop_after=finish), path)

    assert (seen.failure, seen.end) == ("WORKER_RESET truncated", None)
    assert seen.pieces == pieces[: len(seen.pieces)]
    assert seen.pieces


@pytest.mark.parametrize(
    ("name", "failure"),
    [
        ("llamacpp/v1_completions_stream_server_killed9", "WORKER_RESET truncated"),
        ("vllm/v1_completions_stream_server_sigterm", "INTERNAL engine"),
    ],
)
async def test_an_engine_that_dies_in_mid_stream(name: str, failure: str):
    """Killed or broken, the engine's death is a failure, whatever stands last in the stream."""
    seen = await met_with(reply(name))

    assert (seen.failure, seen.end) == (failure, None)
    assert seen.error is not None
    assert seen.error.engine_fault


@pytest.mark.parametrize("finish", ["eos_token", "stop_sequence", "stop"])
async def test_finish_reasons_of_other_servers(finish: str):
    """TGI's own words for a stop are one."""
    end = {"choices": [{"index": 0, "delta": {"content": "."}, "finish_reason": finish}]}
    seen = await met_with(Reply.sse([{"choices": [{"index": 0, "delta": {"content": "a"}}]}, end, "[DONE]"]), CHAT)

    assert seen == Outcome((STARTED, Token("a", 0), Token(".", 1), End(None, None, "stop", seed=7)))


@pytest.mark.parametrize(
    ("name", "failure", "mend"),
    [
        ("llamacpp/key_wrong", "ADAPTER auth", "set api_key"),
        ("vllm/key_wrong", "ADAPTER auth", "set api_key"),
        ("vllm/err_unknown_model", "ADAPTER not_found", "check url and model"),
        ("llamacpp/err_unknown_path", "ADAPTER not_found", "check url and model"),
        ("vllm/err_bad_temp", "ADAPTER bad_request", "correct the request"),
        ("llamacpp/err_prompt_too_long", "ADAPTER context_length", "shorten the prompt"),
        ("vllm/err_prompt_too_long", "ADAPTER context_length", "shorten the prompt"),
        ("llamacpp/loading_post_completions", "POOL_UNAVAILABLE loading", "wait until it is ready"),
    ],
)
async def test_a_refusal_says_what_where_and_the_mend(name: str, failure: str, mend: str):
    """The engine's words and the mend are told, the prompt is not, and nothing came before."""
    seen = await met_with(reply(name))

    assert (seen.failure, seen.events) == (failure, ())
    assert seen.error is not None
    assert mend in seen.error.message
    assert SECRET not in str(seen.error)
    assert not seen.error.engine_fault


OTHERS = {
    "embedding": TaskRequest(workload="embedding", inputs=("hello",)),
    "rerank": TaskRequest(workload="rerank", inputs=("a", "b"), query="q"),
}
ROUTES = {"embedding": "/v1/embeddings", "rerank": "/v1/rerank"}


async def test_a_captured_embedding():
    """ORCH-3600: a vector as the engine gave it, and its count of tokens."""
    async with running({("POST", "/v1/embeddings"): reply("llamacpp/emb_base64")}) as (adapter, engine):
        seen = await outcome(adapter, OTHERS["embedding"])

    assert seen.end is not None
    (output,) = seen.end.outputs
    assert isinstance(output, Embedding)
    assert (output.index, len(output.vector), seen.end.tokens_in) == (0, 576, 1)
    assert engine.requests[-1].json() == {"model": "smollm2", "input": ["hello"], "encoding_format": "base64"}


async def test_scores():
    """ORCH-3600: the scores come in the order of the documents, the best first or not."""
    results = [{"index": 1, "relevance_score": 0.9}, {"index": 0, "relevance_score": 0.25}]
    async with running({("POST", "/v1/rerank"): Reply.json(200, {"results": results})}) as (adapter, _):
        seen = await outcome(adapter, OTHERS["rerank"])

    assert seen.end is not None
    assert seen.end.outputs == (Score(0, 0.25), Score(1, 0.9))


@pytest.mark.parametrize("name", ["vllm/v1_embeddings_unsupported", "llamacpp/err_unknown_path"])
@pytest.mark.parametrize("workload", OTHERS)
async def test_a_route_that_is_not_there(workload: Any, name: str):
    """A server without the route does not support the workload; that is nobody's wrong url."""
    async with running({("POST", ROUTES[workload]): reply(name)}) as (adapter, _):
        seen = await outcome(adapter, OTHERS[workload])

    assert (seen.failure, seen.events) == ("ADAPTER unsupported", ())
