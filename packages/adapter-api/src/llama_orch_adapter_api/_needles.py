"""What is looked for in a text because of a secret, and which of it is there.

Each needle is known by its last four characters. A text's fours, at each place, are looked up as numbers: which needles
may be in it is found in one pass, however many there are.
"""

import base64
from collections import defaultdict
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from ._escapes import one_line

REDACTED = "[redacted]"

_SHORTEST = 4
"""Characters of the shortest secret that is looked for: a shorter one would be found everywhere."""

_LONG = 8
"""From so many characters on a secret is found within a word, and each line of one by itself; a shorter one is not."""

_FEW = 64
"""Needles up to which it is faster to look for each of them."""


class Needle(NamedTuple):
    """A text to look for: anywhere, only as a whole word, or as base64, whose first and last group it shares."""

    text: str
    whole: bool
    base64: bool
    end: int


class Needles:
    """Those of all secrets, by the secrets' values; `longest` in characters."""

    def __init__(self, of: Mapping[str, tuple[Needle, ...]]) -> None:
        self.of = of
        self._all = [*chain.from_iterable(of.values())]
        self.longest = max((len(needle.text) for needle in self._all), default=0)
        self._by_end: defaultdict[int, list[Needle]] = defaultdict(list)
        if len(self._all) > _FEW:
            for needle in self._all:
                self._by_end[needle.end].append(needle)

    def within(self, text: str) -> list[Needle]:
        """Those that stand in the text."""
        if not self._by_end:
            return [each for each in self._all if each.text in text]
        ends = self._by_end.keys() & chain.from_iterable(_fours(text, shift) for shift in range(_SHORTEST))
        return [each for end in ends for each in self._by_end[end] if each.text in text]


NO_NEEDLES = Needles({})


def needles_of(value: str) -> tuple[Needle, ...]:
    """What to look for because of one secret; nothing for one that would be found everywhere."""
    return tuple({*_needles(value)}) if len(value) >= _SHORTEST and value not in REDACTED else ()


def _fours(text: str, shift: int = 0) -> "memoryview[int]":
    """Each four characters as one number, from the character at `shift` on; what is beyond 16 bits counts as two."""
    units = memoryview(text.encode("utf-16-le", "surrogatepass"))[2 * shift :]
    return units[: len(units) // 8 * 8].cast("Q")


def _needle(text: str, *, whole: bool = False, base64: bool = False) -> Needle:
    return Needle(text, whole, base64, _fours(text[-_SHORTEST:])[-1])


def _needles(value: str) -> Iterator[Needle]:
    for written in {value, value.replace(" ", "+"), one_line(value)}:  # as forms and queries write it, and we do
        yield _needle(written, whole=len(value) < _LONG)
        yield _needle(_bytes(written).decode("latin-1"), whole=len(value) < _LONG)  # escaped, or misread, byte by byte
    for line in value.splitlines():  # a traceback and a YAML file indent them
        if _LONG <= len(line.strip()) < len(value):
            yield _needle(line.strip())
    yield from _in_base64(_bytes(value))


def _bytes(value: str) -> bytes:
    return value.encode(errors="surrogatepass")


def _in_base64(data: bytes) -> Iterator[Needle]:
    """The base64 of a secret, alone or within something longer, where it begins at one of three places in a group."""
    for before in range(3):
        groups = (before + len(data)) // 3
        text = base64.b64encode(bytes(before) + data)[4 if before else 0 : groups * 4].decode()
        if len(text) >= _LONG:
            yield _needle(text, base64=True)
            yield _needle(text.translate(_URL_SAFE), base64=True)
    if len(data) < _LONG:
        yield _needle(base64.b64encode(data).decode().rstrip("="), whole=True)


_URL_SAFE = str.maketrans("+/", "-_")
