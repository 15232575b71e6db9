"""Logging that tells no secret and forges no line: a filter, installed on every logger of ours."""

import logging
import traceback
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from ._escapes import one_line
from ._needles import REDACTED
from ._redact import redact
from ._redact_patterns import tells


class RedactingFilter(logging.Filter):
    """Makes a record safe before any handler sees it: no secret in message, arguments, extras and traceback.

    The record becomes one line, whatever formats it: arguments, traceback and stack are merged into the message, where
    it is not a mapping (which JSON formatters take for fields). Extras keep their shape, as far as they are numbers,
    texts, mappings and sequences of these; all else becomes text.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record pass, changed. Never raises."""
        try:
            _make_safe(record)
        except Exception as error:  # noqa: BLE001  # whoever logs is not to pay for an object that cannot be printed
            own = {name: value for name, value in record.__dict__.items() if name in _OWN}
            record.__dict__.clear()
            record.__dict__.update(own, msg=_unprintable(error), **_NO_TRACE)
        return True


_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What every record has; all else was given as `extra`."""

_NO_TRACE: dict[str, Any] = {"args": None, "exc_info": None, "exc_text": None, "stack_info": None}

_NAMES = ("threadName", "processName", "taskName")
"""Names that others give, and formatters print."""

_DEEPEST = 4
"""Levels of an extra that keep their shape; what lies deeper becomes text."""

_WIDEST = 64
"""Entries of a mapping or sequence in an extra that are kept."""


class _SafeText(str):
    """A message that is safe already: to cut it again, by a second filter, would take a traceback's end away."""

    __slots__ = ()


class _SafeFields(dict[str, Any]):
    """A message in fields that is safe already."""

    __slots__ = ()


def _make_safe(record: logging.LogRecord) -> None:
    for name in _NAMES:
        if isinstance(given := record.__dict__.get(name), str):
            record.__dict__[name] = _safe(given)
    for name in record.__dict__.keys() - _OWN:
        value = record.__dict__.pop(name)
        record.__dict__[_safe(name)] = _kept(name, value)
    traces = [_safe(text, keep_end=True) for text in (_trace(record), record.stack_info) if text]
    if traces or record.args or not isinstance(record.msg, _SafeText | _SafeFields):
        record.msg = _whole(record, traces)
    record.__dict__.update(_NO_TRACE)


def _whole(record: logging.LogRecord, traces: list[str]) -> _SafeText | _SafeFields:
    if not isinstance(record.msg, Mapping) or record.args:
        return _SafeText(" · ".join([_safe(_message(record)), *traces]))
    fields = _SafeFields(_mapping(record.msg, 0))
    if traces:
        fields["traceback"] = traces
    return fields


def _safe(text: str, *, keep_end: bool = False) -> str:
    return one_line(redact(text, keep_end=keep_end))


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  # a wrong format string must not take the caller down
        return _unprintable(error)


def _unprintable(error: Exception) -> str:
    return f"a log message could not be formatted ({type(error).__name__})"


def _trace(record: logging.LogRecord) -> str | None:
    """The traceback with all that belongs to it: causes, groups, notes."""
    if record.exc_info:
        return "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
    return record.exc_text


def _kept(name: str, value: Any, depth: int = 0) -> Any:  # noqa: ANN401  # extras are whatever the caller gave
    """What is kept of a value that stands under this name."""
    match value:
        case None | bool():
            return value
        case int() | float():
            return REDACTED if tells(name, of_a_number=True) else value
        case _ if tells(name):
            return REDACTED
        case str():
            return _safe(value)
    return _shape(value, depth + 1) if depth < _DEEPEST else _safe(_text(value))


def _shape(value: object, depth: int) -> Any:  # noqa: ANN401  # as above
    match value:
        case Mapping():
            return _mapping(value, depth)
        case (str() | bytes() as header, inner) if isinstance(value, tuple):  # as aiohttp keeps headers
            return [_kept("", header, depth), _kept(header if isinstance(header, str) else repr(header), inner, depth)]
        case list() | tuple() | set() | frozenset():
            return [_kept("", inner, depth) for inner in islice(value, _WIDEST)]
    return _safe(_text(value))


def _mapping(value: Mapping[Any, Any], depth: int) -> dict[str, Any]:
    pairs = ((name if isinstance(name, str) else _text(name), inner) for name, inner in value.items())
    return {_safe(name): _kept(name, inner, depth) for name, inner in islice(pairs, _WIDEST)}


def _text(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001  # as in `filter`
        return f"a {type(value).__name__} that cannot be printed ({type(error).__name__})"


_FILTER = RedactingFilter()


class _OfChildren(logging.Handler):
    """Makes a record of a child safe before the handlers further up see it, which ask no filter of a parent's.

    It stands first among a logger's handlers. Where there are none but of its kind, the record goes where it would have
    gone without them: to the last resort.
    """

    def handle(self, record: logging.LogRecord) -> bool:  # which needs no lock
        """Always lets the record pass."""
        logger = logging.getLogger(record.name)
        if not any(isinstance(each, RedactingFilter) for each in logger.filters):
            _FILTER.filter(record)
        last = logging.lastResort
        if last is not None and record.levelno >= last.level and self._is_all_there_is(logger):
            last.handle(record)
        return True

    def _is_all_there_is(self, logger: logging.Logger) -> bool:
        asked = [*_handlers_of(logger)]
        return asked[0] is self and all(isinstance(each, _OfChildren) for each in asked)


def _handlers_of(logger: logging.Logger | None) -> Iterator[logging.Handler]:
    """All that see a record of this logger, in order."""
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


def get_logger(name: str) -> logging.Logger:
    """The logger of that name with the filter installed: what our own packages log through.

    What its children log is made safe too, before any handler but their own sees it, until `logging.config` takes away
    the handlers of a logger that it names: then call this again.
    """
    logger = logging.getLogger(name)
    logger.addFilter(_FILTER)  # which installs it once
    if not any(isinstance(each, _OfChildren) for each in logger.handlers):
        logger.handlers.insert(0, _OfChildren())
    return logger
