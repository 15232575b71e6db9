"""What an adapter is held to because it declares it, in its capabilities' features and workloads."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from llama_orch_adapter_api import Embedding, End, Sampling, Score, TaskRequest, Tool

from .._dialect import Asked, Piece
from .._outcome import Outcome
from .._reply import Reply
from ._bench import PIECES
from ._check import Trial, check, require, the
from ._stream import whole

_T = TypeVar("_T")

DEADLINE = 12_345
"""Milliseconds."""

ARGUMENTS = ('{"city"', ': "Zürich"}')


@check("chat.order", "chat")
async def chat(trial: Trial) -> None:
    """Messages are answered as a prompt is, and reach the engine as a conversation."""
    bench = trial.bench
    asked: list[Asked] = []
    seen = await bench.answered(_noted(asked, bench.reply()), bench.chat())
    whole(seen)

    read = asked[0].subject
    mend = "send it the task's messages, or declare no chat"
    require(read == str(bench.chat().messages[0].content), f"the engine read {read!r}; {mend}")


@check("tools.calls", "tools")
async def tools(trial: Trial) -> None:
    """Tool calls come on their channel as they grow, and whole in `End`, each with its id, name and arguments."""
    bench = trial.bench
    pieces = [Piece(part, "tool_call", call=call) for part in ARGUMENTS for call in (0, 1)]
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    offered = tuple(Tool(f"tool_{number}", parameters=schema) for number in (0, 1))
    seen = await bench.answered(bench.reply(pieces, "tool_calls"), bench.chat(tools=offered))
    last = whole(seen, "".join(piece.text for piece in pieces)).end
    calls = [(call.id, call.name, call.arguments) for call in last.tool_calls] if last is not None else []

    require({token.channel for token in seen.tokens} == {"tool_call"}, "arguments came on another channel")
    require(last is not None and last.finish_reason == "tool_calls", f"End says {last}")
    wanted = [(f"call_{number}", f"tool_{number}", "".join(ARGUMENTS)) for number in (0, 1)]
    require(calls == wanted, f"End holds the calls {calls}, the engine made {wanted}")


@check("reasoning.channel", "reasoning")
async def reasoning(trial: Trial) -> None:
    """What the model thinks comes on its own channel, numbered with the rest."""
    pieces = (Piece("hm, ", "reasoning"), Piece("so", "reasoning"), Piece("Yes."))
    seen = whole(await trial.bench.answered(trial.bench.reply(pieces), trial.bench.chat()), "hm, soYes.")
    told = [(token.i, token.channel) for token in seen.tokens]

    require(told == [(0, "reasoning"), (1, "reasoning"), (2, "content")], f"the tokens are {told}")


@check("logprobs.told", "logprobs")
async def logprobs(trial: Trial) -> None:
    """Logprobs come with the tokens where they are asked for, and only there."""
    bench = trial.bench
    pieces = [Piece(piece.text, logprob=-0.5 * number) for number, piece in enumerate(PIECES, 1)]
    wanted = await bench.answered(bench.reply(pieces), bench.task(sampling=Sampling(logprobs=1)))
    unwanted = await bench.answered(bench.reply(pieces))
    told = [token.logprob for token in whole(wanted).tokens]

    near = len(told) == len(pieces) and all(
        one is not None and math.isclose(one, piece.logprob or 0) for one, piece in zip(told, pieces, strict=True)
    )
    require(near, f"the logprobs are {told}, the engine said {[piece.logprob for piece in pieces]}")
    extra = [token.logprob for token in whole(unwanted).tokens if token.logprob is not None]
    require(not extra, "logprobs came that nobody asked for")


@check("seed.sent", "seed")
async def seed(trial: Trial) -> None:
    """The seed reaches the engine."""
    asked: list[Asked] = []
    await trial.bench.answered(_noted(asked, trial.bench.reply()), trial.bench.task(seed=4711))

    require(_holds(asked[0].body, 4711), f"the seed is not in the request: {sorted(asked[0].body)}")


@check("deadline.sent", "deadline")
async def deadline(trial: Trial) -> None:
    """What is left of the deadline reaches the engine, which is not told to stop before it."""
    asked: list[Asked] = []
    await trial.bench.answered(_noted(asked, trial.bench.reply()), trial.bench.task(deadline_ms=DEADLINE))
    limit = asked[0].limit_ms

    require(limit is not None, "the engine is told of no time limit")
    require((limit or 0) >= DEADLINE, f"the engine is given {limit} ms, the task has {DEADLINE}")


@check("embedding.vectors", "embedding")
async def embedding(trial: Trial) -> None:
    """A vector for each input, in their order."""
    vectors = [(0.5, -0.25, 0.125), (1.0, 0.0, -1.0)]
    task = TaskRequest(workload="embedding", inputs=("a", "b"))
    seen = await _outputs(trial, task, vectors)
    told = {each.index: each.vector for each in _all(Embedding, seen)}

    require(told == dict(enumerate(vectors)), f"the vectors are {told}, the engine said {vectors}")


@check("rerank.scores", "rerank")
async def rerank(trial: Trial) -> None:
    """A score for each document, under its own number, whatever order the engine tells them in."""
    scores = [(0.25,), (0.75,), (-0.5,)]
    task = TaskRequest(workload="rerank", inputs=("a", "b", "c"), query="q")
    told = {each.index: (each.score,) for each in _all(Score, await _outputs(trial, task, scores))}

    require(told == dict(enumerate(scores)), f"the scores are {told}, the engine said {scores}")


def _holds(document: object, value: object) -> bool:
    """Whether that value stands somewhere in a JSON document; engines have options in boxes of their own."""
    if isinstance(document, Mapping):
        return any(_holds(each, value) for each in document.values())
    return document == value


def _noted(asked: list[Asked], reply: Callable[[Asked], Reply]) -> Callable[[Asked], Reply]:
    """The reply, which notes what was asked."""

    def noted(one: Asked) -> Reply:
        asked.append(one)
        return reply(one)

    return noted


async def _outputs(trial: Trial, task: TaskRequest, values: Sequence[Sequence[float]]) -> Outcome:
    seen = await trial.bench.answered(lambda asked: trial.bench.dialect.outputs(asked, values), task)
    require(seen.error is None and seen.end is not None, f"{task.workload} came to {seen}")
    require(not seen.tokens, f"{task.workload} gave tokens")
    return seen


def _all(kind: type[_T], seen: Outcome) -> list[_T]:
    last = the(End, seen.end, "the last event")
    return [the(kind, each, "an output") for each in last.outputs]
