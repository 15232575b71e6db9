"""Renderings of the host's events: narration, logs, metrics, spans. What needs a library imports it when first used."""

from importlib import import_module
from typing import TYPE_CHECKING

from .capture import Captured, captured, coverage, missing
from .fields import TAXONOMY, fields
from .narration import human, level
from .narrator import Narrator

if TYPE_CHECKING:
    from .logs import JsonFormatter, Logs, json_logging, text_logging
    from .metrics import Metrics
    from .tracing import Tracing

__all__ = [
    "TAXONOMY",
    "Captured",
    "JsonFormatter",
    "Logs",
    "Metrics",
    "Narrator",
    "Tracing",
    "captured",
    "coverage",
    "fields",
    "human",
    "json_logging",
    "level",
    "missing",
    "text_logging",
]

_ROOMS = {
    "JsonFormatter": "logs",
    "Logs": "logs",
    "Metrics": "metrics",
    "Tracing": "tracing",
    "json_logging": "logs",
    "text_logging": "logs",
}


def __getattr__(name: str) -> object:
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f".{_ROOMS[name]}", __name__), name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise ModuleNotFoundError(
            f"{name} needs opentelemetry-api; run: pip install 'llama-orch-adapter-host[otel]'", name=error.name
        ) from error
