"""Server-sent events: what is written of a task's events (WHATWG, "text/event-stream"). Pure."""

import msgspec
from llama_orch_adapter_api import End, Error, Metrics, Started, Token, TokenEvent, WireEvent, WorkerError

HEARTBEAT = b":\n\n"
"""A comment: readers drop it, and proxies see that the stream lives."""

_encode = msgspec.json.Encoder().encode

_HEADS: dict[type, bytes] = {
    Started: b"started",
    Token: b"token",
    Metrics: b"metrics",
    End: b"end",
    Error: b"error",
}


def frame(number: int, event: WireEvent) -> bytes:
    """One event of a task, its `number` as the id; JSON has no line breaks of its own."""
    return b"event: %b\nid: %d\ndata: %b\n\n" % (_HEADS[type(event)], number, _encode(event))


class Frames:
    """The form of `/v1/tasks`: every event as it is."""

    def event(self, number: int, event: TokenEvent) -> bytes:
        """One event of a task."""
        return frame(number, event)

    def failure(self, number: int, error: WorkerError) -> bytes:
        """The last one of a task that failed."""
        return frame(number, Error.of(error))


FRAMES = Frames()


def narration(sentence: str) -> bytes:
    """One line for people. It has no id: it is none of the task's events."""
    return b"event: narration\ndata: %b\n\n" % _encode({"human": sentence})
