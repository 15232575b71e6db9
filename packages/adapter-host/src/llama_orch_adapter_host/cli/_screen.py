"""What a person sees, or with `--json` a program: answers on stdout, everything else on stderr."""

import os
import sys
import unicodedata
from collections.abc import Iterable
from typing import IO, TYPE_CHECKING, Any, Self

import click
import msgspec
from llama_orch_adapter_api import Progress

from ._exit import Exit, Failure

if TYPE_CHECKING:
    from ._bar import Bar

_UNSEEN = frozenset(("Cc", "Cs", "Cn", "Co", "Zl", "Zp"))
"""Categories of control characters, surrogates, code points without a meaning of their own, and separators of lines."""

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""The characters that turn the direction of writing."""


class Screen:
    """Where output goes, and in which form."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self._channel = "content"
        self._mid_line = False

    def document(self, value: object) -> None:
        """One JSON document, on one line, in UTF-8 whatever the terminal's encoding."""
        sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")
        sys.stdout.buffer.flush()

    def table(self, columns: tuple[str, ...], rows: Iterable[Iterable[object]]) -> None:
        """Columns without lines between them, as wide as their words."""
        from ._table import table  # noqa: PLC0415  # rich takes longer to import than all else

        _write(sys.stdout, table(columns, [[_plain(str(cell)) for cell in row] for row in rows]))

    def piece(self, words: str, channel: str = "content") -> None:
        """A piece of an answer, at once: content on stdout, any other on stderr. Another channel begins a line."""
        if channel != self._channel:
            self.end_line()
            self._channel = channel
        if channel == "content":
            _write(sys.stdout, _plain(words) if sys.stdout.isatty() else words)
        else:
            _write(sys.stderr, _styled(words, dim=True, italic=True))
        self._mid_line = not words.endswith("\n")

    def end_line(self) -> None:
        """What follows begins a line of its own."""
        if self._mid_line:
            self._mid_line = False
            _write(sys.stdout if self._channel == "content" else sys.stderr, "\n")

    def note(self, words: str) -> None:
        """A line beside the answer; none with `--json`."""
        if not self.as_json:
            self.end_line()
            _write(sys.stderr, _styled(words, dim=True) + "\n")

    def trouble(self, failure: Failure) -> None:
        """Why the command failed; with `--json` one document on stdout."""
        if self.as_json:
            self.document(failure)
        elif failure.exit_code == Exit.INTERRUPTED:
            self.note(failure.message)
        else:
            self.end_line()
            for problem in failure.message.splitlines():
                _write(sys.stderr, _styled(f"error: {problem}", fg="red") + "\n")


class Loading:
    """How far a launch has come: a bar on a terminal, else a line whenever another stage begins."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._bar: Bar | None = None
        self.stage = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, progress: Progress) -> None:
        """Take one report. A stage is what stands before the first comma."""
        stage = progress.what.partition(",")[0]
        begins, self.stage = stage != self.stage, stage
        if self._screen.as_json:
            return
        if sys.stderr.isatty():
            self._draw(progress, begins=begins)
        elif begins:
            self._screen.note(stage)

    def _draw(self, progress: Progress, *, begins: bool) -> None:
        if self._bar is None:
            from ._bar import Bar  # noqa: PLC0415  # as above

            self._bar = Bar()
        self._bar.draw(_plain(progress.what), progress.done, progress.total, begins=begins)


def _write(stream: IO[Any], words: str) -> None:
    stream.write(words)
    stream.flush()


def _styled(words: str, **style: Any) -> str:
    """Words for stderr that are harmless on a terminal, and styled on one that wants it."""
    words = _plain(words)
    if not sys.stderr.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return words
    return click.style(words, **style)


def _plain(text: str) -> str:
    """Text that cannot move the cursor or turn the direction of writing; all that is writing stays."""
    if text.isprintable():
        return text
    return "".join(c for c in text if c in "\n\t" or (unicodedata.category(c) not in _UNSEEN and c not in _BIDI))
