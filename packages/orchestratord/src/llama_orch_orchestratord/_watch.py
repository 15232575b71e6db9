"""Who is told where a task stands."""

from typing import Protocol

from ._job import Job


class Watch(Protocol):
    """Called in the turn in which it comes to stand there."""

    def started(self, job: Job) -> None:
        """It has a slot."""

    def put_back(self, job: Job) -> None:
        """It has none any more, and waits again."""

    def ended(self, job: Job) -> None:
        """It has its outcome; it had a slot, or had none."""
