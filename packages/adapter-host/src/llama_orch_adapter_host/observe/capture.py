"""What a host told of itself in a test, and how much of what it can tell that was."""

import logging
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
    """Events, in the order in which they were told."""

    def of(self, kind: type[E]) -> list[E]:
        """Those of one kind."""
        return [event for event in self if isinstance(event, kind)]

    def story(self, loudness: int = logging.DEBUG) -> list[str]:
        """The narration, a line for each that is as loud as this or louder."""
        lines = (human(event) for event in self if level(event) >= loudness)
        return [line for line in lines if line is not None]


@contextmanager
def captured(source: Observable | Bus) -> Iterator[Captured]:
    """What a host tells while the block runs."""
    events = Captured()
    forget = source.add(events.append) if isinstance(source, Bus) else source.observe(events.append)
    try:
        yield events
    finally:
        forget()


def coverage(events: Iterable[HostEvent]) -> tuple[int, int]:
    """How many kinds of events were narrated, of how many that there are."""
    kinds = get_args(HostEvent)
    return len(kinds) - len(missing(events)), len(kinds)


def missing(events: Iterable[HostEvent]) -> tuple[str, ...]:
    """The kinds of events that were not narrated, by name."""
    told = {type(event) for event in events if human(event) is not None}
    return tuple(kind.__name__ for kind in get_args(HostEvent) if kind not in told)
