"""Logging that tells no secret and forges no line: a filter, installed on every logger of ours."""

import logging
import traceback
from collections.abc import Mapping
from typing import Any

from ._redact import one_line, redact


class RedactingFilter(logging.Filter):
    """Makes a record safe before any handler sees it: one line, no secret, in message, arguments, extras and traceback.

    The record keeps its facts as redacted text; arguments are merged into the message.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record pass, changed."""
        record.msg = one_line(redact(_message(record)))
        record.args = None
        if record.exc_info:
            record.exc_text = _trace(record.exc_info[1])
            record.exc_info = None
        elif record.exc_text:
            record.exc_text = one_line(redact(record.exc_text, keep_end=True))
        if record.stack_info:
            record.stack_info = one_line(redact(record.stack_info, keep_end=True))
        for name in record.__dict__.keys() - _OWN:
            record.__dict__[name] = _redacted(record.__dict__[name])
        return True


_OWN = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
"""What every record has; all else was given as `extra`."""


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001  # a wrong format string must not take the caller down
        return f"a log message could not be formatted ({type(error).__name__})"


def _trace(error: BaseException | None) -> str:
    """A traceback on one line. Of a long one the end is kept, where the error is."""
    return one_line(redact("".join(traceback.format_exception(error)), keep_end=True))


def _redacted(value: Any, depth: int = 0) -> Any:  # noqa: ANN401  # extras are whatever the caller gave
    match value:
        case bool() | int() | float() | None:
            return value
        case str():
            return one_line(redact(value))
        case Mapping() if depth < _DEEPEST:
            return {one_line(redact(str(name))): _redacted(inner, depth + 1) for name, inner in value.items()}
        case list() | tuple() | set() | frozenset() if depth < _DEEPEST:
            return [_redacted(inner, depth + 1) for inner in value]
        case _:
            return one_line(redact(repr(value)))


_DEEPEST = 4
"""Levels of an extra that are kept as they are; what lies deeper becomes text."""


def get_logger(name: str) -> logging.Logger:
    """The logger of that name with the filter installed: what our own packages log through."""
    logger = logging.getLogger(name)
    if not any(isinstance(each, RedactingFilter) for each in logger.filters):
        logger.addFilter(RedactingFilter())
    return logger
