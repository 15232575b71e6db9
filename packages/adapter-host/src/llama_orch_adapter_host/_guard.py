"""A stranger's code, called so that it harms nobody: on a thread of its own, within a limit, whatever it raises."""

import threading
from collections.abc import Callable
from typing import TypeVar

import msgspec
from llama_orch_adapter_api import get_logger, one_line, redact

T = TypeVar("T")

logger = get_logger(__name__)

_LONGEST = 200
"""Characters of an exception's text that are told."""


class PluginLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a plugin may take, in seconds, before it is left alone.

    `load` bounds import and registration together; from `slow_load` on they are warned of. A hook that takes longer
    than `slow`, or raises, is a strike; after `strikes` in a row, or once a call has run for `hang`, the plugin's hooks
    are off. `waiting` is how many calls may wait for a plugin; what comes on top is dropped and counted.
    """

    load: float = 10.0
    slow_load: float = 2.0
    slow: float = 2.0
    hang: float = 10.0
    strikes: int = 3
    waiting: int = 1024


class Misbehaved(Exception):
    """A stranger's code raised, wanted to end the process, or is of no use; the message says so in one line."""


class Hung(Misbehaved):
    """A stranger's code did not come to its end. Its thread is left behind."""


def guarded(call: Callable[[], T], limit: float, name: str) -> T:
    """What `call` gives. Raises `Hung` after `limit` seconds, and `Misbehaved` for whatever it raises.

    It waits, so it has no place in an event loop. What is raised into the waiting thread itself, Ctrl-C, goes through.
    """
    answers: list[T] = []
    faults: list[str] = []
    done = threading.Event()

    def run() -> None:
        try:
            answers.append(call())
        except BaseException as error:  # a stranger's code is his package's trouble alone
            faults.append(told(error))
            logger.debug("plugin %s raised", name, exc_info=True)
        finally:
            done.set()

    threading.Thread(target=run, name=f"plugin {name}", daemon=True).start()
    if not done.wait(limit):
        raise Hung(f"it does not come to an end within {limit:g} s")
    if faults:
        raise Misbehaved(faults[0])
    return answers[0]


def told(error: BaseException) -> str:
    """An exception in one line that tells no secret: its class and its text. `Misbehaved` is told already."""
    try:
        text = one_line(redact(" ".join(str(error).split())))[:_LONGEST]
    except BaseException:  # noqa: BLE001  # a stranger's __str__
        text = ""
    name = type(error).__name__
    return text if isinstance(error, Misbehaved) else f"{name}: {text}" if text else name
