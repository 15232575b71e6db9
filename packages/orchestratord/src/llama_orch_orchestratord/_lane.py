"""What runs and waits of one pool, and when the next task may start. Pure: moments and chance are handed in."""

from collections import Counter
from itertools import chain

from llama_orch_adapter_host.events import Ending

from ._forecast import Forecast
from ._job import Job
from ._queue import Policy, PoolQueue
from ._recent import Recent

_PAUSE = 0.25
"""Seconds after which to look again at a pool that takes nothing, nobody knows for how long; doubled each time."""

_LONGEST_PAUSE = 5.0
_SHORTEST_PAUSE = 0.05

_PATIENCE = 30.0
"""Seconds that a pinned task is left waiting at most, whatever its replica asks for."""


class Lane:
    """Of one pool. `running` have a slot; a slot is free as soon as the engine is done, whoever still reads.

    `ended` counts tasks by how they ended. `first_tokens` and `totals` are how long tasks took since their admission,
    those that ended well.

    A task that is pinned to a replica which has no place for it is parked: it keeps its place in the queue, and those
    behind it go past, until something changes there or its own time is over.
    """

    def __init__(self, pool_id: str, bound: int, policy: Policy) -> None:
        self.pool_id = pool_id
        self.queue: PoolQueue[Job] = PoolQueue(bound, policy)
        self.forecast = Forecast()
        self.running: set[Job] = set()
        self.ended: Counter[Ending] = Counter()
        self.first_tokens = Recent()
        self.totals = Recent()
        self.paused_until = 0.0
        self._freed: set[Job] = set()  # their engines are done, their clients are not
        self._told = 0  # by tasks that are over
        self._guesses = 0  # in a row, of how long it will take nothing
        self._parked: dict[Job, float | None] = {}  # for how long its replica asked, None where it did not say

    def next(self, now: float, slots: int) -> Job | None:
        """The task that may start now, which has a slot from now on."""
        if now < self.paused_until or len(self.running) >= slots:
            return None
        job = self.queue.take(self._parked)
        if job is not None:
            self.running.add(job)
        return job

    @property
    def told(self) -> int:
        """How many tokens came from this pool so far."""
        return self._told + sum(job.told for job in chain(self.running, self._freed))

    def flows(self, job: Job, now: float) -> None:
        """A task got its first token."""
        self.first_tokens.add(now, now - job.admitted)

    def pause(self, seconds: float | None, now: float, spread: float) -> None:
        """The pool takes nothing now, as was just seen, and may again after so long.

        None, where nobody knows: to be looked at after a while that grows, shortened by `spread` from 0 to 1.
        """
        if seconds is not None:
            self._guesses = 0
        elif self._guesses and now < self.paused_until:
            return
        else:
            seconds = _guess(self._guesses, spread)
            self._guesses += 1
        self.paused_until = now + max(_SHORTEST_PAUSE, seconds)

    def open(self, now: float) -> None:
        """The pool takes tasks, as was just seen."""
        self.paused_until = now
        self._guesses = 0

    def put_back(self, job: Job) -> None:
        """A task was pushed back: it waits where it did. Several that are keep the order in which they came."""
        job.freed = None
        self.running.discard(job)
        self.queue.put_back(job, job.priority, lambda other: other.admitted <= job.admitted)

    def park(self, job: Job, seconds: float | None, now: float, spread: float) -> float:
        """Let a task that was put back wait for its own replica; until when, at most. `seconds` as for `pause`."""
        self._parked[job] = seconds
        wait = _guess(job.pushes, spread) if seconds is None else min(seconds, _PATIENCE)
        job.pushes += 1
        return now + max(_SHORTEST_PAUSE, wait)

    def unpark(self, job: Job) -> None:
        """Let it start as all others. For one that is not parked it is nothing."""
        self._parked.pop(job, None)

    def parked(self, replica_id: str) -> list[Job]:
        """Those that wait for this replica, the first one first."""
        if not self._parked:
            return []
        return [job for job in self.queue if job in self._parked and job.replica_id == replica_id]

    def parked_up_to(self, job: Job) -> list[Job]:
        """A parked one, behind those that wait for the same replica and came before it."""
        alike = self.parked(job.replica_id or "")
        return alike[: alike.index(job) + 1]

    def hopeful(self, replica_id: str) -> Job | None:
        """The first of those for whom a slot that is free there may be the one that was missing."""
        return next((job for job in self.parked(replica_id) if self._parked[job] is None), None)

    def position(self, job: Job) -> int | None:
        """How many of those that wait start before it; None where it does not wait. Those parked start before none."""
        return self.queue.position(job, () if job in self._parked else self._parked)

    def free(self, job: Job, now: float) -> None:
        """A task's slot is free."""
        if job in self.running:
            self.running.discard(job)
            self._freed.add(job)
            job.freed = now
            if job.started is not None:
                self.forecast.served(now - job.started)

    def left(self, job: Job, now: float) -> None:
        """A task is over, and its slot is free."""
        self.unpark(job)
        if job.ending is not None:
            self.ended[job.ending] += 1
        self.free(job, now)
        if job not in self._freed:
            return
        self._freed.discard(job)
        self._told += job.told
        if job.ending == "ok":
            self.totals.add(now, now - job.admitted)

    def predicted(self, job: Job, now: float, slots: int) -> float | None:
        """Seconds until a task starts, 0 for one that has; None where nobody can tell."""
        if job in self.running:
            return 0.0
        ahead = self.position(job)
        if ahead is None:
            return None
        return self.forecast.start(ahead, len(self.running), slots, max(0.0, self.paused_until - now))


def _guess(before: int, spread: float) -> float:
    """Seconds after which to look again, where that many looks were in vain."""
    return min(_LONGEST_PAUSE, _PAUSE * 2.0 ** min(before, 16)) * (1 - spread / 2)
