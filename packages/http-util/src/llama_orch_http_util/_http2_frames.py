"""Where one HTTP/2 frame ends and the next begins (RFC 9113 §4.1), and what a GOAWAY says. No I/O, no state of streams.

The frames are given to h2 one by one: it forgets what came before a bad frame in the same bytes. GOAWAY it never sees:
it would take the rest of the streams that the peer still answers for a breach of the protocol.
"""

from collections.abc import Iterator
from typing import NamedTuple

DATA = 0x0
SETTINGS = 0x4
GOAWAY = 0x7
LARGEST = 16_384
"""Bytes of a frame's payload: what is announced where nothing else is (§4.2)."""

_HEADER = 9
_KIND = 3
_HEADERS = 0x1
_CONTINUATION = 0x9
_ACK = _END_STREAM = 0x1
_END_HEADERS = 0x4
_PADDED = 0x8
_CODES = (
    *("NO_ERROR", "PROTOCOL_ERROR", "INTERNAL_ERROR", "FLOW_CONTROL_ERROR", "SETTINGS_TIMEOUT", "STREAM_CLOSED"),
    *("FRAME_SIZE_ERROR", "REFUSED_STREAM", "CANCEL", "COMPRESSION_ERROR", "CONNECT_ERROR", "ENHANCE_YOUR_CALM"),
    *("INADEQUATE_SECURITY", "HTTP_1_1_REQUIRED"),
)


class Breach(ValueError):
    """The peer sent what it may not; `code` names the reason to end the connection for, which h2 has `told` or not."""

    def __init__(self, code: str, *, told: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.told = told


class Goaway(NamedTuple):
    """No stream above `last` was or will be looked at; `code` says why (`NO_ERROR`: it only ends)."""

    last: int
    code: str


class Part(NamedTuple):
    """What a DATA frame brings; `size` is what it takes of the windows, padding included."""

    data: bytes
    size: int
    last: bool


class FrameSplitter:
    """Cuts received bytes into whole frames, their headers included; holds at most one unfinished frame."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The frames that `data` completes. Raises `Breach` at one that is too large, before it is here."""
        data = self._held + data
        at, end = 0, len(data)
        while end - at >= _HEADER:
            length = int.from_bytes(data[at : at + _KIND], "big")
            if length > LARGEST:
                raise Breach("FRAME_SIZE_ERROR")
            after = at + _HEADER + length
            if after > end:
                break
            yield data[at:after]
            at = after
        self._held = data[at:]


def kind_of(frame: bytes) -> int:
    """Its type."""
    return frame[_KIND]


def is_empty(frame: bytes) -> bool:
    """Whether it has no payload."""
    return len(frame) == _HEADER


def is_greeting(frame: bytes) -> bool:
    """Whether it is what a server has to send first: SETTINGS of its own (§3.4)."""
    return frame[_KIND] == SETTINGS and not frame[_KIND + 1] & _ACK


def leaves_headers_open(frame: bytes) -> bool:
    """Whether only a CONTINUATION of the same stream may follow (§6.2)."""
    return frame[_KIND] in {_HEADERS, _CONTINUATION} and not frame[_KIND + 1] & _END_HEADERS


def stream_of(frame: bytes) -> int:
    """The number of the stream it belongs to; 0: none."""
    return int.from_bytes(frame[5:_HEADER], "big") & 0x7FFF_FFFF


def part_of(frame: bytes) -> Part:
    """What a DATA frame brings (§6.1). Raises `Breach` for one with more padding than it has room for."""
    flags = frame[_KIND + 1]
    begin, end = _HEADER, len(frame)
    if flags & _PADDED:
        if begin == end or begin + 1 + frame[begin] > end:
            raise Breach("PROTOCOL_ERROR")
        end -= frame[begin]
        begin += 1
    return Part(frame[begin:end], len(frame) - _HEADER, bool(flags & _END_STREAM))


def end_of_stream(number: int) -> bytes:
    """A DATA frame that brings nothing but the end."""
    return b"\0\0\0\0\1" + number.to_bytes(4, "big")


def window_update(number: int, size: int) -> bytes:
    """So many bytes more may be sent on this stream; on all together: 0 (§6.9)."""
    return b"\0\0\4\x08\0" + number.to_bytes(4, "big") + size.to_bytes(4, "big")


def goaway_of(frame: bytes) -> Goaway:
    """What a GOAWAY says (§6.8). Raises `Breach` for one that is too short, or belongs to a stream."""
    payload = frame[_HEADER:]
    if len(payload) < 8 or any(frame[5:_HEADER]):
        raise Breach("FRAME_SIZE_ERROR")
    last = int.from_bytes(payload[:4], "big") & 0x7FFF_FFFF
    return Goaway(last, name_of(int.from_bytes(payload[4:8], "big")))


def name_of(code: int) -> str:
    """An error code's name (§7)."""
    return _CODES[code] if code < len(_CODES) else f"error {code:#x}"
