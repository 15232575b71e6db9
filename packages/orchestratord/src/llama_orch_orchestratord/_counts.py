"""What is counted of the tasks of a pool, in plain numbers; `_metrics` tells Prometheus of them."""

from collections import Counter
from collections.abc import Iterable
from typing import Literal

import msgspec
from llama_orch_adapter_host.observe.series import OTHER, Spans

from ._job import Job
from ._lane import Lane
from ._queue import Priority
from ._refusal import Reason

Loss = Literal["lru", "deadline", "unread", "stopping"]
"""Why a task was ended without its engine: a newer one took its place, its time was over while it waited, nobody read
it, or the process stops."""


class PoolCounts:
    """Of one pool, since the process began. `waits` are the seconds from admission until a task had a slot."""

    __slots__ = ("admitted", "disconnects", "dropped", "refused", "waits")

    def __init__(self) -> None:
        self.admitted: Counter[Priority] = Counter()
        self.refused: Counter[Reason] = Counter()
        self.dropped: Counter[Loss] = Counter()
        self.disconnects = 0  # that cancelled a task
        self.waits = Spans()


class Counts:
    """By pool. Those of pools that nobody has are counted together, so that clients cannot make any number of them."""

    def __init__(self) -> None:
        self.pools: dict[str, PoolCounts] = {}

    def of(self, pool_id: str) -> PoolCounts:
        """Those of a pool that the host has, or had."""
        counts = self.pools.get(pool_id)
        if counts is None:
            counts = self.pools[pool_id] = PoolCounts()
        return counts

    def refused(self, reason: Reason, pool_id: str | None = None) -> None:
        """A task was not taken in; None where its pool is none, or not known."""
        self.of(OTHER if pool_id is None else pool_id).refused[reason] += 1


class Census(msgspec.Struct):
    """The tasks of a pool at one moment: those that wait, by priority, and those that have a slot.

    `unread` have begun and may still be read, but nobody does; `read` are being read.
    """

    interactive: int = 0
    batch: int = 0
    running: int = 0
    unread: int = 0
    read: int = 0


def census(lanes: Iterable[Lane], jobs: Iterable[Job]) -> dict[str, Census]:
    """By pool; `jobs` are all that are known."""
    found = {}
    for lane in lanes:
        interactive = lane.queue.ahead_of("interactive")
        found[lane.pool_id] = Census(interactive, len(lane.queue) - interactive, len(lane.running))
    for job in jobs:
        counted = found[job.pool_id]
        if job.taken:
            counted.read += 1
        elif job.state != "queued" and job.reading == "unread":
            counted.unread += 1
    return found
