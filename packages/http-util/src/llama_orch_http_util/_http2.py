"""One HTTP/2 connection: moves bytes between the socket and the wire's state, and begins and ends its streams.

One `data_received` may wake many readers, each once; there is no task. What is to be sent in one turn of the loop is
written at its end, together.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import cast

from ._errors import BrokenConnection, OtherVersion
from ._http2_frames import Breach, Goaway
from ._http2_stream import Exchange
from ._http2_wire import LAST_NUMBER, Http2Limits, Wire
from ._pulse import Pulse
from ._setbacks import Reason, Setback, of_end, of_goaway, of_reset

MOST_STREAMS = 256
"""Streams at once on one connection, if the peer allows them: h2 looks at all of them whenever one begins."""

MOST_UNSENT = 256 * 1024
"""Bytes of bodies that are taken in one turn of the loop: only then the socket tells whether it has room."""


class Connection(asyncio.Protocol):
    """Takes streams while `can_open`. `changed` is called when it has stopped taking any, and when it is over.

    `greeted` is set when the peer's SETTINGS are here, or the connection is over before. Of a peer that chose another
    version nothing is asked. A silent peer is asked for a sign of life (PING), and given up when it gives none; an
    unused connection is closed.
    """

    def __init__(self, where: str, limits: Http2Limits, changed: Callable[["Connection"], None]) -> None:
        self.greeted = asyncio.Event()
        self.chosen: str | None = None
        self._where = where
        self._limits = limits
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._streams: dict[int, Exchange] = {}
        self._wire = Wire(self._streams, self, limits)
        self._held_back: set[int] = set()  # streams whose request waits for room
        self._started = False
        self._refuses_more = False
        self._lost = False
        self._told: str | None = None  # the peer's reason for ending it
        self._to_flush = False
        self._writable = True
        self._unsent = 0  # bytes of bodies in this turn
        self._heard = 0  # how often
        self._opened = 0  # how many streams
        self._pulse = Pulse()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def open_streams(self) -> int:
        """How many are under way."""
        return len(self._streams)

    @property
    def can_open(self) -> bool:
        """Whether another stream may begin now."""
        return self.is_usable and len(self._streams) < min(MOST_STREAMS, self._wire.most_streams)

    @property
    def is_usable(self) -> bool:
        """Whether it is greeted and not at its end."""
        return self._started and not self._refuses_more

    @property
    def is_over(self) -> bool:
        """Whether its socket is closed, and every stream with it."""
        return self._lost

    def setback(self) -> Setback:
        """Why it takes no stream."""
        if self.chosen != "h2":
            return Setback("other_version", OtherVersion())
        error = BrokenConnection()
        error.told = self._told if self._started else "no SETTINGS"
        if not self._started:
            return Setback("unstarted", error)
        return Setback(of_goaway(self._told or "NO_ERROR", first=True), error)

    def open(self, head: Sequence[tuple[str, str]], *, body: bool, idle: float) -> Exchange:
        """Begin a stream with this head; `can_open` held just now. One that h2 refuses is the last one here."""
        try:
            number = self._wire.begin(head, body=body)
        except BaseException:  # part of it may be among the headers that h2 remembers, and the peer never saw
            self._take_no_more()
            raise
        exchange = Exchange(self, number, self._where, window=self._limits.window, idle=idle)
        exchange.sent = not body
        exchange.bodiless = (":method", "HEAD") in head
        exchange.heard_before = self._heard
        self._streams[number] = exchange
        self._opened += 1
        if number + 2 > LAST_NUMBER:
            self._take_no_more()
        self._flush_soon()
        return exchange

    def close(self) -> None:
        """Say goodbye and drop it, at once; streams that are open fail."""
        if self._lost:
            return
        if self._timer is not None:
            self._wire.goodbye()
            self._flush()
        self._end("closed")

    # What a stream asks for (`Carrier`).

    def room(self, number: int) -> int:
        """See `Carrier`."""
        room = min(self._wire.room(number), MOST_UNSENT - self._unsent) if self._writable else 0
        if not room:
            self._held_back.add(number)
        return room

    def send(self, number: int, part: bytes, *, last: bool) -> None:
        """See `Carrier`."""
        self._wire.send(number, part, last=last)
        self._unsent += len(part)
        self._flush_soon()

    def acknowledge(self, exchange: Exchange, size: int) -> None:
        """See `Carrier`."""
        self._wire.acknowledge(exchange, size)
        self._flush_soon()

    def leave(self, number: int, *, reset: bool) -> None:
        """See `Carrier`."""
        if self._streams.pop(number, None) is None:
            return
        if reset:
            self._wire.reset(number)
            self._flush_soon()
        self._end_if_done()

    # What asyncio tells (`asyncio.Protocol`).

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greet the peer, if this is what it chose to speak."""
        self._transport = cast("asyncio.Transport", transport)
        self.chosen = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        if self.chosen == "h2":
            self._wire.greet()
            self._flush()
            self._timer = self._loop.call_later(self._limits.ping_interval, self._look)

    def data_received(self, data: bytes) -> None:
        """Have it understood, and answer it."""
        if self._lost or self._timer is None:
            return
        self._heard += 1
        try:
            self._wire.receive(data)
        except Breach as breach:
            if not breach.told:
                self._wire.goodbye(breach.code)
            self._flush()
            self._end("violated", breach.code)
        self._flush()

    def pause_writing(self) -> None:
        """Hold bodies back."""
        self._writable = False

    def resume_writing(self) -> None:
        """Let them go on."""
        self._writable = True
        self.has_room()

    def connection_lost(self, error: Exception | None) -> None:
        """All that is open breaks off."""
        self._end(of_end(self._told), self._told, getattr(error, "errno", None))

    # What was understood (`Hearer`).

    def started(self) -> None:
        """See `Hearer`."""
        self._started = True
        self.greeted.set()

    def warned(self, goaway: Goaway) -> None:
        """Streams that the peer did not look at fail; the others go on to their end."""
        last, code = goaway
        if code != "NO_ERROR":
            self._told = code
        self._take_no_more()
        reason = of_goaway(code, first=not last)
        for number in [number for number in self._streams if number > last]:
            self._streams.pop(number).fail(reason, code)
        self._end_if_done()

    def was_reset(self, number: int, code: str) -> None:
        """See `Hearer`."""
        exchange = self._streams.pop(number, None)
        if exchange is not None:
            exchange.fail(of_reset(code), code)
            self._end_if_done()

    def has_room(self) -> None:
        """See `Hearer`."""
        held_back, self._held_back = self._held_back, set()
        for number in held_back:
            if number in self._streams:
                self._streams[number].wake()

    # The end.

    def _end(self, reason: Reason, told: str | None = None, errno: int | None = None) -> None:
        """The connection is over, once, and with it every stream that is open."""
        if self._lost:
            return
        self._lost = True
        if self._timer is not None:
            self._timer.cancel()
        self._transport.abort()
        streams = list(self._streams.values())
        self._streams.clear()
        for exchange in streams:
            unheard = self._wire.answered and exchange.heard_before == self._heard
            stale = reason == "broken" and told is None and unheard
            exchange.fail("stale" if stale else reason, told, errno)
        self._take_no_more()

    def _take_no_more(self) -> None:
        self._refuses_more = True
        self.greeted.set()
        self._changed(self)

    def _end_if_done(self) -> None:
        if self._refuses_more and not self._streams:
            self.close()

    def _look(self) -> None:
        """Close what is unused, ask a silent peer for a sign of life, give up one that gave none."""
        verdict = self._pulse.look(self._heard, self._opened, len(self._streams))
        if verdict == "close":
            self.close()
        elif verdict == "give_up":
            self._end("broken", "no answer to a PING")
        else:
            self._wire.forgive()
            if verdict == "ping":
                self._wire.ping()
                self._flush()
            self._timer = self._loop.call_later(self._limits.ping_interval, self._look)

    def _flush_soon(self) -> None:
        if not self._to_flush:
            self._to_flush = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._to_flush = False
        data = self._wire.to_send()
        if data and not self._lost:
            self._transport.write(data)
        if self._unsent:
            self._unsent = 0
            if self._writable:
                self.has_room()
