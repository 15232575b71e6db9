"""The one class that an adapter writes."""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator

from ._events import TokenEvent
from ._props import WorkerHealth, WorkerProps
from ._task import TaskRequest


class WorkerAdapter(ABC):
    """One engine replica, as the host sees it. Five canonical methods; nothing here knows HTTP.

    Failures are raised as `WorkerError`; anything else that escapes counts as a defect of the adapter. The host may
    cancel any call at any await. Retries, limits, breaker, narration and metrics are the host's.
    """

    @abstractmethod
    async def health(self) -> WorkerHealth:
        """How the replica is now. A replica that is down is an answer, not an exception."""

    @abstractmethod
    async def props(self) -> WorkerProps:
        """Capacity and capabilities, asked of the engine now."""

    @abstractmethod
    def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        """The task's events, `Started` first and `End` last; an async generator is all it takes.

        Closing the iterator stops the engine's work. No `asyncio.timeout` or `TaskGroup` is held across a `yield`.
        """

    @abstractmethod
    async def engine_version(self) -> str:
        """The engine's version, the same text for as long as the engine is the same: replica sets are pinned by it."""

    async def cancel(self, task_id: str) -> None:
        """Best effort to stop a task, beyond closing its stream, which the host does anyway.

        An adapter with the feature `confirms_cancel` returns only when the task's slot is idle (within 2 s), and raises
        a `WorkerError` where it is not or nobody can tell. All others never raise.
        """

    async def aclose(self) -> None:
        """Let go of whatever the adapter holds; called once, after the last stream is closed."""
