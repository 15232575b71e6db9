"""What waits and runs of each pool: tasks are handed to the host as slots come free, and their events to who reads."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from llama_orch_adapter_api import End, WorkerError, get_logger
from llama_orch_adapter_host import AdapterHost, TokenStream
from llama_orch_adapter_host.events import (
    AdapterCounted,
    AdapterSpoke,
    Event,
    FirstToken,
    HostEvent,
    ReplicaEvent,
    TaskEnded,
)

from ._config import AdmissionSettings
from ._counts import Counts, Loss
from ._job import CANCELLED, Job
from ._lane import Lane
from ._narration import tell_turned_away
from ._queue import QueueFullError
from ._refusal import dropped, full, in_vain, open_again_in, own_fault, passes, stopping, unavailable
from ._slots import Slots
from ._timers import Timers
from ._watch import Watch
from ._wire import Accepted

logger = get_logger(__name__)

_LAST_WORDS = 0.1
"""Seconds that readers may take, when all ends, for what they were told last."""


class Dispatch:
    """The tasks of one host from when they are put here until they end. An observer of the host.

    `lanes` are what runs and waits, by pool; one that was never sent a task has none. `watch` is told of each task's
    start and end, and of nothing else; which tasks are known, who may read them and for how long, is not known here.
    """

    def __init__(
        self,
        host: AdapterHost,
        settings: AdmissionSettings,
        counts: Counts,
        watch: Watch,
        chance: Callable[[], float],
    ) -> None:
        self._host = host
        self._settings = settings
        self._counts = counts
        self._watch = watch
        self._chance = chance
        self._loop = asyncio.get_running_loop()
        self._slots = Slots(host, settings.slots_if_unknown, self._loop.time)
        self._wakes: Timers[Lane] = Timers(self._loop)
        self._looks: Timers[tuple[str, str]] = Timers(self._loop)  # at full replicas
        self._errands: dict[asyncio.Task[None], Job] = {}
        self._streaming: dict[str, Job] = {}  # by id: those that come from the host now
        self.lanes: dict[str, Lane] = {}
        self.stopping = False

    # --- from outside

    def check(self, pool_id: str) -> None:
        """Raises `Refusal` where the pool takes no task, neither now nor soon."""
        refusal = stopping(pool_id) if self.stopping else self._host.refusal(pool_id)
        if refusal is not None and not passes(refusal):
            raise unavailable(refusal, known=self.stopping or pool_id in self._host.pools())

    def put(self, job: Job) -> Accepted:
        """Start it, or let it wait. Raises `Refusal` where the queue is full; else one that waits may be dropped."""
        lane = self._lane(job.pool_id)
        now = self._loop.time()
        try:
            gone = lane.queue.put(job, job.priority, job.replica_id)
        except QueueFullError as error:
            wait = self._backoff(lane, now)
            told = f"{error} for pool {job.pool_id!r} · come again in {wait:.3g} s"
            raise full(told, wait, "queue_full") from None
        if gone is not None:
            self._lose(gone, dropped(job.pool_id), "lru")
        self._dispatch(lane)
        return self._accepted(job, lane, now)

    def position(self, job: Job) -> int | None:
        """How many of its pool start before it; None where it does not wait."""
        return self._lane(job.pool_id).position(job)

    def backoff(self, pool_id: str) -> float:
        """Seconds after which another task is likely to be taken."""
        return self._backoff(self._lane(pool_id), self._loop.time())

    def drop(self, job: Job, outcome: WorkerError, why: Loss) -> None:
        """End a task that waits. For one that does not it is nothing."""
        if self._lane(job.pool_id).queue.remove(job):
            self._lose(job, outcome, why)

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

    def abandon(self, job: Job) -> None:
        """Cancel a task without waiting for its end."""
        self._send(self.cancel(job), job)

    # --- an observer of the host

    def wants(self, kind: type[Event]) -> bool:
        """Whatever changes a replica may let a task start that waits; so may another one's first token, and its end."""
        return issubclass(kind, ReplicaEvent | FirstToken | TaskEnded) and not issubclass(
            kind, AdapterSpoke | AdapterCounted
        )

    def __call__(self, event: HostEvent) -> None:
        """A replica changed, took a task, or is done with one: look again what may start, in the loop's next turn.

        Also in other pools that take nothing: this one may stand in for them.
        """
        now = self._loop.time()
        if isinstance(event, TaskEnded):
            job = self._streaming.get(event.task_id)
            if job is not None and not event.refused:
                self._lane(job.pool_id).free(job, now)  # though its client may not have taken all: that can last
                job.ran_at = None if event.stand_in else event.replica_id
        elif isinstance(event, FirstToken):
            own = self.lanes.get(event.stand_in or event.pool_id)
            if own is None or not own.took(event.replica_id, now):
                return
        elif isinstance(event, ReplicaEvent):
            self._slots.forget()
            own = self.lanes.get(event.pool_id)
            if own is not None:
                own.look_again(event.replica_id, now)
        for lane in self.lanes.values():
            if lane.queue and (lane.pool_id == event.pool_id or now < lane.pause.until) and not self.stopping:
                self._wakes.arm(lane, now, self._dispatch)

    # --- the end

    async def aclose(self, drain: float) -> None:
        """End what waits, let what runs go on for `drain` seconds, then end all. Idempotent."""
        self.stopping = True
        self._wakes.close()
        self._looks.close()
        for lane in self.lanes.values():
            for job in tuple(lane.queue):
                self.drop(job, stopping(lane.pool_id), "stopping")
        await self._host.aclose(drain)
        await self._end_errands()

    async def _end_errands(self) -> None:
        errands = tuple(self._errands)
        for job in self._errands.values():
            job.hush()
        if errands:
            _, late = await asyncio.wait(errands, timeout=_LAST_WORDS)
            for errand in late:
                errand.cancel()  # its reader takes nothing, and may yet take how the task ended
            await asyncio.gather(*late, return_exceptions=True)

    # --- within

    def _lane(self, pool_id: str) -> Lane:
        lane = self.lanes.get(pool_id)
        if lane is None:
            lane = self.lanes[pool_id] = Lane(pool_id, self._settings.queue, self._settings.policy)
        return lane

    def _accepted(self, job: Job, lane: Lane, now: float) -> Accepted:
        start = lane.predicted(job, now, self._slots.of(lane.pool_id))
        return Accepted(
            task_id=job.task_id,
            queue_position=lane.position(job) or 0,
            predicted_start_ms=None if start is None else round(start * 1000),
            backoff_ms=round(self._backoff(lane, now) * 1000),
        )

    def _backoff(self, lane: Lane, now: float) -> float:
        pause = max(0.0, lane.pause.until - now)
        return lane.forecast.backoff(lane.queue.room, self._slots.of(lane.pool_id), self._chance(), pause)

    def _dispatch(self, lane: Lane) -> None:
        """Start what may start; where the pool takes nothing now, come again when it may.

        That is the host's to say, which knows it of each replica: one that pushed back holds nobody up who may go to
        another one.
        """
        now = self._loop.time()
        while lane.queue and not self.stopping:
            refusal = self._host.refusal(lane.pool_id)
            if refusal is not None and passes(refusal):
                lane.pause.extend(open_again_in(refusal), now, self._chance())
                break
            lane.pause.forget(now)
            job = lane.next(now, len(lane.running) + 1 if in_vain(refusal) else self._slots.of(lane.pool_id))
            if job is None:
                break
            job.started = now
            self._watch.started(job)
            self._send(self._run(job, lane), job)
        if lane.queue and now < lane.pause.until and not self.stopping:
            self._wakes.arm(lane, lane.pause.until, self._dispatch)

    def _send(self, errand: Coroutine[Any, Any, None], job: Job) -> None:
        sent = self._loop.create_task(errand)
        self._errands[sent] = job
        sent.add_done_callback(self._errands.pop)

    async def _run(self, job: Job, lane: Lane) -> None:
        """A task's whole time with the host."""
        try:
            outcome: End | WorkerError = await self._pump(job, lane)
        except WorkerError as error:
            if passes(error) and job.stream is None and not job.hushed and not self.stopping:
                self._push_back(job, lane, error)
                return
            outcome = error
        except asyncio.CancelledError:
            self._over(job, CANCELLED if job.stream is None else await _ending(job.stream))
            raise
        except Exception as error:
            logger.exception("task %s: the orchestrator failed", job.task_id)
            outcome = own_fault(error)
        finally:
            job.stream = None
            self._streaming.pop(job.task_id, None)
        self._over(job, outcome)
        self._freed(job, lane)

    async def _pump(self, job: Job, lane: Lane) -> End:
        """Every event from the host to whoever reads, at the reader's pace: the way of each token."""
        if job.hushed:
            return CANCELLED
        async with self._host.submit(job.pool_id, job.due(self._loop.time())) as stream:
            now = self._loop.time()
            lane.flows(job, now)
            self._counts.of(job.pool_id).waits.observe(job.waited(now))
            job.stream = stream
            self._streaming[job.task_id] = job
            async for event in stream:
                if type(event) is End:
                    self._over(job, event)  # before the adapter has let go: its engine is done
                else:
                    await job.tell(event)
        return CANCELLED

    def _push_back(self, job: Job, lane: Lane, error: WorkerError) -> None:
        """The replica that was to do it has no place for a task: it waits again, at the head, for that or another."""
        job.started = None
        lane.put_back(job)
        if job.replica_id is not None:  # it says nothing of the pool, and nobody needs to wait behind it
            until = lane.refused(job.replica_id, error.retry_after, self._loop.time(), self._chance())
            self._looks.arm((lane.pool_id, job.replica_id), until, self._look_again)
        self._watch.put_back(job)
        self._dispatch(lane)

    def _look_again(self, replica: tuple[str, str]) -> None:
        """It was left alone for as long as it was to be."""
        pool_id, replica_id = replica
        lane = self._lane(pool_id)
        lane.look_again(replica_id, self._loop.time())
        self._dispatch(lane)

    def _freed(self, job: Job, lane: Lane) -> None:
        """The adapter has let go of a task that is over: up to now the host may have counted it."""
        replica_id = job.replica_id if job.ran_at is None else job.ran_at
        if replica_id is not None:
            lane.done(replica_id)
        self._dispatch(lane)

    def _over(self, job: Job, outcome: End | WorkerError) -> None:
        """A task has its outcome, and its slot is free. A second outcome is nothing."""
        if job.ended is not None:
            return
        now = self._loop.time()
        lane = self._lane(job.pool_id)
        if job.started is None and isinstance(outcome, WorkerError):
            tell_turned_away(job.pool_id, job.task_id, outcome)
        job.end(outcome, now)
        lane.left(job, now)
        self._watch.ended(job)
        self._dispatch(lane)

    def _lose(self, job: Job, outcome: WorkerError, why: Loss) -> None:
        self._counts.of(job.pool_id).dropped[why] += 1
        self._over(job, outcome)


async def _ending(stream: TokenStream) -> End | WorkerError:
    """How the host ended a stream whose caller has left it: nothing else is to be had of it, and no wait."""
    try:
        async for event in stream:
            if type(event) is End:
                return event
    except WorkerError as error:
        return error
    return CANCELLED
