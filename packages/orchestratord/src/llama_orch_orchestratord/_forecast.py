"""When a task will start, and when to come again, told from how long the latest tasks took."""

WEIGHT = 0.2
"""What the latest task counts in the mean: after 10 of another length, nine tenths of it are theirs."""

BACKOFF_UNKNOWN = 1.0
"""Seconds to stay away where no task has ended yet."""

BACKOFF_SHORTEST = 0.1
BACKOFF_LONGEST = 60.0


class Forecast:
    """The mean of the service times of one pool, the latest weighing most, in seconds, and what follows from it."""

    def __init__(self, weight: float = WEIGHT) -> None:
        self._weight = weight
        self.service: float | None = None

    def served(self, seconds: float) -> None:
        """Take in how long a task ran, from its start to its end, whoever ended it."""
        if self.service is None:
            self.service = seconds
        else:
            self.service += self._weight * (seconds - self.service)

    def start(self, ahead: int, running: int, slots: int, pause: float = 0.0) -> float | None:
        """Seconds until a task starts that has `ahead` others before it; None where it cannot be told.

        `running` of `slots` are taken; `pause` is how long the pool is sent nothing, in seconds.
        """
        to_end = ahead + 1 - (slots - running)
        if slots > 0 and to_end <= 0:
            return pause
        if self.service is None or slots <= 0:
            return None
        return max(pause, to_end * self.service / slots)

    def backoff(self, room: int, slots: int, spread: float, pause: float = 0.0) -> float:
        """Seconds to wait before sending another task: 0 where the queue has room for it.

        Else the time in which a slot, and so a place in the queue, becomes free: one to two times that, by `spread`
        from 0 to 1, which the caller draws, so that not all come back at once.
        """
        if room > 0:
            return 0.0
        each = BACKOFF_UNKNOWN if self.service is None or slots <= 0 else self.service / slots
        return max(BACKOFF_SHORTEST, min(BACKOFF_LONGEST, (pause + each) * (1 + spread)))
