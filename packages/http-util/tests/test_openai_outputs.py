"""The dialect's whole answers: vectors and scores, and what is none."""

import base64
import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import AdapterError, Embedding, End, Score, TaskRequest
from llama_orch_http_util import Response
from llama_orch_http_util._openai_outputs import end_of

EMBED = TaskRequest(workload="embedding", inputs=("a", "b"))
RANK = TaskRequest(workload="rerank", inputs=("a", "b"), query="q")
FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def answered(document: object) -> Response:
    return Response(200, {}, json.dumps(document).encode(), "1.1", "engine:8000")


def packed(*figures: float) -> str:
    return base64.b64encode(struct.pack(f"<{len(figures)}f", *figures)).decode()


def vectors(*embeddings: object) -> Response:
    return answered({"data": [{"index": i, "embedding": each} for i, each in enumerate(embeddings)]})


def scores(*pairs: tuple[int, object]) -> Response:
    return answered({"results": [{"index": index, "relevance_score": score} for index, score in pairs]})


@given(st.lists(st.tuples(FLOATS, FLOATS), min_size=2, max_size=2))
def test_vectors_are_exact(figures: list[tuple[float, float]]) -> None:
    """In base64 and as figures, each is the float32 that the engine computed."""
    outputs = tuple(Embedding(i, each) for i, each in enumerate(figures))

    assert end_of(EMBED, vectors(*(packed(*each) for each in figures))).outputs == outputs
    assert end_of(EMBED, vectors(*figures)).outputs == outputs


def test_the_end_has_the_engines_counts() -> None:
    """Tokens in and out are the engine's, None where it does not tell."""
    usage = {"prompt_tokens": 5, "completion_tokens": 0}
    told = answered({"results": [{"index": i, "relevance_score": 1} for i in (1, 0)], "usage": usage})

    assert end_of(RANK, told) == End(5, 0, "stop", outputs=(Score(0, 1.0), Score(1, 1.0)))
    assert end_of(RANK, scores((0, 1), (1, 1))).tokens_in is None


@pytest.mark.parametrize(
    "vector",
    [
        [],
        "",
        [1.0, None],
        [1.0, 1e308, 1e308, 1e308],
        packed(1.0, float("nan")),
        packed(float("inf"), float("-inf")),
        "AAAA",
        "no base64",
        "é",
    ],
    ids=["no figures", "no bytes", "null", "beyond", "NaN", "infinite", "half a float", "not base64", "not ASCII"],
)
def test_a_vector_is_all_of_numbers(vector: object) -> None:
    """What holds anything else is refused, and the message says which input's it is, and none of its figures."""
    with pytest.raises(AdapterError, match=r"the vector of input 1 is not all of numbers · engine:8000") as caught:
        end_of(EMBED, vectors([1.0], vector))

    assert caught.value.detail == "decode"
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("task", "response"),
    [
        (EMBED, vectors([1.0])),
        (EMBED, vectors([1.0], [1.0], [1.0])),
        (EMBED, answered({"data": [{"index": 1, "embedding": [1.0]}] * 2})),
        (EMBED, answered({"data": []})),
        (RANK, scores((0, 1))),
        (RANK, scores((0, 1), (2, 1))),
        (RANK, scores()),
    ],
)
def test_each_input_has_its_output(task: TaskRequest, response: Response) -> None:
    """Too few, too many, twice the same or of no input: no answer to what was asked."""
    with pytest.raises(AdapterError, match=r"outputs are not one for each of 2 inputs · engine:8000") as caught:
        end_of(task, response)

    assert caught.value.detail == "decode"


def test_fewer_scores_may_be_asked_for() -> None:
    """With `top_n` in `extra` the best alone are an answer; of no document there is never one."""
    best = TaskRequest(workload="rerank", inputs=("a", "b"), query="q", extra={"top_n": 1})

    assert end_of(best, scores((1, 0.5))).outputs == (Score(1, 0.5),)
    with pytest.raises(AdapterError):
        end_of(best, scores((2, 0.5)))


@pytest.mark.parametrize(
    ("task", "document"),
    [
        (EMBED, {"data": [{"index": -1, "embedding": [1.0]}]}),
        (EMBED, {"data": [{"index": 0, "embedding": 1.0}]}),
        (EMBED, [[1.0]]),
        (RANK, {"results": [{"index": 0, "relevance_score": None}]}),
        (RANK, {"results": [{"index": 0}]}),
    ],
    ids=["index below 0", "a number for a vector", "a list", "no score", "score left out"],
)
def test_another_document_is_refused(task: TaskRequest, document: object) -> None:
    """What is not of the dialect is an `AdapterError` (decode)."""
    with pytest.raises(AdapterError) as caught:
        end_of(task, answered(document))

    assert caught.value.detail == "decode"
