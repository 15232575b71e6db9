"""Embeddings and scores: what the engine was seen to answer, and what a task comes to."""

import base64
import json
import struct

import pytest
from llama_orch_adapter_api import AdapterError, Embedding, End, Score, Started, TaskRequest
from llama_orch_adapter_testkit import Reply

from .replays import SHELF, outcome, running  # type: ignore[import-not-found]  # test folders are no packages

EMBEDDINGS, RERANK = "/v1/embeddings", "/v1/rerank"
EMBED = TaskRequest(workload="embedding", inputs=("hello",), seed=7, sampler_profile_version="v3")
RANK = TaskRequest(workload="rerank", inputs=("a boat on the sea", "bread"), query="ship")
STARTED = Started("llamacpp", "b0-unknown", "smollm2", "pool/r0")


def test_the_vector_of_the_captured_engine_is_exact():
    """Base64 holds the float32 that the engine computed: the figures of its JSON, to their last digit."""
    [item] = json.loads(SHELF["emb_base64"].body)["data"]
    figures = struct.unpack("<576f", base64.b64decode(item["embedding"]))

    assert figures[:2] == (-0.01275787502527237, -0.018819492310285568)
    assert b"[-0.01275787502527237,-0.018819492310285568," in SHELF["emb_v1.trunc"].response


async def test_an_embedding():
    """ORCH-3600: `Started`, then `End` with a vector for each input and the engine's count of their tokens."""
    async with running({("POST", EMBEDDINGS): Reply.capture(SHELF["emb_base64"])}) as (adapter, engine):
        seen = await outcome(adapter, EMBED)

    [item] = json.loads(SHELF["emb_base64"].body)["data"]
    vector = struct.unpack("<576f", base64.b64decode(item["embedding"]))
    assert [*seen.events] == [
        Started("llamacpp", "b0-unknown", "smollm2", "pool/r0", sampler_profile_version="v3"),
        End(1, None, "stop", outputs=(Embedding(0, vector),), sampler_profile_version="v3"),
    ]
    assert engine.requests[-1].json() == {"model": "smollm2", "input": ["hello"], "encoding_format": "base64"}


async def test_scores():
    """ORCH-3600: one for each document, in their order."""
    async with running({("POST", RERANK): Reply.capture(SHELF["rerank_v1"])}) as (adapter, engine):
        seen = await outcome(adapter, RANK)

    scores = (Score(0, -1.0613682270050049), Score(1, -2.018458127975464))
    assert [*seen.events] == [STARTED, End(8, None, "stop", outputs=scores)]
    asked = json.loads(SHELF["rerank_v1"].request.partition(b"\r\n\r\n")[2])
    assert engine.requests[-1].json() == asked


async def test_a_vector_of_a_ranking_engine_is_refused():
    """A server that was started for reranking answers embeddings with nulls: no vector, and it says so."""
    async with running({("POST", EMBEDDINGS): Reply.capture(SHELF["rerank_emb"])}) as (adapter, _):
        seen = await outcome(adapter, EMBED)

    assert seen.failure == "ADAPTER decode"
    assert seen.error is not None
    assert "the vector of input 0 is not all of numbers" in seen.error.message


@pytest.mark.parametrize(
    ("task", "path", "name", "failure"),
    [
        (EMBED, EMBEDDINGS, "v1_embeddings_unsupported", "ADAPTER unsupported"),
        (EMBED, EMBEDDINGS, "embedding_unsupported", "ADAPTER unsupported"),
        (EMBED, EMBEDDINGS, "err_unknown_path", "ADAPTER unsupported"),
        (EMBED, EMBEDDINGS, "emb_too_long", "ADAPTER context_length"),
        (EMBED, EMBEDDINGS, "emb_v1.trunc", "WORKER_RESET truncated"),
        (EMBED, EMBEDDINGS, "emb_native.trunc", "WORKER_RESET truncated"),
        (EMBED, EMBEDDINGS, "emb_then_completion", "ADAPTER decode"),
        (EMBED, EMBEDDINGS, "key_wrong", "ADAPTER auth"),
        (EMBED, EMBEDDINGS, "loading_post_completions", "POOL_UNAVAILABLE loading"),
        (RANK, RERANK, "v1_rerank_unsupported", "ADAPTER unsupported"),
        (RANK, RERANK, "rerank_unsupported", "ADAPTER unsupported"),
        (RANK, RERANK, "emb_rerank", "ADAPTER unsupported"),
        (RANK, RERANK, "rerank_missing", "ADAPTER bad_request"),
    ],
)
async def test_an_answer_that_is_none(task: TaskRequest, path: str, name: str, failure: str):
    """What the engine was not started for is unsupported, an input too long for it no fault of its, a cut a reset."""
    async with running({("POST", path): Reply.capture(SHELF[name])}) as (adapter, _):
        seen = await outcome(adapter, task)

    assert seen.failure == failure
    assert seen.events == ()
    assert isinstance(seen.error, AdapterError) == failure.startswith("ADAPTER")
    assert {"ADAPTER unsupported": "engine", "ADAPTER context_length": "shorten"}.get(failure, "") in str(seen.error)
