"""The tasks that run, and the records of those that ended last."""

from collections import OrderedDict
from collections.abc import Collection

from llama_orch_adapter_api import AdapterError, TaskRequest, WorkerReset

from ._call import Call
from ._flight import Flight
from ._record import FlightRecord
from ._retry import FATAL_RESETS

REMEMBERED = 4096
"""Tasks whose records are kept after their end."""


class Ledger:
    """By task id."""

    def __init__(self) -> None:
        self._live: dict[str, Call] = {}
        self._leaving: dict[str, Flight] = {}  # ended, and their adapters may still be at work
        self._ended: OrderedDict[str, FlightRecord] = OrderedDict()  # oldest first

    def __len__(self) -> int:
        return len(self._live)

    def calls(self) -> Collection[Call]:
        """The tasks that run now."""
        return tuple(self._live.values())

    def live(self, task_id: str) -> Call | None:
        """A task that runs."""
        return self._live.get(task_id)

    def record(self, task_id: str) -> FlightRecord | None:
        """What became of a task so far; None for one that is unknown or long gone."""
        call = self._live.get(task_id)
        return self._ended.get(task_id) if call is None else call.record

    def ended(self, task_id: str) -> FlightRecord | None:
        """What became of the latest task of this id that has ended."""
        return self._ended.get(task_id)

    def check(self, pool_id: str, task: TaskRequest) -> None:
        """Refuse a task that runs already, whose adapter is not done with it, or that may be what ends replicas."""
        if task.task_id in self._live:
            raise AdapterError(
                f"task {task.task_id} is running already · wait for it, or leave task_id out to have one made",
                detail="duplicate_task",
                phase="queue",
                pool=pool_id,
            )
        if task.task_id in self._leaving:
            raise AdapterError(
                f"task {task.task_id} has ended, and its adapter has not let go of it yet · "
                "send it again in a moment, or leave task_id out to have one made",
                detail="duplicate_task",
                phase="queue",
                pool=pool_id,
            )
        past = self._ended.get(task.task_id)
        if past is not None and past.resets >= FATAL_RESETS:
            raise WorkerReset(
                f"task {task.task_id} ended {past.resets} replicas in a reset and is not sent again · "
                "look at the engines' own logs; what it asks may be what breaks them",
                detail="reset",
                phase="queue",
                pool=pool_id,
            )

    def begin(self, call: Call) -> None:
        """A task was taken in; what its id did to replicas before is not forgotten."""
        past = self._ended.get(call.task.task_id)
        if past is not None:
            call.record.resets = past.resets
        self._live[call.task.task_id] = call

    def end(self, call: Call) -> None:
        """A task has its outcome; its id is free once its adapter has let go of it."""
        del self._live[call.task.task_id]
        if call.flight is not None and call.flight.holds_on:
            self._leaving[call.task.task_id] = call.flight
        self._keep(call.record)

    def let_go(self, flight: Flight) -> None:
        """An adapter is done with a task."""
        if self._leaving.get(flight.task.task_id) is flight:
            del self._leaving[flight.task.task_id]

    def refused(self, record: FlightRecord) -> None:
        """A task ended before it was taken in; one that runs under its id is left alone."""
        if record.task_id in self._live:
            return
        past = self._ended.get(record.task_id)
        if past is not None:
            record.resets = past.resets
        self._keep(record)

    def _keep(self, record: FlightRecord) -> None:
        """Of a task that no replica was asked for, what its id did before says more, and is kept."""
        past = self._ended.pop(record.task_id, None)  # it would keep its place
        self._ended[record.task_id] = past if past is not None and past.attempts and not record.attempts else record
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)
