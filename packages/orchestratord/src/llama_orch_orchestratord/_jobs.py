"""All tasks that are known: taken in, read, expired, forgotten."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping

from llama_orch_adapter_api import TaskRequest
from llama_orch_adapter_host import AdapterHost

from ._config import ServerConfig
from ._counts import Census, Counts, census
from ._dispatch import Dispatch
from ._job import Form, Job
from ._narration import tell_turned_away
from ._outbox import Outbox
from ._refusal import Refusal, full, invalid, known_task, too_late, unknown_task
from ._replay import ReplayOutbox
from ._sse import FRAMES
from ._timers import Timers
from ._wire import Accepted, TaskView

_TABLE_PAUSE = 1.0
"""Seconds after which to come again, at least, where the table is full: when a place is free depends on readers."""


class Jobs:
    """The table of one host's tasks, by id, and who reads them. Made within the event loop that they run on.

    It holds a task from its admission until `tasks.keep` after nobody could read it any more, and has one timer for
    each: its deadline while it waits, from its start on its expiry while nobody reads it, then its end here. What
    waits, starts and ends is `dispatch`'s, the observer of the host; that tells `started`, `put_back` and `ended` here,
    and is told to put, cancel and drop.
    """

    def __init__(self, host: AdapterHost, config: ServerConfig, chance: Callable[[], float] = random.random) -> None:
        self._host = host
        self._config = config
        self._loop = asyncio.get_running_loop()
        self._jobs: dict[str, Job] = {}
        self._done: OrderedDict[str, Job] = OrderedDict()  # nobody needs to read them any more; the oldest first
        self._timers: Timers[Job] = Timers(self._loop)
        self.counts = Counts()
        self.dispatch = Dispatch(host, config.admission, self.counts, self, chance)

    def __len__(self) -> int:
        return len(self._jobs)

    @property
    def stopping(self) -> bool:
        """Whether none is taken in any more."""
        return self.dispatch.stopping

    # --- from outside

    def admit(self, pool_id: str, task: TaskRequest, form: Form = FRAMES) -> Accepted:
        """Take a task in and start it, or let it wait; its reader gets it in this form. Raises `Refusal`."""
        try:
            accepted = self._admit(pool_id, task, form)
        except Refusal as refusal:
            self.counts.refused(refusal.reason, pool_id if pool_id in self._host.pools() else None)
            tell_turned_away(pool_id, task.task_id, refusal.error)
            raise
        self.counts.of(pool_id).admitted[task.priority] += 1
        return accepted

    def find(self, task_id: str) -> Job:
        """Raises `Refusal` for one that is not known."""
        job = self._jobs.get(task_id)
        if job is None:
            raise unknown_task(task_id)
        return job

    def view(self, job: Job) -> TaskView:
        """How it is now."""
        return job.view(self.dispatch.position(job), self._loop.time())

    def census(self) -> Mapping[str, Census]:
        """How many tasks there are of each kind now, by pool."""
        return census(self.dispatch.lanes.values(), self._jobs.values())

    async def cancel(self, job: Job) -> None:
        """End a task, wherever it is; not one token of it is handed out afterwards. One that is over stays so."""
        await self.dispatch.cancel(job)

    async def aclose(self, drain: float) -> None:
        """Take nothing in any more, end what waits, let what runs go on for `drain` seconds, then end all. Idempotent.

        Until it is over, readers may still come.
        """
        await self.dispatch.aclose(drain)
        self._timers.close()

    # --- readers

    def take(self, job: Job, seen: int | None = None) -> None:
        """Begin to read it, after the event of the id `seen` where the task outlives its readers.

        Raises `Refusal` where another one reads it, where nothing is left to read, or no such event came.
        """
        if job.read and job.outbox.repeats and seen == job.events - 1:
            self._settle(job)  # nothing of it was lost on the way
        if job.reading == "expired" or (job.read and not job.outbox.repeats):
            raise invalid(f"the stream of task {job.task_id} {_why_gone(job)}", status=410)
        if job.taken:
            raise invalid(f"the stream of task {job.task_id} has a reader already; one may read it", status=409)
        if not self._config.stream.cancel_on_disconnect:
            if seen is not None and seen >= job.events:
                raise invalid(f"Last-Event-ID is {seen}, and task {job.task_id} had no such event; leave it out")
            job.outbox.resume(seen)
        job.read = False
        self._done.pop(job.task_id, None)
        job.taken = True
        if job.state != "queued":
            self._timers.disarm(job)

    async def leave(self, job: Job, *, for_good: bool = False) -> None:
        """The reader is gone, or has read it all; `for_good` where nobody could come back, whatever the config says."""
        job.taken = False
        job.detach()
        if job.ended is None and (for_good or self._config.stream.cancel_on_disconnect):
            self.counts.of(job.pool_id).disconnects += 1
            job.left = True  # settled as soon as it ends, which may be later than the cancel
            await self.cancel(job)
            return
        if for_good:
            job.outbox.clear()
        if job.outbox.spent:
            job.read = True
            self._rest(job)
        elif job.state != "queued":
            self._await_reader(job)

    # --- what the dispatch tells

    def started(self, job: Job) -> None:
        """Its deadline is the host's from now on."""
        self._timers.disarm(job)
        self._await_reader(job)

    def put_back(self, job: Job) -> None:
        """It waits again, for no longer than before."""
        self._timers.disarm(job)
        self._arm_deadline(job)

    def ended(self, job: Job) -> None:
        """What it said is there for its reader, for as long as any other task's, unless that left."""
        if job.started is None:
            self._timers.disarm(job)  # its deadline
        if job.left:
            self._settle(job)
        elif job not in self._timers:
            self._await_reader(job)

    # --- within

    def _admit(self, pool_id: str, task: TaskRequest, form: Form) -> Accepted:
        self.dispatch.check(pool_id)
        self._make_room(pool_id, task.task_id)
        stream = self._config.stream
        lasts = form is FRAMES and not stream.cancel_on_disconnect  # its reader may lose it, and come back
        outbox = (ReplayOutbox if lasts else Outbox)(stream.unread_events, stream.unread_bytes)
        job = Job(pool_id, task, outbox, self._loop.time(), form)
        self._jobs[job.task_id] = job
        self._arm_deadline(job)
        try:
            return self.dispatch.put(job)
        except Refusal:
            self._forget(job)
            raise

    def _make_room(self, pool_id: str, task_id: str) -> None:
        """Have a place in the table. Raises `Refusal` where none can be had, or one has this id."""
        if task_id in self._jobs:
            raise known_task(task_id)
        if len(self._jobs) >= self._config.tasks.limit:
            if not self._done:
                wait = max(_TABLE_PAUSE, self.dispatch.backoff(pool_id))
                told = f"{len(self._jobs)} tasks are known, which is tasks.limit · come again later"
                raise full(told, wait, "table_full")
            self._forget(next(iter(self._done.values())))

    def _arm_deadline(self, job: Job) -> None:
        if job.deadline is not None:
            self._timers.arm(job, job.deadline, self._overdue)

    def _overdue(self, job: Job) -> None:
        """Its deadline passed while it waited."""
        self.dispatch.drop(job, too_late(job), "deadline")

    def _await_reader(self, job: Job) -> None:
        """Let it expire unless somebody reads it in time. Not while it waits: that costs no engine, and may last."""
        if not job.taken:
            self._timers.arm(job, self._loop.time() + self._config.stream.unread_expiry, self._expire)

    def _expire(self, job: Job) -> None:
        """Nobody came to read it: it is ended, and what it said is forgotten."""
        job.expired = True
        if job.ended is None:
            self.counts.of(job.pool_id).dropped["unread"] += 1
            self.dispatch.abandon(job)
        self._settle(job)

    def _rest(self, job: Job) -> None:
        """It was read; what may not have arrived can be had for as long as what is unread, while there is a place."""
        if not job.outbox.repeats:
            self._settle(job)
            return
        self._done[job.task_id] = job
        self._timers.arm(job, self._loop.time() + self._config.stream.unread_expiry, self._settle)

    def _settle(self, job: Job) -> None:
        """Nobody can read it any more: it is known for a while yet."""
        job.outbox.clear()
        self._done[job.task_id] = job
        self._timers.arm(job, self._loop.time() + self._config.tasks.keep, self._forget)

    def _forget(self, job: Job) -> None:
        self._timers.disarm(job)
        self._done.pop(job.task_id, None)
        self._jobs.pop(job.task_id, None)


def _why_gone(job: Job) -> str:
    if job.read:
        return "was read to its end"
    if job.left:
        return "is gone: its reader left, which ended the task (stream.cancel_on_disconnect)"
    return "was read by nobody for stream.unread_expiry, and is gone"
