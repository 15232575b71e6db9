"""Events as the fields of a log: the same names in every record, whatever happened."""

from typing import Any

from .._events import HostEvent
from .narration import human, pool_of, safe

TAXONOMY = (
    "actor",
    "action",
    "target",
    "pool_id",
    "replica_id",
    "task_id",
    "session_id",
    "correlation_id",
    "attempt",
    "error_kind",
    "retry_after_ms",
    "backoff_ms",
    "duration_ms",
    "decode_time_ms",
    "detail",
    "error_message",
    "mend",
    "words",
    "problems",
    "changes",
    "human",
)
"""All that a record of an event may hold, in this order."""

ACTOR = "adapter-host"

_TEXTS = {
    "detail": ("detail",),
    "error_message": ("message", "error"),  # a log record keeps the name `message` for itself
    "mend": ("mend",),
    "words": ("words", "advice"),
}
"""Whole texts of others, by the names that events have for them: `human` is cut, and the mend stands at the end."""

_LISTS = ("problems", "changes")
_AS_IT_IS = ("replica_id", "task_id", "session_id", "correlation_id", "error_kind")
_SPANS = ("retry_after", "backoff", "duration")


def fields(event: HostEvent) -> dict[str, Any]:
    """The taxonomy's fields of an event, without those it has not. `target` is the engine; `_ms` are milliseconds.

    Texts of others are redacted, in one line and whole, up to the 8 KiB that redaction keeps.
    """
    found = {
        "actor": ACTOR,
        "action": event.__struct_config__.tag,
        "target": getattr(event, "engine", None),
        "pool_id": pool_of(event) or None,
        **{name: getattr(event, name, None) for name in _AS_IT_IS},
        "attempt": getattr(event, "attempt", None) or getattr(event, "attempts", None),
        **{f"{name}_ms": _ms(getattr(event, name, None)) for name in _SPANS},
        "decode_time_ms": getattr(event, "decode_time_ms", None),
        **{name: _text(event, names) for name, names in _TEXTS.items()},
        **{name: [safe(each) for each in getattr(event, name, ())] or None for name in _LISTS},
        "human": human(event),
    }
    return {name: found[name] for name in TAXONOMY if found[name] is not None}


def _text(event: HostEvent, names: tuple[str, ...]) -> str | None:
    """The first of these that the event has, None where that is empty."""
    found: str = next((text for name in names if (text := getattr(event, name, None))), "")
    return safe(found) if found else None


def _ms(seconds: float | None) -> float | None:
    """To the microsecond, which is more than anybody's clock is worth."""
    return None if seconds is None else round(seconds * 1000, 3)
