"""How a body is cut into events, by its content type."""

from typing import Protocol

from ._config import HttpConfig
from ._ndjson import NDJSONDecoder
from ._sse import SSEDecoder

_NDJSON = frozenset(
    f"application/{name}" for name in ("x-ndjson", "ndjson", "jsonl", "x-jsonl", "jsonlines", "x-jsonlines")
)
"""The names in use."""


class Framing(Protocol):
    """Where one event ends and the next one begins."""

    @property
    def pending(self) -> int:
        """Bytes that wait for the rest of their event."""

    def feed_data(self, chunk: bytes) -> list[memoryview]:
        """The data of the events that `chunk` completes. Raises FrameTooLarge."""

    def finish(self) -> list[memoryview]:
        """That of the event that the end of the body completes, if it does."""


def framing_of(content_type: str, config: HttpConfig) -> Framing | None:
    """None for a type that is no stream."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "text/event-stream":
        return _ServerSentEvents(max_line=config.max_line, max_event=config.max_event)
    return _Lines(max_line=config.max_line) if kind in _NDJSON else None


class _ServerSentEvents(SSEDecoder):
    def finish(self) -> list[memoryview]:
        return []  # without its empty line an event is none, says WHATWG


class _Lines(NDJSONDecoder):
    def feed_data(self, chunk: bytes) -> list[memoryview]:
        return self.feed(chunk)
