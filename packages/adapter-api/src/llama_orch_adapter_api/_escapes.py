"""Escapes, undone to see what a text says, and made so that it says it on one line."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import product


def one_line(text: str) -> str:
    """`text` as one line that says what it holds: control, separator and bidi characters as their escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)


def unescaped(text: str) -> dict[str, Sequence[int]]:
    """How the text reads with one and with two layers of escapes undone, and where each character began in it."""
    views: dict[str, Sequence[int]] = {text: range(len(text) + 1)}
    layer = [text]
    for _ in range(_LAYERS):
        read = [(escaped, *_undone(escaped, *escape)) for escaped, escape in product(layer, _ESCAPES)]
        layer = list(dict.fromkeys(view for _, view, _ in read if view not in views))
        for escaped, view, places in read:
            views.setdefault(view, [views[escaped][at] for at in places])
    del views[text]
    return views


_LAYERS = 2


def _undone(text: str, escape: re.Pattern[str], meaning: Callable[[str], str]) -> tuple[str, list[int]]:
    """`text` without its escapes of one kind, and where each of the characters left began, and the last one ended."""
    parts: list[str] = []
    places: list[int] = []
    at = 0
    for match in escape.finditer(text):
        start, end = match.span()
        parts += (text[at:start], meaning(match[0]))
        places += range(at, start + 1)
        at = end
    parts.append(text[at:])
    places += range(at, len(text) + 1)
    return "".join(parts), places


def _of_url(escape: str) -> str:
    return chr(int(escape[1:], 16))


@lru_cache(1024)
def _of_json(escape: str) -> str:
    """What JSON or Python mean by it; JSON writes what is beyond 16 bits as two halves."""
    if escape == r"\/":
        return "/"
    halves = escape.encode().decode("unicode_escape").encode("utf-16", "surrogatepass")
    return halves.decode("utf-16", "surrogatepass")


_ESCAPES: tuple[tuple[re.Pattern[str], Callable[[str], str]], ...] = (
    (re.compile("%[0-9A-Fa-f]{2}"), _of_url),
    (
        re.compile(
            r"""\\(?:["'\\/abfnrtv]|x[0-9A-Fa-f]{2}|u[Dd][89ABab][0-9A-Fa-f]{2}\\u[Dd][C-Fc-f][0-9A-Fa-f]{2}"""
            r"""|u[0-9A-Fa-f]{4}|U00(?:0[0-9A-Fa-f]|10)[0-9A-Fa-f]{4})"""
        ),
        _of_json,
    ),
)
"""What an escape looks like, and the one character that it means."""
