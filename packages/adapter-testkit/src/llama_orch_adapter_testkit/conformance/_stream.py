"""What a stream of events looks like when all is well."""

from llama_orch_adapter_api import End, Metrics, Started, Token

from .._dialect import Piece
from .._outcome import Outcome
from ._bench import PIECES, Bench
from ._check import Broken, Trial, check, require

TEXT = "".join(piece.text for piece in PIECES)


def whole(seen: Outcome, text: str = TEXT) -> Outcome:
    """The outcome, which is to be a whole answer of that text."""
    require(seen.error is None, f"a whole answer ended in {seen}")
    require(seen.end is not None, f"a whole answer came without End: {seen}")
    require(seen.text == text, f"the engine said {text!r}, the tokens {seen.text!r}")
    return seen


@check("stream.order")
async def order(trial: Trial) -> None:
    """`Started` comes first and once, `End` last and once, tokens and metrics between them."""
    seen = whole(await trial.bench.answered(trial.bench.reply()))
    kinds = [type(event) for event in seen.events]

    require(kinds[0] is Started, f"the first event is {seen.events[0]}; yield Started when the engine took the task")
    require(kinds[-1] is End, f"the last event is {seen.events[-1]}")
    strays = [kind.__name__ for kind in kinds[1:-1] if kind not in (Token, Metrics)]
    require(not strays, f"between Started and End came {strays}")


@check("stream.tokens")
async def tokens(trial: Trial) -> None:
    """Tokens count from 0 by one, none is empty, and no event of the engine's that says nothing becomes one."""
    silent = (Piece(""), PIECES[0], Piece(""), *PIECES[1:], Piece(""))
    seen = whole(await trial.bench.answered(trial.bench.reply(silent)))

    numbers = [token.i for token in seen.tokens]
    require(numbers == list(range(len(numbers))), f"tokens are numbered {numbers}; i counts from 0 by one")
    require(all(token.t for token in seen.tokens), "a token is empty; leave it out")
    require({token.channel for token in seen.tokens} == {"content"}, "plain text came on another channel than content")


@check("stream.characters")
async def characters(trial: Trial) -> None:
    """Characters of one to four bytes come whole: no token holds a part of one, or what stands for a part."""
    pieces = tuple(Piece(text) for text in ("é", "漢字", "🦙🦙", "e\u0301", "\u200d", "\u2028", "\x7f"))
    seen = whole(await trial.bench.answered(trial.bench.reply(pieces)), "".join(piece.text for piece in pieces))

    torn = [token.t for token in seen.tokens if "\ufffd" in token.t or any("\ud800" <= c <= "\udfff" for c in token.t)]
    require(not torn, f"tokens hold parts of characters: {torn!r}")


@check("stream.started")
async def started(trial: Trial) -> None:
    """`Started` names engine, version, model, replica and seed."""
    bench = trial.bench
    first = whole(await bench.answered(bench.reply(), bench.task(seed=4711))).started
    if first is None:
        raise Broken("there is no Started")

    wanted = (bench.spec.engine, bench.dialect.version, bench.dialect.model, "pool/r0", 4711)
    told = (first.engine, first.engine_version, first.model, first.replica, first.seed)
    require(told == wanted, f"Started says {told}; it is to say {wanted}")


@check("stream.end")
async def end(trial: Trial) -> None:
    """`End` tells why the answer ended, and the engine's own counts or None: never its own guess of them."""
    for reason in ("stop", "length"):
        last = whole(await trial.bench.answered(trial.bench.reply(finish=reason))).end
        if last is None:
            raise Broken("there is no End")
        require(last.finish_reason == reason, f"the engine ended by {reason!r}, End says {last.finish_reason!r}")
        wanted = _counts(trial.bench)
        told = (last.tokens_in, last.tokens_out)
        fits = all(one is None or one == other for one, other in zip(told, wanted, strict=True))
        require(fits, f"End counts {told} tokens in and out, the engine {wanted}")


@check("stream.empty")
async def empty(trial: Trial) -> None:
    """An answer without a token is an answer."""
    whole(await trial.bench.answered(trial.bench.reply(())), "")


def _counts(bench: Bench) -> tuple[int, int]:
    return len(str(bench.task().prompt).split()), len(PIECES)
