"""What a host told of itself in a test, and how much of what it can tell that was."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypeVar, get_args

from .._bus import Bus, Observer
from .._events import HostEvent
from .narration import human, level

E = TypeVar("E")


class Observable(Protocol):
    """What tells its events, as an `AdapterHost` does."""

    def observe(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` from now on; call what is returned to end that."""


class Captured(list[HostEvent]):
    """Events, in the order in which they were told; `moments` has when each was, in seconds since the block began."""

    def __init__(self) -> None:
        super().__init__()
        self.moments: list[float] = []
        self._began = _clock()

    def take(self, event: HostEvent) -> None:
        """Be told one."""
        self.append(event)
        self.moments.append(_clock() - self._began)

    def of(self, kind: type[E]) -> list[E]:
        """Those of one kind."""
        return [event for event in self if isinstance(event, kind)]

    def story(self, loudness: int = logging.DEBUG, *, moments: bool = False) -> list[str]:
        """The narration, a line for each that is as loud as this or louder, after its moment where those are wanted."""
        told = zip(self.moments, self, strict=True)
        lines = [(moment, human(event)) for moment, event in told if level(event) >= loudness]
        return [f"{moment:8.2f} s  {line}" if moments else line for moment, line in lines if line is not None]


@contextmanager
def captured(source: Observable | Bus) -> Iterator[Captured]:
    """What a host tells while the block runs."""
    events = Captured()
    forget = source.add(events.take) if isinstance(source, Bus) else source.observe(events.take)
    try:
        yield events
    finally:
        forget()


def _clock() -> float:
    """The running loop's clock, which may be a virtual one, else the one that loops go by."""
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()


def coverage(events: Iterable[HostEvent]) -> tuple[int, int]:
    """How many kinds of events were narrated, of how many that there are."""
    kinds = get_args(HostEvent)
    return len(kinds) - len(missing(events)), len(kinds)


def missing(events: Iterable[HostEvent]) -> tuple[str, ...]:
    """The kinds of events that were not narrated, by name."""
    told = {type(event) for event in events if human(event) is not None}
    return tuple(kind.__name__ for kind in get_args(HostEvent) if kind not in told)
