"""All tasks: taken in, queued, handed to the host, cancelled, forgotten."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable, Mapping

from llama_orch_adapter_api import End, PoolUnavailable, TaskRequest, WorkerError, get_logger
from llama_orch_adapter_host import AdapterHost
from llama_orch_adapter_host.events import Event, HostEvent, ReplicaEvent, TaskEnded

from ._config import ServerConfig
from ._counts import Census, Counts, Loss, census
from ._job import CANCELLED, Form, Job
from ._lane import Lane
from ._narration import tell_turned_away
from ._outbox import Outbox
from ._queue import QueueFullError
from ._refusal import (
    Refusal,
    dropped,
    full,
    invalid,
    known_task,
    own_fault,
    stopping,
    too_late,
    unavailable,
    unknown_task,
)
from ._slots import Slots
from ._sse import FRAMES
from ._timers import Timers
from ._wire import Accepted, TaskView

logger = get_logger(__name__)

_PUSH_BACKS = {"at_capacity", "overloaded", "loading"}
"""Details of `PoolUnavailable` for which a task waits: its pool will take it, only not now."""

_GONE = {"draining", "unknown_pool"}
"""Details for which waiting is in vain: the host tells each task so, however many still run."""

_TABLE_PAUSE = 1.0
"""Seconds after which to come again, at least, where the table is full: when a place is free depends on readers."""

_LAST_WORDS = 0.1
"""Seconds that readers may take, when all ends, for what they were told last."""


class Jobs:
    """The tasks of one host. Made within the event loop that they run on; an observer of the host.

    `lanes` are what runs and waits, by pool; one that was never sent a task has none.
    """

    def __init__(self, host: AdapterHost, config: ServerConfig, chance: Callable[[], float] = random.random) -> None:
        self._host = host
        self._config = config
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._slots = Slots(host, config.admission.slots_if_unknown, self._loop.time)
        self._jobs: dict[str, Job] = {}
        self._done: OrderedDict[str, Job] = OrderedDict()  # nobody can read them any more; the oldest first
        self.lanes: dict[str, Lane] = {}
        self._errands: set[asyncio.Task[None]] = set()
        self._timers: Timers[Job] = Timers(self._loop)
        self._wakes: Timers[Lane] = Timers(self._loop)
        self.counts = Counts()
        self.stopping = False

    def __len__(self) -> int:
        return len(self._jobs)

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
        return job.view(self._lane(job.pool_id).queue.position(job), self._loop.time())

    def census(self) -> Mapping[str, Census]:
        """How many tasks there are of each kind now, by pool."""
        return census(self.lanes.values(), self._jobs.values())

    async def cancel(self, job: Job) -> None:
        """End a task, wherever it is; not one token of it is handed out afterwards. One that is over stays so."""
        if job.ended is not None:
            return
        job.hush()
        if job.started is None:
            self._lane(job.pool_id).queue.remove(job)
            self._over(job, CANCELLED)
        else:
            await self._host.cancel(job.pool_id, job.task_id)

    # --- readers

    def take(self, job: Job) -> None:
        """Begin to read it. Raises `Refusal` where another one does, or where nothing is left to read."""
        if job.read or job.expired:
            why = "was read to its end" if job.read else "was read by nobody for stream.unread_expiry, and is gone"
            raise invalid(f"the stream of task {job.task_id} {why}", status=410)
        if job.taken:
            raise invalid(f"the stream of task {job.task_id} has a reader already; one may read it", status=409)
        job.taken = True
        if job.state != "queued":
            self._timers.disarm(job)

    async def leave(self, job: Job, *, for_good: bool = False) -> None:
        """The reader is gone, or has read it all; `for_good` where nobody could come back, whatever the config says."""
        job.taken = False
        job.detach()
        if job.ended is None and (for_good or self._config.stream.cancel_on_disconnect):
            self.counts.of(job.pool_id).disconnects += 1
            await self.cancel(job)
        if for_good:
            job.outbox.clear()
        if job.outbox.closed and not job.outbox:
            job.read = True
            self._settle(job)
        elif job.state != "queued":
            self._await_reader(job)

    # --- an observer of the host

    def wants(self, kind: type[Event]) -> bool:
        """Whatever changes a replica may let a task start that waits, and so may the end of another one."""
        return issubclass(kind, ReplicaEvent | TaskEnded)

    def __call__(self, event: HostEvent) -> None:
        """A replica changed, or is done with a task: look again what may start, in the loop's next turn."""
        lane = self.lanes.get(event.pool_id)
        if lane is None:
            return
        now = self._loop.time()
        if isinstance(event, TaskEnded):
            job = self._jobs.get(event.task_id)
            if job is None or job.stream is None or event.refused:
                return
            lane.free(job, now)  # though its client may not have taken all: that can last
        elif lane.queue:
            lane.stir(now)
            self._slots.forget()
        if lane.queue and not self.stopping:
            self._wakes.arm(lane, now, self._dispatch)

    # --- the end

    async def aclose(self, drain: float) -> None:
        """Take nothing in any more, end what waits, let what runs go on for `drain` seconds, then end all. Idempotent.

        Until it is over, readers may still come.
        """
        self.stopping = True
        self._wakes.close()
        for lane in self.lanes.values():
            while (job := lane.queue.take()) is not None:
                self._lose(job, stopping(lane.pool_id), "stopping")
        await self._host.aclose(drain)
        await self._end_errands()
        self._timers.close()

    async def _end_errands(self) -> None:
        errands = tuple(self._errands)
        for job in self._jobs.values():
            job.hush()
        if errands:
            _, late = await asyncio.wait(errands, timeout=_LAST_WORDS)
            for errand in late:
                errand.cancel()  # its reader takes nothing
            await asyncio.gather(*late, return_exceptions=True)

    # --- admission

    def _admit(self, pool_id: str, task: TaskRequest, form: Form) -> Accepted:
        self._check(pool_id, task)
        lane = self._lane(pool_id)
        now = self._loop.time()
        stream = self._config.stream
        job = Job(pool_id, task, Outbox(stream.unread_events, stream.unread_bytes), now, form)
        try:
            gone = lane.queue.put(job, task.priority)
        except QueueFullError as error:
            wait = self._backoff(lane, now)
            raise full(f"{error} for pool {pool_id!r} · come again in {wait:.3g} s", wait, "queue_full") from None
        self._jobs[job.task_id] = job
        if gone is not None:
            self._lose(gone, dropped(pool_id), "lru")
        self._arm_deadline(job)
        self._dispatch(lane)
        return self._accepted(job, lane, now)

    def _check(self, pool_id: str, task: TaskRequest) -> None:
        """Raise what forbids taking a task in."""
        refusal = stopping(pool_id) if self.stopping else self._host.refusal(pool_id)
        if refusal is not None and refusal.detail not in _PUSH_BACKS:
            raise unavailable(refusal, known=self.stopping or pool_id in self._host.pools())
        if task.task_id in self._jobs:
            raise known_task(task.task_id)
        if len(self._jobs) >= self._config.tasks.limit:
            if not self._done:
                wait = max(_TABLE_PAUSE, self._backoff(self._lane(pool_id), self._loop.time()))
                told = f"{len(self._jobs)} tasks are known, which is tasks.limit · come again later"
                raise full(told, wait, "table_full")
            self._forget(next(iter(self._done.values())))

    def _lane(self, pool_id: str) -> Lane:
        lane = self.lanes.get(pool_id)
        if lane is None:
            admission = self._config.admission
            lane = self.lanes[pool_id] = Lane(pool_id, admission.queue, admission.policy)
        return lane

    def _accepted(self, job: Job, lane: Lane, now: float) -> Accepted:
        start = lane.predicted(job, now, self._slots.of(lane.pool_id))
        return Accepted(
            task_id=job.task_id,
            queue_position=lane.queue.position(job) or 0,
            predicted_start_ms=None if start is None else round(start * 1000),
            backoff_ms=round(self._backoff(lane, now) * 1000),
        )

    def _backoff(self, lane: Lane, now: float) -> float:
        pause = max(0.0, lane.paused_until - now)
        return lane.forecast.backoff(lane.queue.room, self._slots.of(lane.pool_id), self._chance(), pause)

    # --- dispatch

    def _dispatch(self, lane: Lane) -> None:
        """Start what may start; where the pool takes nothing now, come again when its pause is over."""
        now = self._loop.time()
        while lane.queue and not self.stopping:
            refusal = self._host.refusal(lane.pool_id)
            if now >= lane.paused_until and refusal is not None and refusal.detail in _PUSH_BACKS:
                lane.pause(refusal.retry_after, now, self._chance())
            gone = refusal is not None and refusal.detail in _GONE
            job = lane.next(now, len(lane.running) + 1 if gone else self._slots.of(lane.pool_id))
            if job is None:
                break
            self._start(job, lane, now)
        if lane.queue and now < lane.paused_until and not self.stopping:
            self._wakes.arm(lane, lane.paused_until, self._dispatch)

    def _start(self, job: Job, lane: Lane, now: float) -> None:
        job.started = now
        self._timers.disarm(job)
        self._await_reader(job)
        pump = self._loop.create_task(self._run(job, lane))
        self._errands.add(pump)
        pump.add_done_callback(self._errands.discard)

    async def _run(self, job: Job, lane: Lane) -> None:
        """A task's whole time with the host."""
        try:
            outcome: End | WorkerError = await self._pump(job, lane)
        except WorkerError as error:
            if _pushes_back(error) and not job.hushed and not self.stopping:
                self._push_back(job, lane, error)
                return
            outcome = error
        except asyncio.CancelledError:
            self._over(job, CANCELLED)
            raise
        except Exception as error:
            logger.exception("task %s: the orchestrator failed", job.task_id)
            outcome = own_fault(error)
        finally:
            job.stream = None
        self._over(job, outcome)
        lane.stir(self._loop.time())  # the adapter has let go, too: the host may have counted it up to now
        self._dispatch(lane)

    async def _pump(self, job: Job, lane: Lane) -> End:
        """Every event from the host to whoever reads, at the reader's pace: the way of each token."""
        if job.hushed:
            return CANCELLED
        async with self._host.submit(job.pool_id, job.due(self._loop.time())) as stream:
            now = self._loop.time()
            lane.flows(job, now)
            self.counts.of(job.pool_id).waits.observe(job.waited(now))
            job.stream = stream
            async for event in stream:
                if type(event) is End:
                    self._over(job, event)  # before the adapter has let go: its engine is done
                else:
                    await job.tell(event)
        return CANCELLED

    def _push_back(self, job: Job, lane: Lane, error: WorkerError) -> None:
        """The pool has no place for a task that was started: it waits again, at the head."""
        job.started = None
        self._timers.disarm(job)
        lane.put_back(job)
        lane.pause(error.retry_after, self._loop.time(), self._chance())
        self._arm_deadline(job)
        self._dispatch(lane)

    # --- endings

    def _over(self, job: Job, outcome: End | WorkerError) -> None:
        """A task has its outcome, and its slot is free. A second outcome is nothing."""
        if job.ended is not None:
            return
        now = self._loop.time()
        lane = self._lane(job.pool_id)
        if job.started is None:
            self._timers.disarm(job)  # its deadline
            if isinstance(outcome, WorkerError):
                tell_turned_away(job.pool_id, job.task_id, outcome)
        job.end(outcome, now)
        lane.left(job, now)
        if job not in self._timers:
            self._await_reader(job)
        self._dispatch(lane)

    def _lose(self, job: Job, outcome: WorkerError, why: Loss) -> None:
        self.counts.of(job.pool_id).dropped[why] += 1
        self._over(job, outcome)

    def _arm_deadline(self, job: Job) -> None:
        if job.deadline is not None:
            self._timers.arm(job, job.deadline, self._overdue)

    def _overdue(self, job: Job) -> None:
        """Its deadline passed while it waited."""
        if self._lane(job.pool_id).queue.remove(job):
            self._lose(job, too_late(job), "deadline")

    def _await_reader(self, job: Job) -> None:
        """Let it expire unless somebody reads it in time."""
        if not job.taken:
            self._timers.arm(job, self._loop.time() + self._config.stream.unread_expiry, self._expire)

    def _expire(self, job: Job) -> None:
        """Nobody came to read it: it is ended, and what it said is forgotten."""
        job.expired = True
        if job.ended is None:
            self.counts.of(job.pool_id).dropped["unread"] += 1
            cancelling = self._loop.create_task(self.cancel(job))
            self._errands.add(cancelling)
            cancelling.add_done_callback(self._errands.discard)
        self._settle(job)

    def _settle(self, job: Job) -> None:
        """Nobody can read it any more: it is known for a while yet."""
        job.outbox.clear()
        self._done[job.task_id] = job
        self._timers.arm(job, self._loop.time() + self._config.tasks.keep, self._forget)

    def _forget(self, job: Job) -> None:
        self._timers.disarm(job)
        self._done.pop(job.task_id, None)
        self._jobs.pop(job.task_id, None)


def _pushes_back(error: WorkerError) -> bool:
    return isinstance(error, PoolUnavailable) and error.detail in _PUSH_BACKS
