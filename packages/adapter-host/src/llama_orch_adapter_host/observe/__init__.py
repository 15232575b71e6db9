"""Renderings of the host's events: narration and the fields of a log."""

from .capture import Captured, captured, coverage, missing
from .fields import TAXONOMY, fields
from .narration import human, level
from .narrator import Narrator

__all__ = [
    "TAXONOMY",
    "Captured",
    "Narrator",
    "captured",
    "coverage",
    "fields",
    "human",
    "level",
    "missing",
]
