"""Renderings of the host's events: narration, logs, metrics, spans. What needs a library imports it when first used."""

from importlib import import_module
from typing import TYPE_CHECKING

from .capture import Captured, captured, coverage, missing
from .fields import TAXONOMY, fields
from .narration import human, level
from .narrator import Narrator

if TYPE_CHECKING:
    from .logs import JsonFormatter, JsonLogs, json_logging
    from .metrics import Metrics

__all__ = [
    "TAXONOMY",
    "Captured",
    "JsonFormatter",
    "JsonLogs",
    "Metrics",
    "Narrator",
    "captured",
    "coverage",
    "fields",
    "human",
    "json_logging",
    "level",
    "missing",
]

_ROOMS = {
    "JsonFormatter": "logs",
    "JsonLogs": "logs",
    "Metrics": "metrics",
    "json_logging": "logs",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
