"""Spans of the last moments, and what most of them stay below. Pure: moments are handed in."""

from collections import deque

WINDOW = 10.0
"""Seconds that count."""

_MOST = 1024
"""Spans that are kept; where more come within the window, the latest are."""


class Recent:
    """Seconds that something took, the latest ones."""

    __slots__ = ("_spans",)

    def __init__(self) -> None:
        self._spans: deque[tuple[float, float]] = deque(maxlen=_MOST)

    def add(self, now: float, seconds: float) -> None:
        """One more."""
        self._spans.append((now, seconds))

    def within(self, now: float) -> list[float]:
        """Those of the window that ends now; older ones are forgotten."""
        while self._spans and self._spans[0][0] <= now - WINDOW:
            self._spans.popleft()
        return [seconds for _, seconds in self._spans]


def quantile(spans: list[float], share: float) -> float | None:
    """What that share of them does not exceed, None of none; `spans` are sorted."""
    return spans[min(len(spans) - 1, int(share * len(spans)))] if spans else None
