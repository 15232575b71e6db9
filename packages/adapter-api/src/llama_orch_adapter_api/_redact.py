"""What must not be seen, and how it is kept out of every text that leaves: messages, logs, tracebacks.

Two nets. First every `Secret` that is alive: as it is or in base64, in the text as it reads and with up to two layers
of escapes undone, so that it does not matter who escaped it for a URL, JSON or a repr, and which characters they chose.
Then the patterns of secrets that nobody declared. What either finds is marked in one text, and the marks are joined
before anything is replaced: secrets that overlap or contain each other leave no rest.
"""

import base64
import string
from collections.abc import Iterator
from typing import NamedTuple, NoReturn, Self
from weakref import ref

from . import _redact_patterns
from ._escapes import one_line, unescaped

REDACTED = "[redacted]"

CAP = 8 * 1024
"""Characters of a text that are kept."""

_SHORTEST = 4
"""Characters of the shortest secret that is looked for: a shorter one would be found everywhere."""

_LONG = 8
"""From so many characters on a secret is found within a word, and each line of one by itself; a shorter one is not."""

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


class _Needle(NamedTuple):
    """A text to look for: anywhere, only as a whole word, or as base64, whose first and last group it shares."""

    text: str
    whole: bool = False
    base64: bool = False


class _Alive:
    """The secrets that are alive, held weakly, and what to look for because of them.

    Threads may make secrets and drop them, and the collector may drop them at any moment, in the middle of anything:
    each step here is a single one of the interpreter's, so that no lock is needed, and a drop runs no code of ours.
    """

    def __init__(self) -> None:
        self._secrets: set[ref[Secret]] = set()
        self._newest = object()
        self._known: tuple[object, int, tuple[_Needle, ...], int] = (self._newest, 0, (), 0)

    def add(self, secret: Secret) -> None:
        self._secrets.add(ref(secret, self._secrets.discard))
        self._newest = object()

    def needles(self) -> tuple[tuple[_Needle, ...], int]:
        """What to look for, and the length of the longest."""
        newest, count, needles, longest = self._known
        if newest is not self._newest or count != len(self._secrets):
            newest = self._newest  # read before the secrets: what is added later makes another
            secrets = self._secrets.copy()
            values = {secret.reveal() for each in secrets if (secret := each()) is not None}
            needles = tuple({needle: None for value in values for needle in _needles(value)})
            longest = max((len(needle.text) for needle in needles), default=0)
            self._known = (newest, len(secrets), needles, longest)
        return needles, longest


_alive = _Alive()


def _needles(value: str) -> Iterator[_Needle]:
    if len(value) < _SHORTEST or value in REDACTED:
        return
    for written in {value, value.replace(" ", "+"), one_line(value)}:  # as forms and queries write it, and we do
        yield _Needle(written, whole=len(value) < _LONG)
        yield _Needle(_bytes(written).decode("latin-1"), whole=len(value) < _LONG)  # escaped, or misread, byte by byte
    for line in value.splitlines():  # a traceback and a YAML file indent them
        if _LONG <= len(line.strip()) < len(value):
            yield _Needle(line.strip())
    yield from _in_base64(_bytes(value))


def _bytes(value: str) -> bytes:
    return value.encode(errors="surrogatepass")


def _in_base64(data: bytes) -> Iterator[_Needle]:
    """The base64 of a secret, alone or within something longer, where it begins at one of three places in a group."""
    for before in range(3):
        groups = (before + len(data)) // 3
        text = base64.b64encode(bytes(before) + data)[4 if before else 0 : groups * 4].decode()
        if len(text) >= _LONG:
            yield _Needle(text, base64=True)
            yield _Needle(text.translate(_URL_SAFE), base64=True)
    if len(data) < _LONG:
        yield _Needle(base64.b64encode(data).decode().rstrip("="), whole=True)


_URL_SAFE = str.maketrans("+/", "-_")
_BASE64 = frozenset(string.ascii_letters + string.digits + "+/-_=")
_GROUP = 4


def redact(text: str, *, keep_end: bool = False) -> str:
    """`text` without its secrets, each replaced by `[redacted]`; of a text over 8 KiB the beginning, or the end.

    The cut goes through no secret and, as far as a limit of 8 KiB allows, through no word and no line.
    """
    needles, longest = _alive.needles()
    if len(text) <= CAP:
        marks = _joined([*_marks(text, needles), *_redact_patterns.found(text)])
        return _without(text, marks) if marks else text
    window = CAP + 1 + longest * _ESCAPED
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


def _marks(text: str, needles: tuple[_Needle, ...]) -> list[tuple[int, int]]:
    """From where to where in `text` something of a secret stands."""
    marks = list(_hits(text, needles))
    if needles and ("%" in text or "\\" in text):
        for view, began in unescaped(text).items():
            marks += ((began[start], began[end]) for start, end in _hits(view, needles))
    return marks


def _hits(text: str, needles: tuple[_Needle, ...]) -> Iterator[tuple[int, int]]:
    for needle, whole, in_base64 in [each for each in needles if each[0] in text]:
        start = text.find(needle)
        while start >= 0:
            end = start + len(needle)
            if in_base64:
                yield _with_neighbours(text, start, end)
            elif not (whole and _within_a_word(text, start, end)):
                yield start, end
            start = text.find(needle, start + 1)


def _within_a_word(text: str, start: int, end: int) -> bool:
    return (start > 0 and text[start - 1].isalnum()) or text[end : end + 1].isalnum()


def _with_neighbours(text: str, start: int, end: int) -> tuple[int, int]:
    """Base64, with what the groups before and after it may still tell of the secret."""
    first, last = max(start - _GROUP, 0), min(end + _GROUP, len(text))
    while start > first and text[start - 1] in _BASE64:
        start -= 1
    while end < last and text[end] in _BASE64:
        end += 1
    return start, end
