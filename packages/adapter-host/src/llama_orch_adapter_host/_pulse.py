"""Tells many at once that something may have changed for the better, for the price of an addition."""


class Pulse:
    """Of the replicas of one pool: it beats whenever one of them may take tasks again that did not."""

    __slots__ = ("beats",)

    def __init__(self) -> None:
        self.beats = 0
