"""Where an engine's words repeat what was sent, found in one pass over it.

The words are few, and what was sent may be megabytes. So each eight bytes in a row of the words, a shingle, are kept by
value, and what was sent is gone through in steps of sixteen bytes, of which the first eight are looked up. A run of 23
bytes or more in common has such eight in it, wherever it stands. It is followed from there to both its ends.
"""

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate, compress

import msgspec

RUN = 24
"""Characters in a row that words and request have in common where the words repeat the request."""

_SHINGLE = 8
_STEP = 2 * _SHINGLE
_PAIR = 16
_PATIENCE = 2048 * _PAIR
"""How many pairs of a shingle and its place in the request are looked at, a byte compared counting a sixteenth."""


class _Form:
    """The words as they were sent, if they were: `written`, and where in it each character begins and the last ends."""

    def __init__(self, characters: Sequence[bytes]) -> None:
        self.written = b"".join(characters)
        self._borders = [*accumulate(map(len, characters), initial=0)]

    def shingles(self) -> Iterator[tuple[int, int]]:
        """Each shingle's value and place."""
        for place in range(len(self.written) - _SHINGLE + 1):
            yield _values(self.written[place : place + _SHINGLE])[0], place

    def characters(self, begin: int, end: int) -> tuple[int, int]:
        """The first of the characters that lie whole between two places, and the one after the last."""
        return bisect_left(self._borders, begin), bisect_right(self._borders, end) - 1

    def common(self, place: int, sent: bytes, at: int) -> tuple[int, int]:
        """From where to where the run goes that words and request have in common at these two places."""
        written = self.written
        begin, end = place, place + _SHINGLE
        shift = at - place
        while begin > 0 and begin + shift > 0 and written[begin - 1] == sent[begin + shift - 1]:
            begin -= 1
        most = min(len(written), len(sent) - shift)
        while end < most and written[end] == sent[end + shift]:
            end += 1
        return begin, end


class Shingles:
    """Those of an engine's words, as they are and as JSON writes them."""

    def __init__(self, words: str) -> None:
        text = words.encode(errors="replace").decode()
        raw = [character.encode() for character in text]
        in_json = [msgspec.json.encode(character)[1:-1] for character in text]
        self._places: defaultdict[int, list[tuple[_Form, int]]] = defaultdict(list)
        for form in (_Form(raw), _Form(in_json)) if raw != in_json else (_Form(raw),):
            for value, place in form.shingles():
                self._places[value].append((form, place))

    def first_in(self, sent: bytes) -> int | None:
        """The character of the words where the first run begins that stands in what was sent; None without one.

        It may be one that is not in it where words and request are made to have very many shorter runs in common.
        """
        first: int | None = None
        patience = _PATIENCE
        for form, place, at in self._found(sent):
            if first is None or form.characters(place, place)[0] - RUN < first:
                begin, end = form.common(place, sent, at)
                patience -= end - begin
                character, after = form.characters(begin, end)
                if after - character >= RUN:
                    first = character if first is None else min(first, character)
            patience -= _PAIR
            if patience < 0:
                return self._first_shingle_in(sent) if first is None else min(first, self._first_shingle_in(sent))
        return first

    def _first_shingle_in(self, sent: bytes) -> int:
        """The character where the first shingle begins that stands in what was sent."""
        values = self._places.keys() & _blocks(sent)
        return min(form.characters(place, place)[0] for value in values for form, place in self._places[value])

    def _found(self, sent: bytes) -> Iterator[tuple[_Form, int, int]]:
        """Where a shingle stands in the words, and where in what was sent."""
        values = _blocks(sent)
        places = self._places
        for step in compress(range(len(values)), map(places.__contains__, values)):
            for form, place in places[values[step]]:
                yield form, place, step * _STEP


def _blocks(sent: bytes) -> "memoryview[int]":
    return _values(sent)[:: _STEP // _SHINGLE]


def _values(text: bytes) -> "memoryview[int]":
    """Each eight bytes as one number, less what is over."""
    return memoryview(text)[: len(text) // _SHINGLE * _SHINGLE].cast("Q")
