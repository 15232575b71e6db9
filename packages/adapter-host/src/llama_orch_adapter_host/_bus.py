"""Who is told of the host's events, and that a listener harms nobody."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

import msgspec
from llama_orch_adapter_api import TaskRequest, get_logger

from ._events import Event, HostEvent

logger = get_logger(__name__)

Observer = Callable[[HostEvent], None]
"""Is told of each event, in order, on the event loop: it must not block."""


@runtime_checkable
class Choosy(Protocol):
    """An observer that says beforehand whether it has a use for a kind of event, so that none is made in vain."""

    def wants(self, kind: type[Event]) -> bool:
        """Whether it may have, as things stand now."""


@runtime_checkable
class Traces(Protocol):
    """An observer that follows tasks across processes."""

    def traceparent(self, task_id: str) -> str | None:
        """The trace context (W3C) of the task's running attempt."""


class Bus:
    """Tells every observer of every event. One that raises is logged once, and told on."""

    def __init__(self) -> None:
        self._tracer: Traces | None = None  # the latest one
        self._observers: tuple[Observer, ...] = ()
        self._choosy: tuple[Choosy, ...] = ()
        self._greedy = 0  # observers that take everything
        self._complained: set[int] = set()  # by identity: an observer need not be hashable

    def add(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` from now on; call what is returned to end that. One that traces names traces from now on."""
        self._observers = (*self._observers, observer)
        self._sort()
        if isinstance(observer, Traces):
            self._tracer = observer
        return lambda: self._remove(observer)

    def wants(self, kind: type[Event]) -> bool:
        """Whether anybody has a use for an event of this kind; the events of each task are made only then.

        One that raises is taken to have.
        """
        if self._greedy:
            return True
        for observer in self._choosy:
            try:
                if observer.wants(kind):
                    return True
            except Exception as error:  # noqa: BLE001  # as in emit
                self._complain(observer, error)
                return True
        return False

    def traced(self, task: TaskRequest) -> TaskRequest:
        """The task in the trace of its running attempt; as it is where nobody names one. Never raises."""
        tracer = self._tracer
        if tracer is None:
            return task
        try:
            trace = tracer.traceparent(task.task_id)
            return task if trace is None else msgspec.structs.replace(task, traceparent=trace)
        except Exception as error:  # noqa: BLE001  # as in emit
            self._complain(tracer, error)
            return task

    def emit(self, event: HostEvent) -> None:
        """Tell all. Never raises."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception as error:  # noqa: BLE001  # a stranger's code, and none of the task's trouble
                self._complain(observer, error)

    def _remove(self, observer: Observer) -> None:
        self._observers = tuple(each for each in self._observers if each is not observer)
        self._complained.discard(id(observer))
        self._sort()
        if isinstance(observer, Traces) and observer is self._tracer:
            self._tracer = None

    def _sort(self) -> None:
        everyone: tuple[object, ...] = self._observers
        self._choosy = tuple(each for each in everyone if isinstance(each, Choosy))
        self._greedy = len(everyone) - len(self._choosy)

    def _complain(self, observer: object, error: Exception) -> None:
        if id(observer) not in self._complained:
            self._complained.add(id(observer))
            logger.warning("an observer of events raised %s; its further complaints are not told", type(error).__name__)
