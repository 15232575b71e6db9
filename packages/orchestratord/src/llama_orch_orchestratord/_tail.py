"""The last that the host told, for people who look in."""

import logging
import time
from collections import deque
from collections.abc import Callable
from heapq import merge
from typing import Literal

import msgspec
from llama_orch_adapter_host.events import HostEvent
from llama_orch_adapter_host.observe import human, level

KEPT = 100
"""Lines of what every task does, and as many of all else, which would be lost among those."""

Level = Literal["debug", "info", "warning"]


class Line(msgspec.Struct, frozen=True):
    """A sentence of the host. `n` counts all that was told, from 1; `at` is in ms since 1970."""

    n: int
    at: int
    level: Level
    text: str


class Tail:
    """An observer of the host that keeps its latest events; they become sentences when somebody reads them."""

    def __init__(self, wall: Callable[[], float] = time.time) -> None:
        self._wall = wall
        self._told = 0
        self._quiet: deque[tuple[int, float, HostEvent]] = deque(maxlen=KEPT)
        self._loud: deque[tuple[int, float, HostEvent]] = deque(maxlen=KEPT)

    @property
    def told(self) -> int:
        """The number of the latest event."""
        return self._told

    def __call__(self, event: HostEvent) -> None:
        """Keep it."""
        self._told += 1
        kept = self._quiet if level(event) < logging.INFO else self._loud
        kept.append((self._told, self._wall(), event))

    def lines(self, after: int = 0) -> list[Line]:
        """Those that are left of what was told after that number, the oldest first."""
        newer = merge(_newer(self._quiet, after), _newer(self._loud, after), key=lambda kept: kept[0])
        told = ((n, at, event, human(event)) for n, at, event in newer)
        return [Line(n, round(at * 1000), _level(event), text) for n, at, event, text in told if text is not None]


def _newer(kept: deque[tuple[int, float, HostEvent]], after: int) -> list[tuple[int, float, HostEvent]]:
    return [each for each in kept if each[0] > after]


def _level(event: HostEvent) -> Level:
    loudness = level(event)
    if loudness < logging.INFO:
        return "debug"
    return "info" if loudness < logging.WARNING else "warning"
