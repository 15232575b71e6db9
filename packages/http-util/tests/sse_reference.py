"""The WHATWG event-stream rules over a whole body at once: slow, plain, and built unlike the decoder it judges.

https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation

Text is decoded with `surrogateescape`, so that any bytes come through and `data` can be given back as it came.
"""

import re
from typing import NamedTuple

_FIELD = re.compile(r"^([^:\n]+)(?::[ ]?(.*))?$", re.MULTILINE)
_RETRY = re.compile(r"[0-9]{1,15}")
"""The one departure: the standard sets no end to the digits."""


class Event(NamedTuple):
    data: bytes
    event: str
    id: str


class Parsed(NamedTuple):
    events: list[Event]
    retry_ms: int | None


def parse(body: bytes) -> Parsed:
    text = body.decode("utf-8", "surrogateescape").removeprefix("\ufeff")
    text = re.sub("\r\n|\r", "\n", text)
    lines_that_ended = text[: text.rfind("\n") + 1]
    retries = [value for name, value in _fields(lines_that_ended) if name == "retry" and _RETRY.fullmatch(value)]
    events = []
    last_id = ""
    for block in text.split("\n\n")[:-1]:
        fields = _fields(block)
        ids = [value for name, value in fields if name == "id" and "\0" not in value]
        last_id = ids[-1] if ids else last_id
        data = [value for name, value in fields if name == "data"]
        kinds = [value for name, value in fields if name == "event"]
        if data:
            kind = kinds[-1] if kinds else ""
            events.append(Event(_raw("\n".join(data)), _shown(kind) or "message", _shown(last_id)))
    return Parsed(events, int(retries[-1]) if retries else None)


def _fields(block: str) -> list[tuple[str, str]]:
    return [(name, value or "") for name, value in _FIELD.findall(block)]


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


def _shown(text: str) -> str:
    return _raw(text).decode("utf-8", "replace")
