"""What people see who look in: one look a second at everything, the same for all of them."""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator

import msgspec
from aiohttp import web
from llama_orch_adapter_api import get_logger
from llama_orch_adapter_host import AdapterHost

from ._jobs import Jobs
from ._keys import CONFIG, HOST, JOBS
from ._overview import Overview, overview
from ._recent import quantile
from ._refusal import full
from ._routes import Reply, Route
from ._tail import Line, Tail

logger = get_logger(__name__)

EVERY = 1.0
"""Seconds between two looks."""

KEPT = 300
"""Looks that the plots go back."""

VIEWERS = 32
"""How many may look in at once."""

PATIENCE = 30.0
"""Seconds that a viewer may take nothing at all."""

_BOUND = 256 * 1024
"""Bytes that wait for a viewer; one that takes them slower than they come misses looks, and begins anew."""

_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-store",
    "X-Accel-Buffering": "no",
}


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """A point of the plots; `at` is in ms since 1970. Half of the latest tasks did not take longer than a `p50`.

    `first` is from a task's admission to its first token, `total` to its end, in seconds; None where there was no task.
    """

    at: int
    running: int
    waiting: int
    tokens_per_s: float
    first_p50: float | None
    first_p95: float | None
    total_p50: float | None
    total_p95: float | None


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What is sent: to who begins to look the whole `history` and all lines, then each time what is new of them."""

    every: float
    now: Overview
    history: tuple[Sample, ...]
    lines: tuple[Line, ...]


class BeginFrame(msgspec.Struct, frozen=True, tag_field="event", tag="begin"):
    """The first server-sent event: with all that is kept."""

    data: Look


class LookFrame(msgspec.Struct, frozen=True, tag_field="event", tag="look"):
    """One of those that follow: with what is new."""

    data: Look


class Live:
    """Looks at a host and its tasks once every `EVERY` seconds, whether somebody watches or not: plots have a past.

    What is sent is made once for all who watch, and only if somebody does.
    """

    def __init__(
        self,
        host: AdapterHost,
        jobs: Jobs,
        tail: Tail,
        queue: int,
        *,
        clock: Callable[[], float],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._host = host
        self._jobs = jobs
        self._tail = tail
        self._queue = queue
        self._clock = clock
        self._wall = wall
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._told: dict[str, int] = {}  # tokens by pool, at the latest look
        self._rates: dict[str, float] = {}
        self._looked: float | None = None
        self._number = 0  # of the latest look
        self._line = self._line_before = 0  # the tail's latest line at that look, and at the one before
        self._frames: dict[bool, bytes] = {}  # of this look: for who begins, and for who saw the one before
        self._turn: asyncio.Event = asyncio.Event()
        self._viewers = 0
        self.closed = False

    async def run(self) -> None:
        """Look, until it is cancelled."""
        while True:
            try:
                self.look()
            except Exception:
                logger.exception("a look at what is going on failed")
            await asyncio.sleep(EVERY)

    def look(self) -> None:
        """Take a sample, and wake who watches."""
        now = self._clock()
        self._count(now)
        self._samples.append(self._sample(now))
        self._number += 1
        self._line_before, self._line = self._line, self._tail.told
        self._frames.clear()
        self._wake()

    def frame(self, seen: int) -> tuple[int, bytes]:
        """The latest look and its number, for who saw that of number `seen` last, 0: none."""
        begins = not seen or seen + 1 != self._number
        if begins not in self._frames:
            self._frames[begins] = self._render(begins=begins)
        return self._number, self._frames[begins]

    async def newer(self, seen: int) -> bool:
        """Wait for a look after that one; False where none will come."""
        while self._number == seen and not self.closed:
            await self._turn.wait()
        return not self.closed

    @contextlib.contextmanager
    def seat(self) -> Iterator[None]:
        """Watch within the block. Raises `Refusal` where too many do."""
        if self._viewers >= VIEWERS:
            raise full(
                f"{VIEWERS} look in already, which is as many as may · close a page, or come again", EVERY, "table_full"
            )
        self._viewers += 1
        try:
            yield
        finally:
            self._viewers -= 1

    def close(self) -> None:
        """Send everybody home."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._turn.set()
        self._turn = asyncio.Event()

    def _count(self, now: float) -> None:
        told = {pool_id: lane.told for pool_id, lane in self._jobs.dispatch.lanes.items()}
        span = 0.0 if self._looked is None else now - self._looked
        self._rates = {
            pool_id: (count - self._told.get(pool_id, 0)) / span if span > 0 else 0.0 for pool_id, count in told.items()
        }
        self._told, self._looked = told, now

    def _sample(self, now: float) -> Sample:
        lanes = self._jobs.dispatch.lanes.values()
        first = sorted(span for lane in lanes for span in lane.first_tokens.within(now))
        total = sorted(span for lane in lanes for span in lane.totals.within(now))
        return Sample(
            at=round(self._wall() * 1000),
            running=sum(len(lane.running) for lane in lanes),
            waiting=sum(len(lane.queue) for lane in lanes),
            tokens_per_s=round(sum(self._rates.values()), 1),
            first_p50=_rounded(quantile(first, 0.5)),
            first_p95=_rounded(quantile(first, 0.95)),
            total_p50=_rounded(quantile(total, 0.5)),
            total_p95=_rounded(quantile(total, 0.95)),
        )

    def _render(self, *, begins: bool) -> bytes:
        after = 0 if begins else self._line_before
        look = Look(
            every=EVERY,
            now=overview(self._host, self._jobs, self._queue, self._rates, self._clock()),
            history=tuple(self._samples) if begins else tuple(self._samples)[-1:],
            lines=tuple(line for line in self._tail.lines(after) if line.n <= self._line),
        )
        return b"event: %b\ndata: %b\n\n" % (b"begin" if begins else b"look", msgspec.json.encode(look))


def _rounded(span: float | None) -> float | None:
    return None if span is None else round(span, 4)


LIVE = web.AppKey("live", Live)


def add(app: web.Application) -> None:
    """Have an application look at what it does, until it stops; who watches may see it stopping."""
    app.cleanup_ctx.append(_run)
    app.on_shutdown.append(_close)


async def _run(app: web.Application) -> AsyncIterator[None]:
    tail = Tail()
    clock = asyncio.get_running_loop().time
    app[LIVE] = live = Live(app[HOST], app[JOBS], tail, app[CONFIG].admission.queue, clock=clock)
    deafen = app[HOST].observe(tail)
    looking = asyncio.create_task(live.run())
    yield
    looking.cancel()
    await asyncio.wait([looking])
    deafen()


async def _close(app: web.Application) -> None:
    app[LIVE].close()


async def _show(request: web.Request) -> web.StreamResponse:
    live = request.app[LIVE]
    response = web.StreamResponse(headers=_HEADERS)
    with live.seat():
        await response.prepare(request)
        try:
            await _watch(live, request, response)
        except (ConnectionError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
    return response


async def _watch(live: Live, request: web.Request, response: web.StreamResponse) -> None:
    if request.transport is not None:
        request.transport.set_write_buffer_limits(high=_BOUND)
    seen = 0
    while await live.newer(seen):
        seen, frame = live.frame(seen)
        async with asyncio.timeout(PATIENCE):
            await response.write(frame)


_STREAM = (("text/event-stream",), ("Cache-Control", "X-Accel-Buffering"))

ROUTES = (
    Route(
        name="live",
        method="GET",
        path="/v1/live",
        handler=_show,
        summary="All that is going on, for the page: a look each second, until the client leaves.",
        replies={200: Reply("An event `begin`, then `look`s.", (BeginFrame | LookFrame,), *_STREAM)},
        refusals={429: f"{VIEWERS} look in already."},
    ),
)
