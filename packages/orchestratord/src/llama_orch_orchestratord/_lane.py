"""What runs and waits of one pool, and when the next task may start. Pure: moments and chance are handed in."""

from collections import Counter
from itertools import chain

from llama_orch_adapter_host.events import Ending

from ._forecast import Forecast
from ._job import Job
from ._pause import Pause
from ._queue import Policy, PoolQueue
from ._recent import Recent

_PATIENCE = 30.0
"""Seconds that a replica is left alone by tasks pinned to it at most, whatever it asks for."""


class Full:
    """A replica that had no place for a task pinned to it. `growing`: since it was looked at again it had for all."""

    def __init__(self) -> None:
        self.pause = Pause()
        self.growing = False


class Lane:
    """Of one pool. `running` have a slot; a slot is free as soon as the engine is done, whoever still reads.

    `ended` counts tasks by how they ended. `first_tokens` and `totals` are how long tasks took since their admission,
    those that ended well.

    A replica that has no place for a task which is pinned to it is full: all that are pinned to it stand aside, keep
    their turns, and those behind them go past. When its pause is over, or something changes there, the first one tries,
    and others only as tasks are taken there; so it costs nothing to wait, however many do.
    """

    def __init__(self, pool_id: str, bound: int, policy: Policy) -> None:
        self.pool_id = pool_id
        self.queue: PoolQueue[Job] = PoolQueue(bound, policy)
        self.forecast = Forecast()
        self.running: set[Job] = set()
        self.ended: Counter[Ending] = Counter()
        self.first_tokens = Recent()
        self.totals = Recent()
        self.pause = Pause()
        self._freed: set[Job] = set()  # their engines are done, their clients are not
        self._told = 0  # by tasks that are over
        self._full: dict[str, Full] = {}  # by replica

    def next(self, now: float, slots: int) -> Job | None:
        """The task that may start now, which has a slot from now on."""
        if now < self.pause.until or len(self.running) >= slots:
            return None
        job = self.queue.take()
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

    def put_back(self, job: Job) -> None:
        """A task was pushed back: it waits where it did. Several that are keep the order in which they came."""
        job.freed = None
        self.running.discard(job)
        self.queue.put_back(job)

    def refused(self, replica_id: str, seconds: float | None, now: float, spread: float) -> float:
        """A replica had no place for a task pinned to it, as was just seen; until when it is left alone, at most.

        `seconds` as for a pause.
        """
        full = self._full.setdefault(replica_id, Full())
        full.growing = False
        full.pause.extend(None if seconds is None else min(seconds, _PATIENCE), now, spread)
        self.queue.shut(replica_id)
        return full.pause.until

    def look_again(self, replica_id: str, now: float) -> None:
        """A full replica may be so no more: the first who waits for it may try."""
        full = self._full.get(replica_id)
        if full is not None:
            full.growing = True
            full.pause.end(now)
            self.queue.shut(replica_id)  # however many might before
            self.queue.let(replica_id, 1)

    def took(self, replica_id: str, now: float) -> bool:
        """A replica took a task; whether others may try therefore."""
        full = self._full.get(replica_id)
        if full is None or not full.growing:
            return False
        full.pause.forget(now)
        self.queue.let(replica_id, 2)
        return True

    def done(self, replica_id: str) -> None:
        """A replica let go of a task: where it did not say when it has a place, this may be the one missing."""
        full = self._full.get(replica_id)
        if full is not None and not full.pause.told:
            self.queue.let(replica_id, 1)

    def position(self, job: Job) -> int | None:
        """How many of those that wait start before it; None where it does not wait.

        Those that stand aside start before nobody but each other.
        """
        return self.queue.position(job)

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
        self.queue.forget(job)
        if job.replica_id in self._full and not self.queue.waits_for(job.replica_id):
            self.queue.open(job.replica_id)
            del self._full[job.replica_id]
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
        return self.forecast.start(ahead, len(self.running), slots, max(0.0, self.pause.until - now))
