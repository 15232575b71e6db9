"""An engine's own words, as far as they are told: one line, short, and without secrets."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_orch_http_util._errors import (
    quote,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain words", "plain words"),
        ("  around \n", "around"),
        ("naïve 🦙", "naïve 🦙"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("a\x1b[31mb\0", r"a\x1b[31mb\x00"),
        ("a\u202eb\u2066c\u200fd", r"a\u202eb\u2066c\u200fd"),
        ("a\u2028b\u2029c\x85d", r"a\u2028b\u2029c\x85d"),
        ("a\u00adb\ufeffc", r"a\xadb\ufeffc"),
        ("a\U000e0041b", r"a\U000e0041b"),
        ("a\udcffb", r"a\udcffb"),
        ("x" * 300, "x" * 300),
        ("x" * 301, "x" * 299 + "…"),
        ("bad 'input': 'a prompt'", "bad"),
        ('{"msg":"bad","input": "a prompt"}', ""),
        ("bad 'input' : a prompt", "bad"),
    ],
)
def test_quoted_words(text: str, shown: str) -> None:
    """Control, separator and bidi characters are escaped, length is capped, and what repeats the input is left out."""
    assert quote(text) == shown


@given(text=st.text(st.characters(), max_size=400))
@settings(deadline=None)
def test_quoted_words_are_one_line(text: str) -> None:
    """Whatever an engine says, its words are one printable line of bounded length (battery 36, log_injection)."""
    shown = quote(text)

    assert shown.isprintable()
    assert len(shown) <= 300 * len(r"\U00000000")


def evil(rng: random.Random, size: int) -> str:
    """A text of the pieces that the patterns begin with, over and over."""
    pieces = ["'input'", '"input"', "[", "{", " ", "\t", ":", "'", "sk-", "Bearer ", "a", "\\", "%5C", "key=", "\n"]
    few = rng.choices(pieces, k=rng.randint(1, 4))
    return "".join(rng.choices(few, k=size))[:size]


def test_quoting_takes_no_time() -> None:
    """Of 200 texts made to hurt, of 8 and 64 KiB, none takes long to quote: it is linear (battery 33, redos)."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    for number in range(200):
        size = (8 if number % 2 else 64) * 1024
        text = evil(rng, size)
        begun = time.process_time()
        quote(text)
        assert time.process_time() - begun < 0.5 * size / 8192, (number, text[:80])
