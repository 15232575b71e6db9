"""A secret does not print itself, whatever prints it (ORCH-3613)."""

import copy
import io
import json
import logging
import pickle
import pprint
import secrets
import traceback
from collections.abc import Callable

import msgspec
import pytest
from llama_orch_adapter_api import Secret

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
