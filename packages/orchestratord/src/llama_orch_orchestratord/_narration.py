"""What the host tells of single tasks, for those who read them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from llama_orch_adapter_host.events import Event, HostEvent, TaskEvent
from llama_orch_adapter_host.observe import human

Tell = Callable[[str], None]


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
