"""What the host tells of single tasks, for those who read them; and of those that it never sees, for the log."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llama_orch_adapter_api import WorkerError, get_logger, one_line, redact
from llama_orch_adapter_host.events import Event, HostEvent, TaskEvent
from llama_orch_adapter_host.observe import human

logger = get_logger(__name__)

Tell = Callable[[str], None]

_LINE = 100
_NAME = 24
_TASK = 8
"""Characters of a line of narration, of a name and of an id in it."""


class Narrations:
    """An observer of the host that hands a task's sentences to who follows it; it costs nothing while nobody does."""

    def __init__(self) -> None:
        self._followers: dict[str, Tell] = {}

    def wants(self, kind: type[Event]) -> bool:
        """Whether such an event is of use now."""
        return bool(self._followers) and issubclass(kind, TaskEvent)

    def __call__(self, event: HostEvent) -> None:
        """Tell it to who follows its task."""
        tell = self._followers.get(event.task_id) if isinstance(event, TaskEvent) else None
        sentence = None if tell is None else human(event)
        if tell is not None and sentence is not None:
            tell(sentence)

    @contextmanager
    def follow(self, task_id: str, tell: Tell) -> Iterator[None]:
        """Be told of a task within the block; one follows it at a time."""
        self._followers[task_id] = tell
        try:
            yield
        finally:
            del self._followers[task_id]


def tell_turned_away(pool_id: str, task_id: str, error: WorkerError) -> None:
    """Log that a task is not taken in, or let go of before it was sent: as loud as the host tells of failed ones."""
    if not logger.isEnabledFor(logging.INFO):
        return
    pool, message = one_line(redact(pool_id[:_NAME])), one_line(redact(error.message))
    sentence = f"{pool} turns away task {task_id[:_TASK]}: {error.code} {error.detail}, {message}"
    facts = {"actor": "orchestratord", "action": "turn_away", "pool_id": pool, "task_id": task_id}
    why = {"error_kind": error.code, "detail": error.detail, "error_message": message}
    logger.info("%s", sentence if len(sentence) <= _LINE else f"{sentence[: _LINE - 1]}…", extra=facts | why)
