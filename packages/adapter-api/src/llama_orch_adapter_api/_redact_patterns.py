"""Secrets that nobody declared, found by how they look: after a telling name, in a URL, as a key of a known make.

Each pattern's last group is what must go. Every repeat is bounded, and none begins inside what another start of the
same pattern scans, so that the time grows with the text's length alone.
"""

import re
from collections.abc import Iterator

_MOST = 8192
"""Characters of the longest value: as many as a text keeps, so that none is redacted in part."""

_SCHEME = r"(?:(?:bearer|basic|token|digest|negotiate|apikey)[ ]{1,4})?"
_CLOSED = rf"(\\{{0,3}}[\"'])(?!(?:none|null|true|false)?\1){_SCHEME}((?:(?!\1)(?:\\.|[^\\\r\n])){{1,{_MOST}}})"
"""A value in quotes, which may be escaped themselves; it ends at the same quote, or with the line."""

_BARE = rf"(\[[^\]\r\n]{{0,{_MOST}}}\]?|[^\s\"'&]{{0,{_MOST}}}[^\s\"'&,;.)\]}}])"
"""A value without quotes: a list, or all up to a space, less the punctuation at its end."""

_OPEN = rf"(?!(?:none|null|true|false)(?![\w-])|\{{[\s\"'])(?!\\{{0,3}}[\"']){_SCHEME}{_BARE}"
_VALUE = rf"(?:{_CLOSED}|{_OPEN})"
_IS = r"(?:\\{0,3}[\"'])?[ \t]{0,4}[:=]{1,2}>?[ \t]{0,4}(?:b(?=[\"']))?"

_STRONG = (
    r"(?:authorization|api[-_ ]?keys?|passw(?:or)?ds?|passphrase|secret(?:s|[-_ ]?(?:access[-_ ]?)?key)?"
    r"|(?:private|access|auth)[-_ ]?key)"
)
_NUMBER = r"(?![\"']?-?\d{1,9}(?:\.\d{1,9})?(?:[mun]?s)?(?![\w.-]))"
_BEFORE = ("access", "auth", "refresh", "session", "bearer", "api", "hub", "id")
_OF_TEXT = ("first", "last", "next", "eos", "bos", "eot", "pad", "unk", "sep", "cls", "mask", "stop", "end", "start")
_TOKEN = (
    rf"token(?:(?<![a-z]token)|{'|'.join(f'(?<={word}token)' for word in _BEFORE)})"
    + "".join(rf"(?<!{word}[-_ ]token)" for word in _OF_TEXT)
    + r"(?<!unexpected[ ]token)"
)
"""A token that opens doors, and not one that a model makes: those have a number, or one of these words before them."""

_SHAPES = {
    **dict.fromkeys(("sk-", "gsk_", "xai-", "pplx-", "nvapi-", "csk-", "glpat-"), r"[\w-]{16,8192}"),
    **dict.fromkeys(("xoxa-", "xoxb-", "xoxp-", "xoxr-", "xoxs-"), r"[\w-]{10,8192}"),
    **dict.fromkeys(("sk_live_", "sk_test_", "rk_live_", "rk_test_"), r"[A-Za-z0-9]{16,8192}"),
    **dict.fromkeys(("hf_", "ghp_", "gho_", "ghu_", "ghs_", "ghr_", "npm_", "r8_"), r"[A-Za-z0-9]{20,8192}"),
    "github_pat_": r"\w{20,8192}",
    "AKIA": r"[A-Z0-9]{16}",
    "ASIA": r"[A-Z0-9]{16}",
    "AIza": r"[\w-]{30,8192}",
}
"""What keys of known makes begin with, and what follows."""

# What follows "basic" is no word: it holds a figure, or a capital that is not its first letter.
PATTERNS: dict[str, tuple[tuple[str, ...], re.Pattern[str]]] = {
    name: (words, re.compile(pattern, re.ASCII))
    for name, words, pattern in (
        (
            "header, field or setting whose name tells",
            ("authorization", "key", "passw", "passphrase", "secret"),
            rf"(?i){_STRONG}{_IS}{_VALUE}",
        ),
        ("token that is no number", ("token",), rf"(?i){_TOKEN}{_IS}{_NUMBER}{_VALUE}"),
        (
            "cookies",
            ("cookie",),
            rf"(?i)cookies?{_IS}(?!none|null)(?:[\"'](?=[^\"']))?([^\s\"'][^\r\n\"']{{0,{_MOST}}})",
        ),
        (
            "pair of name and value",
            ('("', "('", "(b'", '(b"'),
            rf"(?i)\(b?[\"'](?:[a-z-]{{1,32}}[-_])?(?:{_STRONG}|token|cookie)[\"'],[ ]{{0,4}}b?{_CLOSED}",
        ),
        (
            "option of a command",
            ("--",),
            (
                rf"(?i)(?<![-\w])--(?:[a-z]{{1,16}}-){{0,2}}(?:{_STRONG}|token)"
                rf"(?:[ \t]{{1,4}}|[\"'],[ ]{{0,4}}(?=[\"'])){_NUMBER}(?!-){_VALUE}"
            ),
        ),
        (
            "bearer",
            ("bearer ",),
            (
                r"(?i)(?<![a-z])bearer[ ]{1,4}(?!auth|token|credential|scheme|realm|format|header|[a-z_]{1,32}=[\"'])"
                rf"([a-z0-9._~+/=-]{{8,{_MOST}}})"
            ),
        ),
        (
            "basic",
            ("basic ",),
            (
                rf"(?<![A-Za-z])(?i:basic)[ ]{{1,4}}(?=[A-Za-z+/]{{1,{_MOST}}}[A-Z0-9=+/])"
                rf"(?![A-Z]{{1,32}}(?![A-Za-z0-9+/=])|[a-z_]{{1,32}}=[\"'])([A-Za-z0-9+/=_-]{{8,{_MOST}}})"
            ),
        ),
        ("user and password of a URL", ("://",), r"://([^\s/?#\"'<>]{1,512})@"),
        ("query of a URL", ("://",), rf"://(?:[^\s?#\"'<>:]|:(?!//)){{1,1024}}\?([^\s\"'<>]{{1,{_MOST}}})"),
        ("query of a path", ("?",), rf"\?([\w.~%+-]{{1,64}}=[^\s\"'<>]{{0,{_MOST}}})"),
        (
            "key of a known make",
            tuple(start.lower() for start in _SHAPES),
            rf"(?<![A-Za-z0-9])({'|'.join(start + rest for start, rest in _SHAPES.items())})",
        ),
        (
            "JSON web token",
            ("eyj",),
            rf"(?<![A-Za-z0-9])(eyJ[\w-]{{8,1024}}+\.[\w-]{{8,{_MOST}}}+(?:\.[\w-]{{0,{_MOST}}})?)",
        ),
        (
            "private key in PEM",
            ("-----begin",),
            rf"-----BEGIN [A-Z ]{{0,32}}PRIVATE KEY-----((?:[^-]|-(?!----)){{1,{_MOST}}})",
        ),
    )
}
"""By what is found: words, one of which a text must hold (in lower case) for the pattern to be tried; the pattern."""

_NAME = re.compile(rf"(?i)(?:(?P<always>{_STRONG}|cookies?)|{_TOKEN})[\"']?\Z", re.ASCII)


def found(text: str) -> Iterator[tuple[int, int]]:
    """From where to where a secret stands, in any order."""
    lower = text.lower()
    for words, pattern in PATTERNS.values():
        if any(word in lower for word in words):
            for match in pattern.finditer(text):
                yield match.span(match.lastindex or 0)


def tells(name: str, *, of_a_number: bool = False) -> bool:
    """Whether what stands under this name is secret: a header, a field, a setting."""
    match = _NAME.search(name)
    return match is not None and (match["always"] is not None or not of_a_number)
