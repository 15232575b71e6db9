"""What must not be seen, and how it is kept out of every text that leaves: messages, logs, tracebacks.

Two nets. First every `Secret` that is alive, in the forms in which it travels: as it is, URL-encoded, in base64 and as
JSON escapes it. Then patterns for secrets that nobody declared: headers, keys of known shapes, user and query of a
URL. The patterns are linear: their repeats are bounded, and a text is capped before the first of them sees it.
"""

import base64
import json
import re
from typing import NoReturn, Self
from urllib.parse import quote, quote_plus
from weakref import WeakSet

REDACTED = "[redacted]"

CAP = 8 * 1024
"""Characters of a text that are looked at, and kept."""

_SHORTEST = 4
"""Characters of the shortest secret that is looked for: a shorter one would be found everywhere."""

_alive: "WeakSet[Secret]" = WeakSet()


class Secret:
    """Text that must not be seen: an API key, a token. Only `reveal()` gives it out.

    It prints as `[redacted]` in repr, str and format. It refuses JSON (an encoder's `enc_hook=str` or `default=str`
    writes `[redacted]`) and pickle, whose reader would take `[redacted]` for the key. It is compared and hashed by
    identity; a copy of it is itself. As long as it lives, `redact` finds it in any text.
    """

    __slots__ = ("__weakref__", "_forms", "_value")

    def __init__(self, value: str) -> None:
        self._value = value
        self._forms = _forms(value)
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


def _forms(value: str) -> tuple[str, ...]:
    """How a secret may stand in a text, the longest first."""
    if len(value) < _SHORTEST:
        return ()
    encoded = {quote(value, safe=""), quote_plus(value), quote(value), json.dumps(value)[1:-1]}
    lower = {re.sub("%[0-9A-F]{2}", lambda hit: hit[0].lower(), form) for form in encoded}
    utf8 = json.dumps(value, ensure_ascii=False)[1:-1]
    return tuple(sorted({value, utf8, *encoded, *lower, *_in_base64(value.encode())}, key=len, reverse=True))


def _in_base64(value: bytes) -> set[str]:
    """The base64 of a secret within something longer: it begins at one of three places in a group of four.

    What shares a character with a neighbour is left out.
    """
    forms: set[str] = set()
    for before in range(3):
        whole = (before + len(value)) // 3 * 3  # bytes in full groups
        text = base64.b64encode(bytes(before) + value)[: whole * 4 // 3]
        core = text[(4 if before else 0) :].decode()
        if len(core) >= _SHORTEST * 2:
            forms |= {core, core.translate(_URL_SAFE)}
    return forms


_URL_SAFE = str.maketrans("+/", "-_")

_NAMES = (
    r"authorization|proxy-authorization|x-api-key|api[-_ ]?key|access[-_]?token|token|secret|password|passwd"
    r"|cookie|set-cookie"
)

_PATTERNS: tuple[tuple[re.Pattern[str], str], ...] = (
    # a header, field or setting whose name says that its value is secret
    (
        re.compile(
            rf"""(?i)(?<![a-z])({_NAMES})(["']?[ \t]{{0,4}}[:=][ \t]{{0,4}}["']?)(?:(?:bearer|basic)[ \t]{{1,4}})?"""
            r"""[^\s"',;&\[]{1,4096}"""
        ),
        rf"\1\2{REDACTED}",
    ),
    (re.compile(r"(?i)(?<![a-z])(bearer|basic)([ \t]{1,4})[a-z0-9._~+/=-]{8,4096}"), rf"\1\2{REDACTED}"),
    # user and password, then the query, of a URL
    (re.compile(r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{1,15}://)[^\s/?#@]{1,512}@"), rf"\1{REDACTED}@"),
    (
        re.compile(r"(?i)(?<![a-z0-9+.-])([a-z][a-z0-9+.-]{1,15}://[^\s?#\"']{1,1024}\?)[^\s#\"']{1,4096}"),
        rf"\1{REDACTED}",
    ),
    # keys of known makes, and JSON web tokens
    (re.compile(r"(?<![A-Za-z0-9])(?:sk|pk|rk|hf|gh[pousr]|github_pat|xox[abprs])[-_][A-Za-z0-9_-]{16,512}"), REDACTED),
    (
        re.compile(r"(?<![A-Za-z0-9_-])eyJ[A-Za-z0-9_-]{8,2048}\.[A-Za-z0-9_-]{8,2048}(?:\.[A-Za-z0-9_-]{0,1024})?"),
        REDACTED,
    ),
)


def redact(text: str, *, keep_end: bool = False) -> str:
    """`text` without its secrets, each replaced by `[redacted]`; of a text over 8 KiB the beginning, or the end."""
    for secret in tuple(_alive):
        for form in secret._forms:  # noqa: SLF001  # of this room
            if form in text:
                text = text.replace(form, REDACTED)
    if len(text) > CAP:
        text = "…" + text[-CAP:] if keep_end else text[:CAP] + "…"
    for pattern, instead in _PATTERNS:
        text = pattern.sub(instead, text)
    return text


def one_line(text: str) -> str:
    """`text` as one line that says what it holds: control, separator and bidi characters as their escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in text)
