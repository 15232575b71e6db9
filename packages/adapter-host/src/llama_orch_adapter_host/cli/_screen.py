"""What a person sees, or with `--json` a program: answers on stdout, everything else on stderr."""

import sys
from collections.abc import Iterable
from typing import IO, Any, Self

import msgspec
from llama_orch_adapter_api import Progress
from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bars
from rich.table import Table

_WIDE = 200
"""Columns of a table that no terminal shows."""


class Screen:
    """Where output goes, and in which form."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.notes = Console(stderr=True, highlight=False, soft_wrap=True)
        self._tables = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDE)

    def document(self, value: object) -> None:
        """One JSON document, on one line."""
        _write(sys.stdout, msgspec.json.encode(value).decode() + "\n")

    def table(self, columns: tuple[str, ...], rows: Iterable[Iterable[object]]) -> None:
        """Columns without lines between them, as wide as their words."""
        table = Table(*columns, box=None, pad_edge=False, header_style="bold")
        for row in rows:
            table.add_row(*(_plain(str(cell)) for cell in row))
        self._tables.print(table)

    def text(self, words: str) -> None:
        """A piece of an answer, at once. On a terminal, control characters of the model's are left out."""
        _write(sys.stdout, _plain(words) if sys.stdout.isatty() else words)

    def note(self, words: str, style: str = "dim") -> None:
        """A line beside the answer; none with `--json`."""
        if not self.as_json:
            self.notes.print(_plain(words), style=style, markup=False)

    def trouble(self, problems: Iterable[str], code: int) -> None:
        """What went wrong, a line each; with `--json` one document on stdout."""
        if self.as_json:
            self.document({"error": list(problems), "exit_code": code})
            return
        for problem in problems:
            self.notes.print(f"error: {_plain(problem)}", style="red", markup=False)


class Loading:
    """How far a launch has come: a bar on a terminal, else a line whenever another stage begins."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._live = screen.notes.is_terminal and not screen.as_json
        self._stage = ""
        self._bar: TaskID | None = None
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[size]}", markup=False),
            console=screen.notes,
            transient=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bars.stop()

    def show(self, progress: Progress) -> None:
        """Take one report. A stage is what stands before the first comma."""
        stage = progress.what.partition(",")[0]
        begins, self._stage = stage != self._stage, stage
        if self._live:
            self._draw(progress, begins=begins)
        elif begins:
            self._screen.note(stage)

    def _draw(self, progress: Progress, *, begins: bool) -> None:
        if self._bar is None:
            self._bars.start()
        if self._bar is not None and begins:
            self._bars.remove_task(self._bar)
        if self._bar is None or begins:
            self._bar = self._bars.add_task(progress.what, total=progress.total, size="")
        self._bars.update(self._bar, description=progress.what, completed=progress.done or 0, size=_size(progress))


def _size(progress: Progress) -> str:
    if progress.done is None or progress.total is None:
        return ""
    return f"{progress.done / 1e6:.0f} of {progress.total / 1e6:.0f} MB"


def _write(stream: IO[Any], words: str) -> None:
    stream.write(words)
    stream.flush()


def _plain(text: str) -> str:
    """Text that cannot move the cursor or turn the direction of writing."""
    if text.isprintable():
        return text
    return "".join(c for c in text if c.isprintable() or c in "\n\t")
