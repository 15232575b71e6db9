"""The latest spans of one kind, and what is usual among them."""

from collections import deque

_KEPT = 128
_RECKONED = 32
"""Spans after which the figure is reckoned anew."""


class Latency:
    """A window of spans in seconds."""

    def __init__(self) -> None:
        self._spans: deque[float] = deque(maxlen=_KEPT)
        self._fresh = 0
        self._p95 = 0.0

    def add(self, span: float) -> None:
        """Take one in."""
        self._spans.append(span)
        self._fresh += 1

    @property
    def p95(self) -> float:
        """What 19 of 20 stay below; 0.0 before the first."""
        if self._fresh and (self._fresh >= _RECKONED or len(self._spans) < _RECKONED):
            self._fresh = 0
            self._p95 = sorted(self._spans)[int(0.95 * (len(self._spans) - 1) + 0.5)]
        return self._p95
