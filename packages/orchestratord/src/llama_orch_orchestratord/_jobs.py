"""All tasks: taken in, queued, handed to the host, cancelled, forgotten."""

import asyncio
import random
from collections import OrderedDict
from collections.abc import Callable

from llama_orch_adapter_api import (
    DeadlineUnmet,
    End,
    InternalError,
    PoolUnavailable,
    TaskRequest,
    WorkerError,
    get_logger,
)
from llama_orch_adapter_host import AdapterHost

from ._config import ServerConfig
from ._job import CANCELLED, Job
from ._lane import Lane
from ._outbox import Outbox
from ._queue import QueueFullError
from ._refusal import full, invalid, unavailable, unknown_task
from ._slots import Slots
from ._wire import Accepted, TaskView

logger = get_logger(__name__)

_PUSH_BACKS = {"at_capacity", "overloaded", "loading"}
"""Details of `PoolUnavailable` for which a task waits: its pool will take it, only not now."""


class Jobs:
    """The tasks of one host. Made within the event loop that they run on."""

    def __init__(self, host: AdapterHost, config: ServerConfig, chance: Callable[[], float] = random.random) -> None:
        self._host = host
        self._config = config
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._slots = Slots(host, config.admission.slots_if_unknown, self._loop.time)
        self._jobs: dict[str, Job] = {}
        self._done: OrderedDict[str, None] = OrderedDict()  # nobody can read them any more; the oldest first
        self._lanes: dict[str, Lane] = {}
        self._pumps: set[asyncio.Task[None]] = set()
        self._timers: dict[Job, asyncio.TimerHandle] = {}
        self._wakes: dict[str, asyncio.TimerHandle] = {}  # of paused pools
        self._stopping = False

    def __len__(self) -> int:
        return len(self._jobs)

    # --- from outside

    def admit(self, pool_id: str, task: TaskRequest) -> Accepted:
        """Take a task in and start it, or let it wait. Raises `Refusal`."""
        self._check(pool_id, task)
        lane = self._lane(pool_id)
        now = self._loop.time()
        stream = self._config.stream
        job = Job(pool_id, task, Outbox(stream.unread_events, stream.unread_bytes), now)
        try:
            dropped = lane.queue.put(job, task.priority)
        except QueueFullError as error:
            wait = self._backoff(lane, now)
            raise full(f"{error} for pool {pool_id!r} · come again in {wait:.3g} s", wait) from None
        self._jobs[job.task_id] = job
        if dropped is not None:
            self._over(dropped, _dropped(pool_id))
        if job.deadline is not None:
            self._arm(job, job.deadline, self._overdue)
        self._dispatch(lane)
        return self._accepted(job, lane, now)

    def find(self, task_id: str) -> Job:
        """Raises `Refusal` for one that is not known."""
        job = self._jobs.get(task_id)
        if job is None:
            raise unknown_task(task_id)
        return job

    def view(self, job: Job) -> TaskView:
        """How it is now."""
        now = self._loop.time()
        waits = job.state == "queued"
        began = job.started if job.started is not None else job.ended if job.ended is not None else now
        return TaskView(
            task_id=job.task_id,
            pool_id=job.pool_id,
            state=job.state,
            read=job.reading,
            unread_events=len(job.outbox),
            queue_position=self._lane(job.pool_id).queue.position(job) if waits else None,
            queued_ms=_ms(began - job.admitted),
            running_ms=None if job.started is None else _ms((now if job.ended is None else job.ended) - job.started),
        )

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
        if job.started is not None or job.ended is not None:
            self._disarm(job)

    async def leave(self, job: Job) -> None:
        """The reader is gone, or has read it all."""
        job.reader = None
        job.outbox.release()
        job.taken = False
        if job.outbox.closed and not job.outbox:
            job.read = True
            self._settle(job)
        elif self._config.stream.cancel_on_disconnect:
            await self.cancel(job)
            self._await_reader(job)
        elif job.state != "queued":
            self._await_reader(job)

    # --- the end

    async def aclose(self, drain: float) -> None:
        """Take nothing in any more, end what waits, let what runs go on for `drain` seconds, and end it. Idempotent."""
        self._stopping = True
        for lane in self._lanes.values():
            while (job := lane.queue.take()) is not None:
                self._over(job, _stopping(lane.pool_id))
        await self._host.aclose(drain)
        pumps = tuple(self._pumps)
        for job in self._jobs.values():
            job.hush()
        if pumps:
            await asyncio.wait(pumps, timeout=0.1)
        for pump in pumps:
            pump.cancel()  # its reader takes nothing
        await asyncio.gather(*pumps, return_exceptions=True)
        for timer in (*self._timers.values(), *self._wakes.values()):
            timer.cancel()
        self._timers.clear()
        self._wakes.clear()

    # --- inside

    def _check(self, pool_id: str, task: TaskRequest) -> None:
        """Raise what forbids taking a task in."""
        refusal = _stopping(pool_id) if self._stopping else self._host.refusal(pool_id)
        if refusal is not None and refusal.detail not in _PUSH_BACKS:
            raise unavailable(refusal, known=self._stopping or pool_id in self._host.pools())
        if task.task_id in self._jobs:
            raise invalid(
                f"task {task.task_id} is known already · leave task_id out to have one made",
                status=409,
                detail="duplicate_task",
            )
        if len(self._jobs) >= self._config.tasks.limit:
            if not self._done:
                wait = self._backoff(self._lane(pool_id), self._loop.time())
                raise full(f"{len(self._jobs)} tasks are known, which is tasks.limit · come again later", wait)
            self._forget(self._jobs[next(iter(self._done))])

    def _lane(self, pool_id: str) -> Lane:
        lane = self._lanes.get(pool_id)
        if lane is None:
            admission = self._config.admission
            lane = self._lanes[pool_id] = Lane(pool_id, admission.queue, admission.policy)
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

    def _dispatch(self, lane: Lane) -> None:
        """Start what may start, and come again when the pool's pause is over."""
        now = self._loop.time()
        while lane.queue and not self._stopping:
            refusal = self._host.refusal(lane.pool_id)
            if refusal is not None and refusal.detail in _PUSH_BACKS and now >= lane.paused_until:
                lane.pause(refusal.retry_after, now, self._chance())
            job = lane.next(now, self._slots.of(lane.pool_id))
            if job is None:
                break
            self._start(job, lane, now)
        if lane.queue and now < lane.paused_until:
            self._wake_at(lane)

    def _wake_at(self, lane: Lane) -> None:
        waking = self._wakes.get(lane.pool_id)
        if waking is not None:
            waking.cancel()
        self._wakes[lane.pool_id] = self._loop.call_at(lane.paused_until, self._dispatch, lane)

    def _start(self, job: Job, lane: Lane, now: float) -> None:
        job.started = now
        self._disarm(job)
        self._await_reader(job)
        pump = self._loop.create_task(self._run(job, lane))
        self._pumps.add(pump)
        pump.add_done_callback(self._pumps.discard)

    async def _run(self, job: Job, lane: Lane) -> None:
        """A task's whole time with the host."""
        try:
            await self._pump(job, lane)
        except WorkerError as error:
            if _pushes_back(error) and not job.hushed:
                self._push_back(job, lane, error)
            else:
                self._over(job, error)
        except Exception as error:
            logger.exception("task %s: the orchestrator failed", job.task_id)
            self._over(job, _own_fault(error))
        finally:
            job.stream = None
            if job.started is not None:
                self._over(job, CANCELLED)

    async def _pump(self, job: Job, lane: Lane) -> None:
        """Every event from the host to whoever reads, at the reader's pace: the path of each token."""
        if job.hushed:
            return
        async with self._host.submit(job.pool_id, job.due(self._loop.time())) as stream:
            lane.flows()
            job.stream = stream
            async for event in stream:
                if type(event) is End:
                    self._over(job, event)
                else:
                    await job.tell(event)

    def _push_back(self, job: Job, lane: Lane, error: WorkerError) -> None:
        """The pool has no place for a task that was started: it waits again, at the head."""
        now = self._loop.time()
        job.started = None
        self._disarm(job)
        lane.put_back(job)
        lane.pause(error.retry_after, now, self._chance())
        if job.deadline is not None:
            self._arm(job, job.deadline, self._overdue)
        self._dispatch(lane)

    def _over(self, job: Job, outcome: End | WorkerError) -> None:
        """A task has its outcome, and its slot is free. A second outcome is nothing."""
        if job.ended is not None:
            return
        lane = self._lane(job.pool_id)
        if job.started is None:
            self._disarm(job)
        job.end(outcome, self._loop.time())
        lane.left(job, self._loop.time())
        if not job.taken and job not in self._timers:
            self._await_reader(job)
        self._dispatch(lane)

    def _overdue(self, job: Job) -> None:
        """Its deadline passed while it waited."""
        if self._lane(job.pool_id).queue.remove(job):
            self._over(job, _too_late(job))

    def _await_reader(self, job: Job) -> None:
        """Let it expire unless somebody reads it in time."""
        if not job.taken:
            self._arm(job, self._loop.time() + self._config.stream.unread_expiry, self._expire)

    def _expire(self, job: Job) -> None:
        """Nobody came to read it: it is ended, and what it said is forgotten."""
        job.expired = True
        job.outbox.clear()
        job.hush()
        if job.ended is None:
            cancelling = self._loop.create_task(self._give_up(job))
            self._pumps.add(cancelling)
            cancelling.add_done_callback(self._pumps.discard)
        self._settle(job)

    async def _give_up(self, job: Job) -> None:
        await self._host.cancel(job.pool_id, job.task_id)

    def _settle(self, job: Job) -> None:
        """Nobody can read it any more: it is known for a while yet."""
        job.outbox.clear()
        self._done[job.task_id] = None
        self._arm(job, self._loop.time() + self._config.tasks.keep, self._forget)

    def _forget(self, job: Job) -> None:
        self._disarm(job)
        self._done.pop(job.task_id, None)
        self._jobs.pop(job.task_id, None)

    def _arm(self, job: Job, at: float, then: Callable[[Job], None]) -> None:
        """A task has one timer: the latest."""
        self._disarm(job)
        self._timers[job] = self._loop.call_at(at, self._ring, job, then)

    def _disarm(self, job: Job) -> None:
        timer = self._timers.pop(job, None)
        if timer is not None:
            timer.cancel()

    def _ring(self, job: Job, then: Callable[[Job], None]) -> None:
        self._timers.pop(job, None)
        then(job)


def _pushes_back(error: WorkerError) -> bool:
    return isinstance(error, PoolUnavailable) and error.detail in _PUSH_BACKS


def _too_late(job: Job) -> DeadlineUnmet:
    return DeadlineUnmet(
        f"the deadline of {job.task.deadline_ms} ms passed in the queue of pool {job.pool_id!r} · "
        "allow more time, or come when fewer wait",
        detail="queue",
        phase="queue",
        pool=job.pool_id,
    )


def _dropped(pool_id: str) -> PoolUnavailable:
    return PoolUnavailable(
        f"the queue of pool {pool_id!r} was full, and a newer task took this one's place (admission.policy drop-lru) · "
        "send it again later",
        detail="overloaded",
        phase="queue",
        pool=pool_id,
    )


def _stopping(pool_id: str) -> PoolUnavailable:
    return PoolUnavailable(
        "this orchestrator is stopping · use another one, or come again", detail="draining", phase="queue", pool=pool_id
    )


def _own_fault(error: Exception) -> InternalError:
    return InternalError(f"the orchestrator raised {type(error).__name__} · report it", detail="host")


def _ms(seconds: float) -> float:
    return round(seconds * 1000, 3)
