"""The whole answers of OpenAI's dialect: vectors of `/v1/embeddings`, scores of `/v1/rerank`, as an `End`."""

import math
from array import array
from base64 import b64decode
from sys import byteorder

import msgspec
from llama_orch_adapter_api import AdapterError, Embedding, End, Score, TaskRequest

from ._client import Response
from .openai import Count, Usage


class Vector(msgspec.Struct, frozen=True):
    """The vector of the input at 0-based `index`: little-endian float32 in base64, or figures, null for NaN."""

    index: Count
    embedding: str | tuple[float | None, ...]

    @property
    def figures(self) -> tuple[float | None, ...]:
        """One for each dimension. Raises `ValueError` for what is no float32 in base64."""
        if not isinstance(self.embedding, str):
            return self.embedding
        figures = array("f", b64decode(self.embedding, validate=True))
        if byteorder == "big":
            figures.byteswap()
        return tuple(figures)


class Vectors(msgspec.Struct, frozen=True):
    """The answer of `/v1/embeddings`."""

    data: tuple[Vector, ...]
    usage: Usage | None = None


class Ranked(msgspec.Struct, frozen=True):
    """The score of the document at 0-based `index`."""

    index: Count
    relevance_score: float


class Ranking(msgspec.Struct, frozen=True):
    """The answer of `/v1/rerank`; vLLM gives the best first."""

    results: tuple[Ranked, ...]
    usage: Usage | None = None


VECTORS = msgspec.json.Decoder(Vectors)
RANKING = msgspec.json.Decoder(Ranking)


def end_of(task: TaskRequest, response: Response) -> End:
    """The end of an embedding or rerank task, its outputs in the order of the inputs.

    Raises `AdapterError` (decode) unless there is one for each input, all of numbers; `extra` may ask for fewer scores.
    """
    if task.workload == "embedding":
        vectors = response.decode(VECTORS, "the list of vectors")
        return _end(tuple(_embedding(each, response.where) for each in vectors.data), vectors.usage, task, response)
    ranking = response.decode(RANKING, "the list of scores")
    scores = tuple(Score(each.index, each.relevance_score) for each in ranking.results)
    return _end(scores, ranking.usage, task, response)


def _embedding(vector: Vector, where: str) -> Embedding:
    try:
        figures = vector.figures
    except ValueError:
        figures = ()
    if not figures or None in figures or not math.isfinite(sum(figures)):  # type: ignore[arg-type]  # none is None
        raise AdapterError(
            f"the vector of input {vector.index} is not all of numbers · {where} · start the engine for embeddings",
            detail="decode",
        )
    return Embedding(vector.index, figures)  # type: ignore[arg-type]  # as above


def _end(outputs: tuple[Embedding | Score, ...], usage: Usage | None, task: TaskRequest, response: Response) -> End:
    inputs, indices = len(task.inputs), {output.index for output in outputs}
    fewer = task.workload == "rerank" and bool(task.extra)
    if len(indices) < len(outputs) or max(indices, default=0) >= inputs or not (fewer or len(indices) == inputs):
        raise AdapterError(
            f"the answer's {len(outputs)} outputs are not one for each of {inputs} inputs · {response.where} · "
            "look at the engine's own log",
            detail="decode",
        )
    return End(
        tokens_in=usage.prompt_tokens if usage else None,
        tokens_out=usage.completion_tokens if usage else None,
        finish_reason="stop",
        outputs=tuple(sorted(outputs, key=lambda output: output.index)),
    )
