"""A table, drawn with rich; imported when there is one to draw."""

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

_WIDE = 200
"""Columns of a table that no terminal shows."""


def table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Columns as wide as their words; a cell is shown as it is, whatever markup it may look like."""
    drawn = Table(*columns, box=None, pad_edge=False, header_style="bold")
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)
    with console.capture() as capture:
        console.print(drawn)
    return capture.get()
