"""Event streams as the WHATWG lets them be written, and as networks cut them."""

from collections.abc import Callable
from itertools import chain

from .._cuts import sse_cuts
from .._dialect import Asked, Piece
from .._dialects import LAST_CHUNK, framed
from .._outcome import outcome
from .._reply import Reply
from ._bench import Bench
from ._check import SSE, Trial, check, require
from ._stream import whole

SHORT = (Piece("é"), Piece("🦙"))
TEXT = "é🦙"

Rewrite = Callable[[bytes], bytes]


@check("framing.every_byte")
async def every_byte(trial: Trial) -> None:
    """However a stream is cut in two, at each of its bytes, the answer is the same."""
    bench = trial.bench
    offset = 0

    def cut(asked: Asked) -> Reply:
        return bench.body(b"".join(bench.events(asked, SHORT)), [offset])

    async with bench.meeting(bench.script(cut)) as (adapter, engine):
        length = await _length(bench)
        for offset in range(1, length):  # noqa: B007  # it is the script's
            whole(await outcome(adapter, bench.task()), TEXT)
            engine.requests.clear()


@check("framing.one_byte")
async def one_byte(trial: Trial) -> None:
    """A stream that comes a byte at a time is the same answer."""
    bench = trial.bench

    def bytewise(asked: Asked) -> Reply:
        data = b"".join(bench.events(asked, SHORT))
        return bench.body(data, range(len(data)))

    whole(await bench.answered(bytewise), TEXT)


@check("framing.at_once")
async def at_once(trial: Trial) -> None:
    """A stream that comes in one piece is the same answer, and one that is cut wherever it hurts."""
    bench = trial.bench

    def joined(asked: Asked) -> Reply:
        return bench.body(b"".join(bench.events(asked)))

    def torn(asked: Asked) -> Reply:
        data = b"".join(bench.events(asked))
        return bench.body(data, chain.from_iterable(sse_cuts(data).values()))

    whole(await bench.answered(joined))
    whole(await bench.answered(torn))


@check("sse.line_ends", SSE)
async def line_ends(trial: Trial) -> None:
    """Lines may end in CRLF or CR as well, and in each of these cut anywhere."""
    for end in (b"\r\n", b"\r"):
        await _rewritten(trial.bench, lambda event, end=end: event.replace(b"\n", end))  # type: ignore[misc]
        await _rewritten(trial.bench, lambda event, end=end: event.replace(b"\n", end), bytewise=True)  # type: ignore[misc]


@check("sse.comments", SSE)
async def comments(trial: Trial) -> None:
    """Comments mean nothing, wherever they stand: before the first event, between two, inside one."""
    await _rewritten(trial.bench, lambda event: b": ping\n\n:\n" + event.replace(b"\n", b"\n: still here\n", 1))


@check("sse.mark", SSE)
async def mark(trial: Trial) -> None:
    """A byte order mark before the stream means nothing."""
    await _rewritten(trial.bench, lambda event: event, before=b"\xef\xbb\xbf")


@check("sse.fields", SSE)
async def fields(trial: Trial) -> None:
    """Fields that nobody reads (`event`, `id`, `retry`, unknown ones), and no blank after the colon, change nothing."""
    await _rewritten(trial.bench, lambda event: b"event: message\nid: 7\nretry: 9\nodd\nother: x\n" + event)
    await _rewritten(trial.bench, lambda event: event.replace(b"data: ", b"data:"))


@check("sse.lines", SSE)
async def lines(trial: Trial) -> None:
    """An event's data may stand on several lines."""
    await _rewritten(trial.bench, lambda event: event.replace(b'{"', b'{\ndata: "', 1))


@check("sse.unterminated", SSE)
async def unterminated(trial: Trial) -> None:
    """Where the answer is finished, nothing that may be missing after it matters; where it is not, it is no success."""
    bench = trial.bench

    def without(asked: Asked, missing: int, then: bytes) -> Reply:
        events = bench.events(asked, SHORT)
        finish = len(SHORT) + 1
        kept = [*events[:finish], *events[finish : max(finish, len(events) - missing)]]
        return bench.stream([framed(b"".join(kept))], last=then)

    for missing in range(3):
        for then in (LAST_CHUNK, b""):
            seen = await bench.answered(lambda asked, m=missing, t=then: without(asked, m, t))  # type: ignore[misc]
            whole(seen, TEXT)

    def unfinished(asked: Asked) -> Reply:
        return bench.stream(map(framed, bench.events(asked, SHORT)[: len(SHORT)]), last=LAST_CHUNK)

    seen = await bench.answered(unfinished)
    require(seen.error is not None, f"a stream without the event that finishes it was taken for a whole one: {seen}")


async def _rewritten(bench: Bench, rewrite: Rewrite, *, before: bytes = b"", bytewise: bool = False) -> None:
    def reply(asked: Asked) -> Reply:
        data = before + b"".join(map(rewrite, bench.events(asked, SHORT)))
        return bench.body(data, range(len(data)) if bytewise else ())

    whole(await bench.answered(reply), TEXT)


async def _length(bench: Bench) -> int:
    """How long the stream is."""
    lengths: list[int] = []

    def measured(asked: Asked) -> Reply:
        data = b"".join(bench.events(asked, SHORT))
        lengths.append(len(data))
        return bench.body(data)

    whole(await bench.answered(measured), TEXT)
    return lengths[0]
