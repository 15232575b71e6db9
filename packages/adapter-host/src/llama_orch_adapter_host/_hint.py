"""How a server may put several tokens into one write when many streams run. A hint: the host never holds a token."""

from typing import NamedTuple

_QUIET = 64
"""Streams up to which every token is worth a write of its own."""

_MOST = 16
_PER_EVENT = 0.004


class BatchHint(NamedTuple):
    """Write after so many events, or after `delay` seconds since the first of them, whichever comes first."""

    events: int
    delay: float


def hint_for(streams: int) -> BatchHint:
    """What suits so many streams at once: up to 64 every event by itself, from 1,024 on 16 at a time, within 64 ms."""
    events = min(_MOST, max(1, streams // _QUIET))
    return BatchHint(events, 0.0 if events == 1 else events * _PER_EVENT)
