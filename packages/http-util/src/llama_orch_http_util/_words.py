"""An engine's own words, as far as they may be told: one line, short, without secrets and without what was asked."""

import re
from itertools import takewhile
from urllib.parse import unquote

from llama_orch_adapter_api import one_line, redact

from ._shingles import RUN, Shingles

QUOTE = 300
"""Characters of an engine's own words that go into a message."""

_SEARCHED = 4 << 20
"""Bytes of the largest request in which words are looked for, which takes up to 20 ms."""

_BEFORE_REDACTION = 2048
"""Characters in which words are looked for as they were before their secrets were taken out."""

_INPUT = re.compile(
    r"""['"]input['"]\s*:|[\[{]\s*[{\["]|\bas JSON:|\blast read:|\bparse input at pos(?:ition)? [0-9]+:""",
    re.IGNORECASE,
)
"""Where an engine begins to repeat what it was given, or what its model wrote."""
_JSON_EXCEPTION = re.compile(
    r"""\[json\.exception\.out_of_range\.403\] key '[\w.-]{1,64}' not found|\[json\.exception[^'"]*"""
)
"""What the JSON library of llama.cpp says, up to the first value that it repeats; a missing key is the engine's."""


def quote(text: str, sent: bytes = b"") -> str:
    """An engine's words, safe in a log line: control, separator and bidi characters escaped, at most 300 of them.

    Engines repeat the offending input, or their model's output, in some errors: nothing is kept from there on, nor from
    24 characters in a row that stand in what was `sent`. Secrets are replaced by `[redacted]`.
    """
    text = _INPUT.split(_redacted(text, sent), maxsplit=1)[0]
    if (told := _JSON_EXCEPTION.search(text)) is not None:
        text = text[: told.end()]
    text = text.strip()
    if sent:
        text = _without(text[: QUOTE + RUN], sent)
    if len(text) > QUOTE:
        text = text[: QUOTE - 1] + "…"
    return one_line(text)


def _redacted(text: str, sent: bytes) -> str:
    """`text` without secrets, up to where it repeats what was sent, though a secret divide that."""
    redacted = redact(text)
    if not sent or redacted == text:
        return redacted
    looked_at = text[:_BEFORE_REDACTION]
    before = _without(looked_at, sent)
    if before == looked_at:
        return redacted
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(redact(before[:-1]), redacted, strict=False))
    return "".join(character for character, _ in alike) + "…"  # not the first half of a secret


def sent_of(path: str, body: bytes | None) -> bytes:
    """What an answer's words may repeat of a request: its path, as sent and as meant, and its body."""
    return b"\n".join([path.encode(errors="replace"), unquote(path).encode(errors="replace"), body or b""])


def _without(words: str, sent: bytes) -> str:
    """The words up to where they repeat what was sent, as it was or as JSON writes it; none if that is too large."""
    if len(words) < RUN:
        return words
    first = 0 if len(sent) > _SEARCHED else Shingles(words).first_in(sent)
    return words if first is None else words[:first] + "…"
