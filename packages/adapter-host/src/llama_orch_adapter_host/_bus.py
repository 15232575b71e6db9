"""Who is told of the host's events, and that a listener harms nobody."""

from collections.abc import Callable

from llama_orch_adapter_api import get_logger

from ._events import HostEvent

logger = get_logger(__name__)

Observer = Callable[[HostEvent], None]
"""Is told of each event, in order, on the event loop: it must not block."""


class Bus:
    """Tells every observer of every event. One that raises is logged once, and told on."""

    def __init__(self) -> None:
        self._observers: tuple[Observer, ...] = ()
        self._complained: set[Observer] = set()

    def add(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` from now on; call what is returned to end that."""
        self._observers = (*self._observers, observer)
        return lambda: self._remove(observer)

    def emit(self, event: HostEvent) -> None:
        """Tell all. Never raises."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception as error:  # noqa: BLE001  # a stranger's code, and none of the task's trouble
                self._complain(observer, error)

    def _remove(self, observer: Observer) -> None:
        self._observers = tuple(each for each in self._observers if each is not observer)

    def _complain(self, observer: Observer, error: Exception) -> None:
        if observer not in self._complained:
            self._complained.add(observer)
            logger.warning("an observer of events raised %s; its further complaints are not told", type(error).__name__)
