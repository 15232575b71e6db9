"""Logs as JSON or for people: one record, one line, written by a thread, so that a slow stream holds nobody."""

import copy
import logging
import logging.handlers
import queue
import sys
import threading
from types import TracebackType
from typing import Self, TextIO

from llama_orch_adapter_api import RedactingFilter
from pythonjsonlogger.core import LogData
from pythonjsonlogger.msgspec import MsgspecFormatter

from .fields import ACTOR, TAXONOMY
from .narrator import LOGGER

MOST = 10_000
"""Records that wait to be written; what comes on top is dropped."""

PATIENCE = 2.0
"""Seconds that the end waits for the stream to take what still waits."""

_FILTER = RedactingFilter()

_ORDER = ("timestamp", "level", "logger", *TAXONOMY)


class JsonFormatter(MsgspecFormatter):
    """One JSON object a record: `timestamp` (UTC), `level`, `logger`, `human` (the message), and the record's extras.

    It redacts, whoever logged. In a `dictConfig`: `{"()": "llama_orch_adapter_host.observe.JsonFormatter"}`.
    """

    def __init__(self) -> None:
        names = {"levelname": "level", "name": "logger", "message": "human"}
        super().__init__(tuple(names), rename_fields=names, timestamp=True)

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        return super().format(_safe(record))

    def process_log_record(self, log_data: LogData) -> LogData:
        """The fields in an order for reading: when, how loud, who, the taxonomy, and all else."""
        first = {name: log_data.pop(name) for name in _ORDER if name in log_data}
        return first | log_data


def json_logging(
    stream: TextIO | None = None, level: int | str = logging.INFO, *, logger: str = "", most: int = MOST
) -> "Logs":
    """Write what is logged from now on to `stream` (None: stderr) as JSON lines; use it as a context manager.

    `logger` is the one whose records and whose children's are written, "" for all; its level becomes `level` until the
    end. Logging waits for nothing: what the stream does not take waits in memory, `most` records at most. What comes on
    top is dropped and counted, and the count is told in the stream as soon as it takes something again. Enter it
    outside of the event loop, around `asyncio.run`: its end waits, for 2 s at most, until all is written.
    """
    return Logs(JsonFormatter(), stream or sys.stderr, level, logging.getLogger(logger), most)


def text_logging(
    stream: TextIO | None = None, level: int | str = logging.INFO, *, logger: str = "", most: int = MOST
) -> "Logs":
    """As `json_logging`, for people: the time of day, the level from WARNING up, and the message."""
    return Logs(_TextFormatter(), stream or sys.stderr, level, logging.getLogger(logger), most)


class _TextFormatter(logging.Formatter):
    """A line for a person."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(mark)s%(message)s", "%H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        record.mark = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
        return super().format(record)


class Logs:
    """Logs that are being written; `dropped` counts the records that were not, for whichever reason."""

    def __init__(
        self, formatter: logging.Formatter, stream: TextIO, level: int | str, logger: logging.Logger, most: int
    ) -> None:
        self._logger = logger
        self._was = logger.level
        logger.setLevel(level)  # first: it may raise
        self._handler = _Handler(most)
        self._writer = _Writer(self._handler, stream, formatter)
        self._writer.start()
        logger.addHandler(self._handler)

    @property
    def dropped(self) -> int:
        """Records that were not written: too many waited, or the stream raised."""
        return self._handler.dropped + self._writer.failed

    def close(self) -> None:
        """End it: write what waits, as far as the stream takes it within 2 s. A second call does nothing."""
        if self._handler in self._logger.handlers:
            self._logger.removeHandler(self._handler)
            self._logger.setLevel(self._was)
            self._writer.stop()
            self._handler.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _safe(record: logging.LogRecord) -> logging.LogRecord:
    """A copy without secrets, and without anything that may change later; other handlers keep theirs.

    What came through a logger of ours is so already, and to do it again is what costs most.
    """
    record = copy.copy(record)
    if not any(isinstance(each, RedactingFilter) for each in logging.getLogger(record.name).filters):
        _FILTER.filter(record)
    return record


_Queue = queue.SimpleQueue[logging.LogRecord | None]
"""Putting into it never waits, not even for a lock; so its bound is kept by looking at its size."""


class _Handler(logging.handlers.QueueHandler):
    """Puts records into a queue, or counts them where it is full."""

    queue: _Queue

    def __init__(self, most: int) -> None:
        super().__init__(_Queue())
        self._most = most
        self.dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        """Redacted here, where its arguments are still what they were when it was logged."""
        return _safe(record)

    def emit(self, record: logging.LogRecord) -> None:
        """Nothing is spent on a record that will be dropped."""
        if self.queue.qsize() < self._most:
            super().emit(record)
        else:
            self.dropped += 1  # under the handler's lock


class _Writer(logging.handlers.QueueListener):
    """The thread that writes to the stream, and tells there how much was dropped; `failed` counts what it did not take.

    It has no `StreamHandler`: those are flushed when the interpreter ends, which would wait for ever for a stream that
    takes nothing.
    """

    _thread: threading.Thread | None

    def __init__(self, handler: _Handler, stream: TextIO, formatter: logging.Formatter) -> None:
        super().__init__(handler.queue)
        self._handler = handler
        self._stream = stream
        self._formatter = formatter
        self._told = 0
        self.failed = 0

    def handle(self, record: logging.LogRecord) -> None:
        """Write it, then what is to be told."""
        if not self._write(record):
            self.failed += 1
        self._tell()

    def stop(self) -> None:
        """Wait for the thread, but not for ever: it may be stuck in the stream, and is left there then."""
        self.enqueue_sentinel()
        assert self._thread is not None  # noqa: S101  # `Logs` started it, and stops it once
        self._thread.join(PATIENCE)
        if not self._thread.is_alive():
            self._tell()
        self._thread = None

    def _tell(self) -> None:
        dropped = self._handler.dropped + self.failed
        if dropped > self._told and self._write(_notice(dropped - self._told)):
            self._told = dropped

    def _write(self, record: logging.LogRecord) -> bool:
        """Whether the stream took it."""
        try:
            self._stream.write(self._formatter.format(record) + "\n")
            self._stream.flush()
        except Exception:  # noqa: BLE001  # a closed pipe, a full disk: where to tell it, if not there
            return False
        return True


def _notice(dropped: int) -> logging.LogRecord:
    facts = {"name": LOGGER, "levelno": logging.WARNING, "levelname": "WARNING", "actor": ACTOR}
    words = f"the log drops {dropped} record{'' if dropped == 1 else 's'} that the stream does not take"
    return logging.makeLogRecord({**facts, "msg": words})
