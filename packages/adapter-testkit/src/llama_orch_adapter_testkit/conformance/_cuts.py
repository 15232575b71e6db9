"""Answers that break off: in each phase, in each way, and under each of HTTP's framings."""

from collections.abc import Callable, Iterator

from llama_orch_adapter_api import WorkerReset

from .._dialect import Asked, Piece
from .._dialects import LAST_CHUNK, framed
from .._fake import Behaviour
from .._outcome import outcome
from .._reply import Ending, Reply
from .._toxics import Toxic, ToxicKind
from ._bench import PIECES, Bench
from ._check import Trial, check, require

TOKENS = 20
BREAKING: tuple[ToxicKind, ...] = ("timeout", "reset", "limit_data")
TOXICS: tuple[ToxicKind, ...] = ("latency", "bandwidth", "slow_close", "slicer", *BREAKING)

_WAYS: tuple[Ending, ...] = ("close", "reset")


@check("cuts.phases")
async def phases(trial: Trial) -> None:
    """An answer cut before its head, in it, after it, in an event, between two, before the last: never a success."""
    bench = trial.bench
    for phase, pieces in _phases(bench):
        for then in _WAYS:
            seen = await bench.answered(lambda asked, p=pieces, t=then: Reply(p(asked), t))  # type: ignore[misc]
            _is_reset(seen.error, f"an answer that ends {phase} by a {then}", str(seen))


@check("cuts.framings")
async def framings(trial: Trial) -> None:
    """Without the event that finishes it an answer is cut, even where HTTP's own framing is whole."""
    bench = trial.bench

    def reply(asked: Asked, framing: str) -> Reply:
        data = b"".join(bench.events(asked)[: len(PIECES)])
        if framing == "chunked":
            return bench.body(data)
        kind = next(line for line in bench.dialect.head().split(b"\r\n") if line.lower().startswith(b"content-type:"))
        length = b"Content-Length: %d\r\n" % len(data) if framing == "with a length" else b"Connection: close\r\n"
        return Reply((b"HTTP/1.1 200 OK\r\n" + kind + b"\r\n" + length + b"\r\n" + data,), "close")

    for framing in ("chunked", "with a length", "until it closes"):
        seen = await bench.answered(lambda asked, f=framing: reply(asked, f))  # type: ignore[misc]
        _is_reset(seen.error, f"an unfinished answer ({framing})", str(seen))


@check("cuts.tokens_kept")
async def tokens_kept(trial: Trial) -> None:
    """What came before the cut is told, once; what did not come is not made up."""
    bench = trial.bench
    for count in range(1, len(PIECES) + 1):

        def cut(asked: Asked, count: int = count) -> Reply:
            return bench.stream(map(framed, bench.events(asked)[:count]))

        seen = await bench.answered(cut)
        said = "".join(piece.text for piece in PIECES[:count])
        require(seen.text == said, f"before the cut the engine said {said!r}, told is {seen.text!r}")


@check("cuts.not_sent_again")
async def not_sent_again(trial: Trial) -> None:
    """A task is sent once: whether it is sent again, the host decides."""
    bench = trial.bench
    for reply in (Reply((), "close"), bench.dialect.refusal(503, "busy"), bench.stream([])):
        tasks = 0

        def counted(_: Asked, reply: Reply = reply) -> Reply:
            nonlocal tasks
            tasks += 1
            return reply

        async with bench.meeting(bench.script(counted)) as (adapter, _):
            await outcome(adapter, bench.task())
        require(tasks == 1, f"a task that failed was sent {tasks} times; retries are the host's")


@check("cuts.toxics")
async def toxics(trial: Trial) -> None:
    """Whatever a network does to an answer, it is whole or a failure, be it late, slow, sliced, cut or reset."""
    bench = trial.bench
    for kind in TOXICS:
        for after in (0, 150, 2500):
            toxic = Toxic(kind=kind, after=after, seconds=0.001, rate=1_000_000, size=97)
            async with bench.meeting(bench.fake(Behaviour(tokens=TOKENS, toxics=(toxic,)))) as (adapter, _):
                seen = await outcome(adapter, bench.task(max_tokens=TOKENS))
            said = "".join(f"{bench.task().prompt}.{number} " for number in range(TOKENS))
            what = f"an answer under {kind} after {after} bytes"
            require(said.startswith(seen.text), f"{what} is told as {seen.text!r}")
            if seen.error is None:
                require(seen.end is not None and seen.text == said, f"{what} was taken for a success: {seen}")
            else:
                _is_reset(seen.error, what, str(seen))
                require(kind in BREAKING, f"{what} is only late, and failed: {seen}")


def _phases(bench: Bench) -> Iterator[tuple[str, Callable[[Asked], tuple[bytes, ...]]]]:
    head = bench.dialect.head()

    def chunks(asked: Asked) -> list[bytes]:
        return [framed(event) for event in bench.events(asked, (Piece("a"), Piece("b")))]

    yield "before its head", lambda _: ()
    yield "in its head", lambda _: (head[:20],)
    yield "after its head", lambda _: (head,)
    yield "in its first event", lambda asked: (head, chunks(asked)[0][:20])
    yield "after its first event", lambda asked: (head, chunks(asked)[0])
    yield "in a later event", lambda asked: (head, chunks(asked)[0], chunks(asked)[1][:20])
    yield "before the event that finishes it", lambda asked: (head, *chunks(asked)[:2])
    yield "in the event that finishes it", lambda asked: (head, *chunks(asked)[:2], chunks(asked)[2][:20])
    yield "by its last chunk, too early", lambda asked: (head, chunks(asked)[0], LAST_CHUNK)


def _is_reset(error: object, what: str, seen: str) -> None:
    require(error is not None, f"{what} was taken for a success: {seen}")
    require(
        isinstance(error, WorkerReset), f"{what} is told as {type(error).__name__}, it is to be a WorkerReset: {seen}"
    )
