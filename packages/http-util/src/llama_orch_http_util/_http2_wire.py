"""What is said on one HTTP/2 connection, without I/O: h2, and what goes past it.

bytes → frames, one by one → h2 → events → the stream they belong to. Past h2 go GOAWAY (see `_http2_frames`) and, with
`direct_data`, the bodies of answers, which are what there is most of: h2 is told of their end alone, and their windows
are kept here. A malformed answer (see `_http2_heads`) ends its stream alone.
"""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Protocol

import msgspec
from h2 import events
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from ._config import KIB
from ._http2_frames import (
    DATA,
    GOAWAY,
    Breach,
    FrameSplitter,
    Goaway,
    end_of_stream,
    goaway_of,
    is_empty,
    is_greeting,
    kind_of,
    leaves_headers_open,
    name_of,
    part_of,
    stream_of,
    window_update,
)
from ._http2_heads import Fields, LengthKeeper, Malformed, check_trailers, head_of
from ._http2_stream import Exchange

SHARED_WINDOW = 16 * 1024 * 1024
"""Bytes of all streams together that may be under way. What arrived never counts: each stream has its own bound."""

LAST_NUMBER = 2**31 - 1
"""Of a stream; after it a connection takes none."""

_PATIENCE = 1000
"""Frames that bring nothing which was asked for, between two looks; each may take h2 a tenth of a millisecond."""
_MOST_PATIENCE = 10_000
_MOST_OF_A_STREAM = 8
"""Frames beside its body that are no sign of ill will: a head, some before it, trailers, a reset."""
_MOST_OF_A_KIB = 2
"""Frames that take back each kibibyte of a request's body: on its stream and on all, by a peer with small buffers."""
_LARGEST_TABLE = 4096
"""Bytes of the headers that are kept for later ones to refer to, however many the peer would keep: all are searched."""

_MOST_LEFT = 1024
_PING = b"llamaorc"


class Http2Limits(msgspec.Struct, frozen=True):
    """Of one connection: bytes a stream may be ahead of its reader; seconds between looks at a silent peer."""

    window: int
    ping_interval: float
    direct_data: bool = True


class Hearer(Protocol):
    """Who is told what concerns more than one stream."""

    def started(self) -> None:
        """The peer's SETTINGS are here."""

    def warned(self, goaway: Goaway) -> None:
        """The peer ends the connection."""

    def was_reset(self, number: int, code: str) -> None:
        """A stream was ended, by the peer or for its malformed answer."""

    def has_room(self) -> None:
        """The peer takes more of the requests' bodies, perhaps."""


class _H2(H2Connection):
    """Remembers how the latest streams ended: its own 65,536 are 8 MB of each connection."""

    MAX_CLOSED_STREAMS = 8192


class Wire:
    """Reads what the peer sends and gives it to its `streams`; holds what is to be sent until it is taken."""

    def __init__(self, streams: Mapping[int, Exchange], hearer: Hearer, limits: Http2Limits) -> None:
        self.answered = False
        self._streams = streams
        self._hearer = hearer
        self._direct_data = limits.direct_data
        self._frames = FrameSplitter()
        unchecked = H2Configuration(client_side=True, header_encoding=None, validate_inbound_headers=False)
        self._h2 = _H2(unchecked)
        self._h2.decoder = self._heads = LengthKeeper(H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE)
        self._h2.local_settings = Settings(
            client=True,
            initial_values={
                SettingCodes.ENABLE_PUSH: 0,
                SettingCodes.INITIAL_WINDOW_SIZE: limits.window,
                SettingCodes.MAX_HEADER_LIST_SIZE: H2Connection.DEFAULT_MAX_HEADER_LIST_SIZE,
            },
        )
        self._started = False
        self._patience = _PATIENCE
        self._in_headers = False  # only a CONTINUATION may follow
        self._shared_owed = 0  # bytes that arrived through h2, not yet given back to the shared window
        self._direct_owed = 0  # the same past h2
        self._direct_out = bytearray()  # what is to be sent past h2
        self._left: dict[int, None] = {}  # streams that were reset here, the last ones: what still comes is thrown away

    @property
    def most_streams(self) -> int:
        """How many the peer allows at once."""
        return self._h2.remote_settings.max_concurrent_streams

    def greet(self) -> None:
        """Begin: the preface, SETTINGS, the shared window."""
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(SHARED_WINDOW - self._h2.inbound_flow_control_window)

    def begin(self, head: Iterable[tuple[str, str]], *, body: bool) -> int:
        """Begin a stream with this head; its number."""
        number = self._h2.get_next_available_stream_id()
        self._h2.send_headers(number, head, end_stream=not body)
        self._patience = min(self._patience + _MOST_OF_A_STREAM, _MOST_PATIENCE)
        return number

    def room(self, number: int) -> int:
        """Bytes that a frame of this stream may have now."""
        return max(0, min(self._h2.local_flow_control_window(number), self._h2.max_outbound_frame_size))

    def send(self, number: int, part: bytes, *, last: bool) -> None:
        """Send a part of a request's body."""
        self._h2.send_data(number, part, end_stream=last)
        brings = 1 + _MOST_OF_A_KIB * -(-len(part) // KIB)
        self._patience = min(self._patience + brings, _MOST_PATIENCE)

    def acknowledge(self, exchange: Exchange, size: int) -> None:
        """Let the peer send so many bytes more on a stream."""
        if self._direct_data:
            self._direct_out += window_update(exchange.number, size)
        else:
            self._h2.increment_flow_control_window(size, exchange.number)

    def reset(self, number: int, code: ErrorCodes = ErrorCodes.CANCEL) -> None:
        """Tell the peer that nobody waits for this stream."""
        self._h2.reset_stream(number, code)
        if self._direct_data:
            self._left[number] = None
            if len(self._left) > _MOST_LEFT:
                del self._left[next(iter(self._left))]

    def forgive(self) -> None:
        """Time has passed: the peer may have its say again."""
        self._patience = max(self._patience, _PATIENCE)

    def ping(self) -> None:
        """Ask the peer for a sign of life."""
        self._h2.ping(_PING)

    def goodbye(self, code: str = "NO_ERROR") -> None:
        """Tell the peer that this was all, and why."""
        self._h2.close_connection(ErrorCodes[code])

    def to_send(self) -> bytes:
        """What is to be sent now; it is taken. A GOAWAY is the last of it: servers made of h2 bear nothing after it."""
        data = bytes(self._direct_out) + self._h2.data_to_send()
        self._direct_out.clear()
        return data

    def receive(self, data: bytes) -> None:
        """Give each stream what is for it. Raises `Breach`, when the frames before it were given."""
        for frame in self._frames.feed(data):
            if rest := self._past_h2(frame):
                self._through_h2(rest)

    def _past_h2(self, frame: bytes) -> bytes:
        """What is left of a frame for h2."""
        if not self._started:
            if not is_greeting(frame):
                raise Breach("PROTOCOL_ERROR")
            self._started = True
            self._hearer.started()
        kind = kind_of(frame)
        if kind != DATA or is_empty(frame):
            self._spend_patience()
        if kind == DATA and not self._in_headers:
            number = stream_of(frame)
            exchange = self._streams.get(number)
            if exchange is not None and not exchange.status:
                self._give_back(part_of(frame).size)
                self._give_up(exchange)
                return b""
            if exchange is not None and self._direct_data:
                return self._take(exchange, frame)
            if number in self._left:
                self._give_back(part_of(frame).size)
                return b""
            return frame
        if kind == GOAWAY:
            self._hearer.warned(goaway_of(frame))
            return b""
        self._in_headers = leaves_headers_open(frame)
        return frame

    def _spend_patience(self) -> None:
        self._patience -= 1
        if self._patience < 0:
            raise Breach("ENHANCE_YOUR_CALM")

    def _take(self, exchange: Exchange, frame: bytes) -> bytes:
        """Give a stream its part past h2; what h2 has to know of it: the end, or nothing."""
        data, size, last = part_of(frame)
        exchange.room -= size
        if exchange.room < 0:
            raise Breach("FLOW_CONTROL_ERROR")
        self._give_back(size)
        exchange.came(data, size - len(data))
        if exchange.is_too_long or (last and exchange.is_too_short):
            self._give_up(exchange)
            return b""
        return end_of_stream(exchange.number) if last else b""

    def _give_up(self, exchange: Exchange) -> None:
        """End a stream whose answer is malformed (§8.1.1)."""
        with suppress(ProtocolError):  # it is over for both
            self.reset(exchange.number, ErrorCodes.PROTOCOL_ERROR)
        self._hearer.was_reset(exchange.number, ErrorCodes.PROTOCOL_ERROR.name)

    def _give_back(self, size: int) -> None:
        """So many bytes went past h2: sooner or later the shared window is as wide as before."""
        self._direct_owed += size
        if self._direct_owed >= SHARED_WINDOW // 8:
            self._direct_out += window_update(0, self._direct_owed)
            self._direct_owed = 0

    def _through_h2(self, frame: bytes) -> None:
        try:
            understood = self._h2.receive_data(frame)
        except ProtocolError as error:
            raise Breach(name_of(error.error_code), told=True) from None
        for event in understood:
            act = _ACTS.get(type(event))
            if act is not None:
                act(self, event)

    def _on_head(self, event: events.ResponseReceived) -> None:
        exchange = self._streams.get(event.stream_id)
        if exchange is None:
            return
        try:
            head = head_of(_pairs(event.headers), self._heads.lengths, bodiless=exchange.bodiless)
        except Malformed:
            self._give_up(exchange)
            return
        self.answered = True
        exchange.began(*head)

    def _on_trailers(self, event: events.TrailersReceived) -> None:
        exchange = self._streams.get(event.stream_id)
        if exchange is None:
            return
        try:
            check_trailers(_pairs(event.headers))
        except Malformed:
            self._give_up(exchange)

    def _on_data(self, event: events.DataReceived) -> None:
        size = event.flow_controlled_length
        self._shared_owed += size
        if self._shared_owed >= SHARED_WINDOW // 8:
            self._h2.increment_flow_control_window(self._shared_owed)
            self._shared_owed = 0
        exchange = self._streams.get(event.stream_id)
        if exchange is not None:
            exchange.came(event.data, size - len(event.data))
            if exchange.is_too_long:
                self._give_up(exchange)

    def _on_end(self, event: events.StreamEnded) -> None:
        exchange = self._streams.get(event.stream_id)
        if exchange is None:
            return
        if exchange.is_too_short:
            self._give_up(exchange)
        else:
            exchange.finished()

    def _on_reset(self, event: events.StreamReset) -> None:
        self._hearer.was_reset(event.stream_id, name_of(event.error_code))

    def _on_room(self, _: events.Event) -> None:
        self._hearer.has_room()

    def _on_settings(self, _: events.RemoteSettingsChanged) -> None:
        """Keep h2 from a table of any size, and from keeping all the sizes that were told (RFC 7541 §4.2)."""
        encoder = self._h2.encoder
        if told := encoder.table_size_changes:
            size = min(told[-1], _LARGEST_TABLE)
            encoder.header_table.maxsize = size
            encoder.header_table.resized = True  # which a size that is told twice would hide
            encoder.table_size_changes = sorted({min(*told, size), size})
        self._hearer.has_room()


_ACTS: dict[type[events.Event], Callable[[Wire, Any], None]] = {
    events.ResponseReceived: Wire._on_head,  # noqa: SLF001  # of this room
    events.TrailersReceived: Wire._on_trailers,  # noqa: SLF001
    events.DataReceived: Wire._on_data,  # noqa: SLF001
    events.StreamEnded: Wire._on_end,  # noqa: SLF001
    events.StreamReset: Wire._on_reset,  # noqa: SLF001
    events.WindowUpdated: Wire._on_room,  # noqa: SLF001
    events.RemoteSettingsChanged: Wire._on_settings,  # noqa: SLF001
}


def _pairs(headers: Any) -> Fields:  # noqa: ANN401  # h2 says text or bytes; here it is bytes
    return headers  # type: ignore[no-any-return]
