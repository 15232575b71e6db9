"""What must not be seen, and how it is kept out of every text that leaves: messages, logs, tracebacks.

Two nets. First every `Secret` that is alive: as it is or in base64, in the text as it reads and with up to two layers
of escapes undone, so that it does not matter who escaped it for a URL, JSON or a repr, and which characters they chose.
Then the patterns of secrets that nobody declared. What either finds is marked in one text, and the marks are joined
before anything is replaced: secrets that overlap or contain each other leave no rest.
"""

import string
from collections.abc import Iterator
from typing import NoReturn, Self
from weakref import ref

from . import _redact_patterns
from ._escapes import unescaped
from ._needles import NO_NEEDLES, REDACTED, Needles, needles_of

CAP = 8 * 1024
"""Characters of a text that are kept."""

_ESCAPED = 20
"""Characters that one may become under two layers of escapes."""


class Secret:
    """Text that must not be seen: an API key, a token. Only `reveal()` gives it out.

    It prints as `[redacted]` in repr, str and format. It refuses JSON (an encoder's `enc_hook=str` or `default=str`
    writes `[redacted]`) and pickle, whose reader would take `[redacted]` for the key. It is compared and hashed by
    identity; a copy of it is itself. As long as it lives, `redact` finds it in any text, unless it has fewer than four
    characters.
    """

    __slots__ = ("__weakref__", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        _alive.add(self)

    def reveal(self) -> str:
        """The text itself; call it only where it is put on the wire."""
        return self._value

    def __repr__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled; pass its reference (env or file) instead")


class _Alive:
    """The secrets that are alive, held weakly, and what to look for because of them.

    Threads may make secrets and drop them, and the collector may drop them at any moment, in the middle of anything:
    each step here is a single one of the interpreter's, so that no lock is needed, and a drop runs no code of ours.
    """

    def __init__(self) -> None:
        self._secrets: set[ref[Secret]] = set()
        self._newest = object()
        self._known: tuple[object, int, Needles] = (self._newest, 0, NO_NEEDLES)

    def add(self, secret: Secret) -> None:
        self._secrets.add(ref(secret, self._secrets.discard))
        self._newest = object()

    def needles(self) -> Needles:
        """What to look for."""
        newest, count, needles = self._known
        if newest is not self._newest or count != len(self._secrets):
            newest = self._newest  # read before the secrets: what is added later makes another
            secrets = self._secrets.copy()
            values = {secret.reveal() for each in secrets if (secret := each()) is not None}
            needles = Needles({value: needles.of.get(value) or needles_of(value) for value in values})
            self._known = (newest, len(secrets), needles)
        return needles


_alive = _Alive()


def redact(text: str, *, keep_end: bool = False) -> str:
    """`text` without its secrets, each replaced by `[redacted]`; of a text over 8 KiB the beginning, or the end.

    The cut goes through no secret and, as far as a limit of 8 KiB allows, through no word and no line.
    """
    needles = _alive.needles()
    if len(text) <= CAP:
        marks = _joined([*_marks(text, needles), *_redact_patterns.found(text)])
        return _without(text, marks) if marks else text
    window = CAP + 1 + needles.longest * _ESCAPED
    if keep_end:
        text = text[-window:]
        return "…" + redact(text[_outside(_joined(_marks(text, needles)), _begin(text, len(text) - CAP), 1) :])
    text = text[:window]
    return redact(text[: _outside(_joined(_marks(text, needles)), _end(text, CAP), 0)]) + "…"


def _end(text: str, end: int) -> int:
    """`end`, or before the word that it would halve. The patterns know a key that was cut, but for its beginning."""
    if text[end] not in _IN_A_WORD:
        return end
    key = text[end - _A_KEY : end]
    return end - len(key) + len(key.rstrip(_OF_A_WORD))


def _begin(text: str, begin: int) -> int:
    """`begin`, or after the line or else the word that it would halve, if that ends in the first half of what is kept.

    No pattern knows the rest of a key.
    """
    half = text[begin : begin + CAP // 2]
    rest_of_line = half.find("\n") + 1
    return begin + (rest_of_line or len(half) - len(half.lstrip(_OF_A_WORD)))


def _outside(marks: list[tuple[int, int]], cut: int, side: int) -> int:
    """`cut`, or where the mark that it goes through begins (side 0) or ends (1)."""
    return next((mark[side] for mark in marks if mark[0] < cut < mark[1]), cut)


_OF_A_WORD = string.ascii_letters + string.digits + "+/-_=.~%\\"
_IN_A_WORD = frozenset(_OF_A_WORD)
_A_KEY = 64
"""Characters of which the patterns need less to know a key."""


def _without(text: str, marks: list[tuple[int, int]]) -> str:
    kept = [text[a:b] for a, b in zip([0, *(b for _, b in marks)], [*(a for a, _ in marks), len(text)], strict=True)]
    return REDACTED.join(kept)


def _joined(marks: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The marks in order, those that overlap or touch as one."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(marks):
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _marks(text: str, needles: Needles) -> list[tuple[int, int]]:
    """From where to where in `text` something of a secret stands."""
    marks = list(_hits(text, needles))
    if needles.longest and ("%" in text or "\\" in text):
        for view, began in unescaped(text).items():
            marks += ((began[start], began[end]) for start, end in _hits(view, needles))
    return marks


def _hits(text: str, needles: Needles) -> Iterator[tuple[int, int]]:
    for needle in needles.within(text):
        start = text.find(needle.text)
        while start >= 0:
            end = start + len(needle.text)
            if needle.base64:
                yield _with_neighbours(text, start, end)
            elif not (needle.whole and _within_a_word(text, start, end)):
                yield start, end
            start = text.find(needle.text, start + 1)


def _within_a_word(text: str, start: int, end: int) -> bool:
    return (start > 0 and text[start - 1].isalnum()) or text[end : end + 1].isalnum()


_BASE64 = frozenset(string.ascii_letters + string.digits + "+/-_=")
_GROUP = 4


def _with_neighbours(text: str, start: int, end: int) -> tuple[int, int]:
    """Base64, with what the groups before and after it may still tell of the secret."""
    first, last = max(start - _GROUP, 0), min(end + _GROUP, len(text))
    while start > first and text[start - 1] in _BASE64:
        start -= 1
    while end < last and text[end] in _BASE64:
        end += 1
    return start, end
