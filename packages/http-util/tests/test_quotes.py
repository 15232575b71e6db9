"""An engine's own words, as far as they are told: one line, short, and without secrets."""

import json
import random
import secrets
import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_orch_adapter_api import one_line
from llama_orch_http_util._shingles import Shingles
from llama_orch_http_util._words import quote, sent_of


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
        (
            "Failed to parse tool call arguments as JSON: [json.exception.parse_error.101] …",
            "Failed to parse tool call arguments",
        ),
        (
            "[json.exception.parse_error.101] missing closing quote; last read: '\"a secret'",
            "[json.exception.parse_error.101] missing closing quote;",
        ),
        (
            "[json.exception.out_of_range.406] number overflow parsing '1e999'",
            "[json.exception.out_of_range.406] number overflow parsing",
        ),
        ("Failed to parse input at pos 12: <think>a secret", "Failed to"),
    ],
)
def test_quoted_words(text: str, shown: str) -> None:
    """Control, separator and bidi characters are escaped, length is capped, and what repeats the input is left out."""
    assert quote(text) == shown


PROMPT = 'the "quoted" words\n of a prompt: naïve 🦙'


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (f"bad prompt {PROMPT}", "bad prompt…"),
        (f"bad prompt {json.dumps(PROMPT, ensure_ascii=False)}", "bad prompt…"),
        (f"it says {PROMPT[3:27]}, no more", "it says…"),
        (f"it says {PROMPT[3:26]}, no more", f"it says {PROMPT[3:26]}, no more"),
        ("x" * 290 + PROMPT, "x" * 290 + "…"),
        ("no such path /v1/a%20model%20of%20this%20name", "no such path…"),
        ("no such path /v1/a model of this name", "no such path…"),
    ],
)
def test_what_was_sent_is_not_repeated(words: str, shown: str) -> None:
    """From 24 characters in a row on that stand in the request, raw or as JSON, nothing is told (battery 32)."""
    sent = sent_of("/v1/a%20model%20of%20this%20name", msgspec.json.encode({"prompt": PROMPT}))

    assert quote(words, sent).replace(" …", "…") == shown.replace("\n", r"\n")


@given(prompt=st.text(min_size=24, max_size=100), before=st.text(max_size=50), at=st.integers(0, 76))
@settings(deadline=None)
def test_no_run_is_repeated(prompt: str, before: str, at: int) -> None:
    """Wherever 24 characters of a prompt stand in an engine's words, they are not told (battery 32)."""
    run = prompt[at : at + 24].strip() if len(prompt[at : at + 24].strip()) == 24 else prompt[:24]
    if len(run.strip()) == 24:
        assert one_line(run) not in quote(before + run, sent_of("/", msgspec.json.encode(prompt)))


KEY, SENT_KEY = (f"sk-{secrets.token_hex(20)}" for _ in range(2))
DIARY = "My wifi password: hunter22, her api_key: tulips99. See http://me:too@home/a?b=c, and wait"


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (f"bad prompt {DIARY}", "bad prompt …"),
        (f"no such key {KEY} for {DIARY}", "no such key [redacted] for …"),
        (f"no such key {KEY} for {DIARY[20:]}", "no such key [redacted] for …"),
        (f"no such {SENT_KEY}", "no such …"),
        (f"no such key: {KEY[:20]}, nor another", "no such key: [redacted], nor another"),
        ("x" * 280 + DIARY, "x" * 280 + "…"),
    ],
    ids=["diary", "key and diary", "key and part", "part of a key", "half a key", "at the end"],
)
def test_a_secret_divides_no_repeat(words: str, shown: str) -> None:
    """What was sent is not told in pieces where secrets are taken out of it, nor half a secret (battery 32)."""
    sent = sent_of("/", msgspec.json.encode([DIARY, SENT_KEY[10:]]))

    assert quote(words, sent) == shown


MIB = 1 << 20
WORDS = "This model's maximum context length is 4096 tokens, the messages hold 5000: {}"


@pytest.mark.parametrize("before", [0, 1, 7, 8, 15, 16, 17, MIB, MIB + 5])
def test_words_about_a_large_request_are_told(before: int) -> None:
    """Words are told whole, however large the request is, but for what they repeat of it, wherever that stands."""
    prompt = "".join(random.Random(1).choices("abcdefgh ", k=MIB))
    told = WORDS.format("")

    assert quote(told, prompt.encode()) == told.strip()
    repeated = "a word of the user's own"
    assert quote(told + repeated, (prompt[:before] + repeated).encode()) == told + "…"
    assert quote(told + repeated, (prompt[:before] + repeated[1:] + prompt).encode()) == told + repeated


def test_words_about_a_request_too_large_to_look_through() -> None:
    """Over 4 MiB, words are told only if too short to repeat any."""
    assert quote(WORDS, bytes(4 * MIB)) == WORDS
    assert quote(WORDS, bytes(4 * MIB + 1)) == "…"
    assert quote("too large", bytes(4 * MIB + 1)) == "too large"


def test_looking_takes_no_time() -> None:
    """Of 1 MiB, 20 ms are taken at most, however words and request are made for each other (battery 6)."""
    pairs = {
        "nothing in common": (WORDS, b"x" * MIB),
        "two halves": (("x" * 12 + "y" * 12) * 20, b"x" * (MIB // 2) + b"y" * (MIB // 2)),
        "nearly a run": (("x" * 23 + '"') * 20, b"x" * MIB),
        "shingles": (("x" * 6 + "y" + "x" * 5) * 20, b"x" * MIB),
        "control characters": (("\x01" * 23 + "x") * 20, msgspec.json.encode("\x01" * (MIB // 6))),
    }
    for name, (words, sent) in pairs.items():
        begun = time.process_time()
        quote(words, sent)
        took = time.process_time() - begun
        print(f"{name}: {took * 1000:.1f} ms")

        assert took < 10 * 0.02, name


def test_shorter_runs_without_end_are_not_told_apart() -> None:
    """Where there are too many runs in common to follow, words are told up to the first of eight bytes."""
    assert quote("told: " + ("x" * 23 + "y") * 10, b"x" * MIB) == "told: …"


def repeats(words: str, sent: bytes) -> int | None:
    """Where a run of 24 characters begins that stands in what was sent, looked for in the plainest way."""
    for begin in range(len(words) - 23):
        run = words[begin : begin + 24]
        if run.encode() in sent or msgspec.json.encode(run)[1:-1] in sent:
            return begin
    return None


SOME = st.text('ab"\né', max_size=30)


@given(SOME, SOME, SOME, SOME, SOME)
@settings(deadline=None, max_examples=500)
def test_the_first_run_is_found(begin: str, first: str, second: str, other: str, end: str) -> None:
    """As raw text and as JSON, runs are found where the plainest search finds them, and nowhere else."""
    words = (begin + first + second + end)[:48]
    for sent in ((other + first + second).encode(), msgspec.json.encode(other + first + second)):
        assert Shingles(words).first_in(sent) == repeats(words, sent)


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
