"""A plugin's plain function, called on the event loop for as long as it behaves."""

import asyncio
import time
from collections.abc import Callable
from typing import Generic, NamedTuple, TypeVar

from ._exits import is_strangers
from ._guard import PluginLimits

T = TypeVar("T")

SLOW = 0.01
"""Seconds that an answer may take: all streams wait meanwhile."""

_STRIKES = PluginLimits().strikes


class Said(NamedTuple, Generic[T]):
    """What it answered, None where it failed; what was wrong with that, "" for nothing."""

    answer: T | None
    fault: str


class Leash:
    """Of one function. Three faults in a row, and it is `off`: who holds the leash calls it no more.

    A fault is whatever it raises, an attempt to end the process included, or an answer that took longer than `SLOW`,
    which counts nevertheless. Ctrl-C, cancellations and what a signal's handler raises to end the process go through.
    """

    __slots__ = ("_clock", "_strikes", "off")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._strikes = 0
        self.off = False

    def call(self, ask: Callable[[], T]) -> Said[T]:
        """What it says now. Only the class of what it raises is told: its text may hold a prompt."""
        began = self._clock()
        answer: T | None = None
        fault = ""
        try:
            answer = ask()
        except (KeyboardInterrupt, GeneratorExit, asyncio.CancelledError):
            raise
        except BaseException as error:  # a stranger's code, and none of the task's trouble
            if isinstance(error, SystemExit) and not is_strangers(error):
                raise
            fault = type(error).__name__
        else:
            took = self._clock() - began
            if took > SLOW:
                fault = f"took {took * 1000:.0f} ms on the event loop"
        return Said(answer, self._judged(fault))

    def _judged(self, fault: str) -> str:
        if not fault:
            self._strikes = 0
            return ""
        self._strikes += 1
        self.off = self._strikes >= _STRIKES
        return f"{fault}, the last of {self._strikes} strikes in a row; it is asked no more" if self.off else fault
