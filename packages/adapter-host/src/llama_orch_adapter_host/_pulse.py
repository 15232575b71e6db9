"""Tells many at once that something has changed, for the price of an addition."""


class Pulse:
    """Of the replicas of one pool: it beats whenever a gate may say something else than before.

    That a moment has come, and that a task has begun or ended, is no beat.
    """

    __slots__ = ("beats",)

    def __init__(self) -> None:
        self.beats = 0
