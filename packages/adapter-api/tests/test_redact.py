"""A secret does not print itself, and is found in whatever text it got into (ORCH-3613)."""

import base64
import copy
import gc
import io
import json
import logging
import pickle
import pprint
import random
import secrets
import string
import sys
import threading
import traceback
from collections.abc import Callable, Collection
from urllib.parse import quote, quote_plus

import msgspec
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from llama_orch_adapter_api import Secret, one_line, redact
from llama_orch_adapter_api._redact import CAP

CANARY = secrets.token_hex(16)
REDACTED = "[redacted]"


class Config(msgspec.Struct, frozen=True):
    """What a secret is usually found in."""

    url: str
    api_key: Secret


def logged(record_args: tuple[object, ...], message: str) -> str:
    sink = io.StringIO()
    handler = logging.StreamHandler(sink)
    logger = logging.getLogger("test_redact")
    logger.addHandler(handler)
    logger.error(message, *record_args)
    logger.removeHandler(handler)
    return sink.getvalue().rstrip("\n")


PRINTERS: dict[str, Callable[[Secret], str]] = {
    "repr": repr,
    "str": str,
    "ascii": ascii,
    "format": format,
    "f-string": lambda secret: f"{secret}",
    "f-string of repr": lambda secret: f"{secret!r}",
    "percent s": lambda secret: "%s" % secret,  # noqa: UP031  # this way of printing is the one tested
    "percent r": lambda secret: "%r" % secret,  # noqa: UP031  # as above
    "pprint": pprint.pformat,
    "json with default": lambda secret: json.loads(json.dumps(secret, default=str)),
    "msgspec with enc_hook": lambda secret: msgspec.json.decode(msgspec.json.encode(secret, enc_hook=str), type=str),
    "log argument": lambda secret: logged((secret,), "%s"),
    "log message": lambda secret: logged((), f"{secret}"),
}


@pytest.mark.parametrize("printer", PRINTERS.values(), ids=PRINTERS)
def test_printed(printer: Callable[[Secret], str]) -> None:
    """Every way of printing gives the same word instead (ORCH-3613)."""
    assert printer(Secret(CANARY)) == REDACTED


def test_printed_with_a_width() -> None:
    """Width and fill apply to the word that is printed, not to the text (ORCH-3613)."""
    secret = Secret(CANARY)

    assert f"{secret:*>12}" == "**" + REDACTED
    assert f"{secret:.4}" == "[red"
    assert "%12s" % secret == "  " + REDACTED  # noqa: UP031  # this way of printing is the one tested


@pytest.mark.parametrize(
    "refuser",
    [
        json.dumps,
        msgspec.json.encode,
        msgspec.msgpack.encode,
        msgspec.to_builtins,
        pickle.dumps,
        lambda secret: msgspec.json.encode(Config("http://x", secret)),
        lambda secret: pickle.dumps(Config("http://x", secret)),
    ],
    ids=["json", "msgspec", "msgpack", "builtins", "pickle", "msgspec in a Struct", "pickle in a Struct"],
)
def test_not_written_without_being_asked(refuser: Callable[[Secret], object]) -> None:
    """An encoder that was told nothing about secrets refuses one, without its text (ORCH-3613)."""
    with pytest.raises(TypeError) as caught:
        refuser(Secret(CANARY))

    assert CANARY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_protocol_takes_it(protocol: int) -> None:
    """A secret is not pickled in any protocol (ORCH-3613)."""
    with pytest.raises(TypeError, match="a Secret is not pickled"):
        pickle.dumps(Secret(CANARY), protocol)


def test_inside_other_values() -> None:
    """A config that holds a secret prints without it, in a traceback with local variables too (ORCH-3613)."""
    config = Config("http://x", Secret(CANARY))
    frames = traceback.TracebackException.from_exception(
        ValueError(config, [config.api_key], {"key": config.api_key}), capture_locals=True
    )

    assert CANARY not in "".join(frames.format())
    assert repr(config) == f"Config(url='http://x', api_key={REDACTED})"


def test_revealed() -> None:
    """Who asks by name gets the text."""
    assert Secret(CANARY).reveal() == CANARY


def test_copies_are_the_secret_itself() -> None:
    """A config that holds a secret can be copied."""
    config = Config("http://x", Secret(CANARY))

    assert copy.copy(config.api_key) is config.api_key
    assert copy.deepcopy(config).api_key is config.api_key


def test_compared_by_identity() -> None:
    """Two secrets of one text are different, so comparing tells nothing about the text."""
    first, second = Secret(CANARY), Secret(CANARY)

    assert first == first  # noqa: PLR0124  # the rule is about identity
    assert first != second
    assert len({first, second}) == 2


def in_lower_case(escape: str) -> Callable[[str], str]:
    """`quote`, as those write it who write hexadecimal figures small."""
    return lambda value: "".join(f"%{byte:02x}" if chr(byte) in escape else chr(byte) for byte in value.encode())


def in_json(value: str) -> str:
    return json.dumps(value)[1:-1]


FORMS: dict[str, Callable[[str], str]] = {
    "raw": str,
    "URL": lambda value: quote(value, safe=""),
    "URL path": quote,
    "URL query": quote_plus,
    "URL, lower case, few escaped": in_lower_case(" %\"'<>\\" + "".join(map(chr, range(32)))),
    "URL, all escaped": lambda value: "".join(f"%{byte:02X}" for byte in value.encode()),
    "URL, twice": lambda value: quote(quote(value, safe=""), safe=""),
    "JSON, ASCII": in_json,
    "JSON, UTF-8": lambda value: json.dumps(value, ensure_ascii=False)[1:-1],
    "JSON, slashes escaped": lambda value: in_json(value).replace("/", "\\/"),
    "JSON in JSON": lambda value: in_json(in_json(value)),
    "JSON, then URL": lambda value: quote(in_json(value)),
    "URL, then JSON": lambda value: in_json(quote(value)),
    "repr": lambda value: repr(value)[1:-1],
    "repr of bytes": lambda value: repr(value.encode())[2:-1],
    "one line": one_line,
}

VALUES = (
    CANARY,
    "p@ss:w/rd+1 = 100% \"quoted\" 'and' back\\slash",
    "(a|b)*[c-d]+?^$.{2}\\d",
    "0123456789",
    "grüße \U0001f511 日本語",
    "-----BEGIN KEY-----\nTWFueSBoYW5kcyBt\nYWtlIGxpZ2h0IHdv\n-----END KEY-----\n",
    "tab\there, bell\x07there, %41\\u0041",
)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_found_in_every_form(form: Callable[[str], str], value: str) -> None:
    """A secret is found however it is escaped, and what stands around it is kept (ORCH-3613, battery 32)."""
    secret = Secret(value)

    assert redact(f"<{form(value)}> and <{form(value)}>") == f"<{REDACTED}> and <{REDACTED}>"
    assert secret.reveal() == value


@given(st.text(st.characters(codec="utf-8"), min_size=8, max_size=40), st.sampled_from(list(FORMS)))
@settings(max_examples=300)
def test_found_whatever_it_is(value: str, form: str) -> None:
    """Any text of eight characters or more is found in every form (ORCH-3613)."""
    assume(value not in REDACTED)
    secret = Secret(value)

    escaped = FORMS[form](value)
    assert escaped not in redact(f"<{escaped}>")
    assert secret.reveal() == value


@given(
    st.binary(max_size=9),
    st.text(string.printable, min_size=8, max_size=40),
    st.binary(max_size=9),
    st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]),
)
@settings(max_examples=300)
def test_found_in_base64(before: bytes, value: str, after: bytes, encode: Callable[[bytes], bytes]) -> None:
    """Base64 of something that holds a secret keeps only what tells nothing of it, at any alignment (ORCH-3613)."""
    assume(value not in REDACTED)  # what stands in the mark itself is not looked for
    secret = Secret(value)
    text = encode(before + value.encode() + after).decode()

    left, _, right = redact(text).partition(REDACTED)
    assert len(left) % 4 == len(right) % 4 == 0
    assert before.startswith(base64.b64decode(left, b"-_" if encode is base64.urlsafe_b64encode else None))
    assert after.endswith(base64.b64decode(right, b"-_" if encode is base64.urlsafe_b64encode else None))
    assert secret.reveal() == value


@pytest.mark.parametrize("length", range(4, 8))
def test_short_ones_in_base64(length: int) -> None:
    """A short secret is found in base64 where it stands alone (ORCH-3613)."""
    value = CANARY[:length]
    secret = Secret(value)

    assert redact(f"<{base64.b64encode(value.encode()).decode()}>").replace("=", "") == f"<{REDACTED}>"
    assert secret.reveal() == value


def covered(text: str, values: Collection[str]) -> str:
    """What `redact` is to give, found the slow way: every place of every value, those that overlap or touch as one."""
    places = sorted(
        (start, start + len(value)) for value in values for start in range(len(text)) if text.startswith(value, start)
    )
    result, kept_from, open_until = "", 0, 0
    for start, end in places:
        if start > open_until or not result:
            result += text[kept_from:start] + REDACTED
        kept_from = open_until = max(end, open_until)
    return result + text[kept_from:]


@given(
    st.lists(st.text("ab", min_size=8, max_size=12), min_size=1, max_size=4),
    st.lists(st.text("ab", min_size=1, max_size=20), max_size=6),
    st.randoms(use_true_random=False),
)
@example(["aaaaaaaa"], ["aaaaaaaaaaaa"], random.Random(1))
@example(["abababab", "ababababab"], ["ab" * 12], random.Random(1))
@settings(max_examples=300)
def test_secrets_that_overlap(values: list[str], parts: list[str], order: random.Random) -> None:
    """Secrets that contain, overlap or repeat each other leave no rest of any of them (ORCH-3613)."""
    alive = [Secret(value) for value in values]
    pieces = [*values, *parts]
    order.shuffle(pieces)
    text = "".join(pieces)

    assert redact(text) == covered(text, values)
    assert len(alive) == len(values)


@pytest.mark.parametrize("value", ["", "a", "abc", "red", "act", REDACTED, "redacted"])
def test_not_looked_for(value: str) -> None:
    """What is too short to tell a secret from a word, or is the word put in, is left alone."""
    secret = Secret(value)

    assert redact(f"abc {REDACTED} red {value}") == f"abc {REDACTED} red {value}"
    assert secret.reveal() == value


def test_short_ones_are_words() -> None:
    """A secret of four to seven characters is found as a word, and not within one or within a number (ORCH-3613)."""
    kept = [Secret("1234"), Secret("slot")]

    assert redact("1234 slot: slot=1234; slots 12345 in 0.1234 s") == (
        f"{REDACTED} {REDACTED}: {REDACTED}={REDACTED}; slots 12345 in 0.{REDACTED} s"
    )
    assert len(kept) == 2


def test_lines_of_a_long_one() -> None:
    """A secret of several lines is found line by line, as something indented it (ORCH-3613)."""
    secret = Secret("first-line\nsecond-line\n\n{")

    assert redact("  | first-line\n  | second-line\n  | {") == f"  | {REDACTED}\n  | {REDACTED}\n  | {{"
    assert redact("first-line\r\nsecond-line\r\n") == f"{REDACTED}\r\n{REDACTED}\r\n"
    assert secret.reveal().endswith("{")


def test_no_longer_looked_for() -> None:
    """A secret that is gone is not looked for: an interpreter that runs for months keeps no list of old keys."""
    secret, other = Secret(CANARY), Secret(CANARY)
    del secret

    assert redact(CANARY) == REDACTED

    del other
    gc.collect()
    assert redact(CANARY) == CANARY


def test_a_value_that_no_encoding_takes() -> None:
    """Half a character, as a variable of the environment may hold it, is a secret like any other."""
    value = "key-\udce9-" + CANARY
    secret = Secret(value)

    assert redact(f"<{value}>") == f"<{REDACTED}>"
    assert redact(f"<{in_json(value)}>") == f"<{REDACTED}>"
    assert secret.reveal() == value


@pytest.mark.skipif("coverage" in sys.modules, reason="its tracer's own lock hangs under threads that leave garbage")
def test_threads() -> None:
    """Secrets that come and go in other threads never hide one that stays (ORCH-3613)."""
    secret = Secret(CANARY)
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            keys = [Secret(secrets.token_hex(4)) for _ in range(20)]
            cycle: list[object] = [keys]
            cycle.append(cycle)

    threads = [threading.Thread(target=come_and_go) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        results = {redact(f"key {CANARY}") for _ in range(1000)}
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert results == {f"key {REDACTED}"}
    assert secret.reveal() == CANARY


FILLER = ", " * CAP
GLUED = "x" * 20


def pieces_of(value: str, text: str) -> list[str]:
    """The pieces of a value, four characters each, that stand in a text."""
    return [value[at : at + 4] for at in range(len(value) - 3) if value[at : at + 4] in text]


@pytest.mark.parametrize("keep_end", [False, True])
@pytest.mark.parametrize("form", [str, in_json, lambda value: base64.b64encode(value.encode()).decode()])
def test_the_cut_halves_no_secret(form: Callable[[str], str], keep_end: bool) -> None:
    """Of a secret that lies across the cut of a long text nothing is left, wherever the cut goes (ORCH-3613)."""
    value = f'{CANARY}, "é" and\n{CANARY[::-1]}'
    secret = Secret(value)

    escaped = form(value)
    for inside in range(len(escaped) + len(GLUED)):  # so many characters of it, and of what follows, lie within the cap
        near, far = FILLER[: CAP - inside], FILLER
        text = f"{far}{GLUED}{escaped}{near}" if keep_end else f"{near}{escaped}{GLUED}{far}"
        short = redact(text, keep_end=keep_end)

        assert pieces_of(escaped, short.replace(REDACTED, "")) == [], inside
        assert CAP - 300 < len(short) <= CAP + len("…")
        assert short.startswith("…") if keep_end else short.endswith("…")
    assert secret.reveal() == value


@pytest.mark.parametrize("keep_end", [False, True])
@pytest.mark.parametrize(
    "key", ["sk-" + CANARY, "hf_" + CANARY, f"eyJhbGciOi.{CANARY}.{CANARY}"], ids=["sk-", "hf_", "JSON web token"]
)
def test_the_cut_halves_no_key(key: str, keep_end: bool) -> None:
    """Nor is anything left of a key that nobody declared and that only its beginning tells (ORCH-3613)."""
    for inside in range(len(key) + 1):
        near, far = FILLER[: CAP - inside], FILLER
        text = f"{far} {key}{near}" if keep_end else f"{near} {key} {far}"

        assert pieces_of(CANARY, redact(text, keep_end=keep_end)) == [], inside


def test_a_long_text() -> None:
    """Of a text over 8 KiB the beginning is kept, or the end from the beginning of a line or word."""
    lines = "".join(f"line {number}\n" for number in range(2000))
    blob = "x" * 3 * CAP

    assert redact(lines[:CAP]) == lines[:CAP]
    assert redact("one-word " * CAP) == "one-word " * (CAP // 9) + "…"
    assert redact(lines, keep_end=True) == "…" + lines[-CAP:].partition("\n")[2]
    assert CAP - 64 <= len(redact(blob)) <= CAP
    assert CAP // 2 <= len(redact(blob, keep_end=True)) <= CAP


def test_a_secret_longer_than_the_cap() -> None:
    """A secret may be longer than all that is kept of a text (ORCH-3613)."""
    value = "-".join(secrets.token_hex(8) for _ in range(1000))
    secret = Secret(value)

    assert redact(f"<{value}>") == "<…"
    assert redact(f"<{value}>", keep_end=True) == "…>"
    assert redact(f"{'. ' * CAP}<{value}>", keep_end=True) == "…>"
    assert secret.reveal() == value


@given(st.text(), st.booleans())
@example("password=[redacted], token=[redacted]x", False)
def test_twice_is_once(text: str, keep_end: bool) -> None:
    """What is safe stays as it is when it comes by a second filter."""
    secret = Secret(CANARY)
    once = redact(f"{text} {CANARY} {text}", keep_end=keep_end)

    assert redact(once, keep_end=keep_end) == once
    assert secret.reveal() not in once


def test_one_line() -> None:
    """Each character that could end a line, move the cursor or turn the writing direction becomes its escape."""
    hidden = [char for char in map(chr, range(0x110000)) if not char.isprintable()]
    shown = [one_line(char) for char in hidden]

    assert len(hidden) > 900_000
    assert all(text.isascii() and text.isprintable() and text.startswith("\\") for text in shown)
    assert one_line("a\nb\u202ec\x1b[2Jd é 日本 \\n") == r"a\nb\u202ec\x1b[2Jd é 日本 \n"
