"""Embeddings and scores, in the shapes that vLLM documents, and its refusals as captured."""

import pytest
from llama_orch_adapter_api import Embedding, End, Score, Started, TaskRequest
from llama_orch_adapter_testkit import Reply

from .replays import SHELF, outcome, running  # type: ignore[import-not-found]  # test folders are no packages

EMBED = TaskRequest(workload="embedding", inputs=("a", "b"), model_ref="e5", seed=7)
RANK = TaskRequest(workload="rerank", inputs=("a", "b"), query="q")
USAGE = {"prompt_tokens": 2, "total_tokens": 2, "completion_tokens": 0, "prompt_tokens_details": None}


async def test_an_embedding():
    """ORCH-3600: vectors come in the order of the inputs, in base64 or in figures, with the engine's counts."""
    data = [
        {"index": 1, "object": "embedding", "embedding": [0.5, -2.0]},
        {"index": 0, "object": "embedding", "embedding": "AACAPwAAAMA="},
    ]
    answer = Reply.json(200, {"id": "embd-1", "object": "list", "data": data, "usage": USAGE})
    async with running({("POST", "/v1/embeddings"): answer}) as (adapter, engine):
        seen = await outcome(adapter, EMBED)

    outputs = (Embedding(0, (1.0, -2.0)), Embedding(1, (0.5, -2.0)))
    assert [*seen.events] == [Started("vllm", "0.32.0", "e5", "pool/r0"), End(2, 0, "stop", outputs=outputs)]
    assert engine.requests[-1].json() == {"model": "e5", "input": ["a", "b"], "encoding_format": "base64"}


async def test_scores():
    """ORCH-3600: the engine gives the best first; they are handed over in the order of the documents."""
    results = [
        {"index": 1, "document": {"text": "b"}, "relevance_score": 0.9},
        {"index": 0, "document": {"text": "a"}, "relevance_score": 0.25},
    ]
    answer = Reply.json(200, {"id": "rerank-1", "model": "smollm2", "usage": {"total_tokens": 9}, "results": results})
    async with running({("POST", "/v1/rerank"): answer}) as (adapter, engine):
        seen = await outcome(adapter, RANK)

    assert seen.end == End(None, None, "stop", outputs=(Score(0, 0.25), Score(1, 0.9)))
    assert engine.requests[-1].json() == {"model": "smollm2", "query": "q", "documents": ["a", "b"]}


@pytest.mark.parametrize(
    ("task", "path", "name", "failure"),
    [
        (EMBED, "/v1/embeddings", "v1_embeddings_unsupported", "ADAPTER unsupported"),
        (EMBED, "/v1/embeddings", "err_unknown_model", "ADAPTER not_found"),
        (EMBED, "/v1/embeddings", "key_wrong", "ADAPTER auth"),
        (EMBED, "/v1/embeddings", "v1_completions_nostream", "ADAPTER decode"),
        (RANK, "/v1/rerank", "v1_rerank_unsupported", "ADAPTER unsupported"),
        (RANK, "/v1/rerank", "rerank_unsupported", "ADAPTER unsupported"),
        (RANK, "/v1/rerank", "score_unsupported", "ADAPTER unsupported"),
    ],
)
async def test_an_answer_that_is_none(task: TaskRequest, path: str, name: str, failure: str):
    """A route that a generate model does not have is unsupported, which a model that is not there is not."""
    async with running({("POST", path): Reply.capture(SHELF[name])}) as (adapter, _):
        seen = await outcome(adapter, task)

    assert (seen.failure, seen.events) == (failure, ())
