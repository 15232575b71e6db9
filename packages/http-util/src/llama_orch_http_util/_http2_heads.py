"""What the head of an HTTP/2 answer says, and whether it may (RFC 9113 §8.1.1). No I/O.

A malformed answer is an error of its stream. h2 makes one of the connection of it, and all other streams end, too: so
it is told of no length, and checks no header by itself.
"""

from collections.abc import Iterable
from typing import NamedTuple

from h2.exceptions import ProtocolError
from h2.utilities import HeaderValidationFlags, validate_headers
from hpack import Decoder, HeaderTuple

from ._transport import headers_of

Fields = Iterable[tuple[bytes, bytes]]

_LENGTH = b"content-length"
_MOST_DIGITS = 18
_NO_BODY = frozenset({204, 304})
_TEXT = ("utf-8", "surrogateescape")
_HEAD = HeaderValidationFlags(is_client=True, is_trailer=False, is_response_header=True, is_push_promise=False)
_TRAILERS = HeaderValidationFlags(is_client=True, is_trailer=True, is_response_header=False, is_push_promise=False)


class Malformed(ValueError):
    """The answer is none; the connection it came on is as good as before."""


class LengthKeeper(Decoder):
    """Unpacks headers for h2, and keeps Content-Length from it: `lengths` are those of the latest block."""

    def __init__(self, most: int) -> None:
        super().__init__(max_header_list_size=most)
        self.lengths: list[bytes] = []

    def decode(self, data: bytes, raw: bool = False) -> Iterable[HeaderTuple]:  # noqa: FBT001, FBT002  # hpack's own
        """See `hpack.Decoder`."""
        headers = list(super().decode(data, raw))
        self.lengths = [value for name, value in headers if name == _LENGTH]
        return [header for header in headers if header[0] != _LENGTH] if self.lengths else headers


class Head(NamedTuple):
    """`fields` as `headers_of` gives them. `length` is the body's in bytes, None where nothing tells it."""

    status: int
    fields: dict[str, str]
    length: int | None


def head_of(headers: Fields, lengths: Iterable[bytes], *, bodiless: bool) -> Head:
    """What it says; `bodiless`: to a request whose answer has no body. Raises `Malformed`."""
    fields = headers_of((name.decode(*_TEXT), value.decode(*_TEXT)) for name, value in _checked(headers, _HEAD))
    status = fields.pop(":status")
    if not (len(status) == 3 and status.isascii() and status.isdecimal() and status >= "100"):
        raise Malformed(status)
    length = _length_of(lengths)
    if length is not None:
        fields["content-length"] = str(length)
    return Head(int(status), fields, 0 if bodiless or int(status) in _NO_BODY else length)


def check_trailers(headers: Fields) -> None:
    """Raises `Malformed`."""
    _checked(headers, _TRAILERS)


def _checked(headers: Fields, rules: HeaderValidationFlags) -> Fields:
    try:
        return list(validate_headers(headers, rules))
    except ProtocolError as error:
        raise Malformed from error


def _length_of(lengths: Iterable[bytes]) -> int | None:
    """What all of them say (RFC 9110 §8.6)."""
    told = set(lengths)
    if not told:
        return None
    if not all(each.isdigit() and len(each) <= _MOST_DIGITS for each in told) or len({*map(int, told)}) > 1:
        raise Malformed
    return int(told.pop())
