"""Events as log records, for whoever reads the program's log."""

from llama_orch_adapter_api import get_logger

from .._events import Event, HostEvent
from .fields import fields
from .narration import LEVELS, LOUDEST, level

LOGGER = "llama_orch_adapter_host.narration"

_logger = get_logger(LOGGER)

_LOUDEST = LEVELS | LOUDEST
"""How loud each kind may be: looked up alone where the log does not take it."""


class Narrator:
    """An observer that logs each event's sentence, with its other fields as the record's extras.

    Every host has one from the start, and takes no second one; elsewhere it may be called with any events.
    What the logger's level does not let pass costs next to nothing, so that it may always listen. Nothing here writes:
    a handler that is slow holds the loop, unless it hands records to another thread as `json_logging` does.
    """

    __slots__ = ()

    def wants(self, kind: type[Event]) -> bool:
        """Whether the log may take such an event, at the level that it is set to now."""
        return _logger.isEnabledFor(_LOUDEST[kind])

    def __call__(self, event: HostEvent) -> None:
        """Log it."""
        if not _logger.isEnabledFor(_LOUDEST[type(event)]):
            return
        loudness = level(event)
        if _logger.isEnabledFor(loudness):
            told = fields(event)
            sentence = told.pop("human", None)
            if sentence is not None:
                _logger.log(loudness, sentence, extra=told)
