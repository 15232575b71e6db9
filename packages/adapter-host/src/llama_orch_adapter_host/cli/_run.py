"""The net under every verb: whatever ends it becomes one sentence and one exit code."""

import contextlib
import io
import os
import pathlib
import sys
from collections.abc import Callable

import click

from ._exit import EXPECTED, Exit, Failure, Interrupted, OutputError, code_of
from ._screen import Screen


def ended(command: Callable[[], int], screen: Screen) -> int:
    """Run the command and give its exit code; why it failed is told."""
    sys.stdout = sys.stdout or pathlib.Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # closed by the shell: >&-
    sys.stderr = sys.stderr or pathlib.Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer may hold what a terminal's encoding does not
    try:
        return _told(command, screen)
    except OSError as error:
        # stdout must not be flushed again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        with contextlib.suppress(OSError):
            Screen(as_json=False).trouble(Failure.of(OutputError(f"reading or writing failed: {error}")))
        return Exit.FAILED


def _told(command: Callable[[], int], screen: Screen) -> int:
    try:
        return command()
    except (KeyboardInterrupt, click.Abort):
        failure = Failure.of(Interrupted("cancelled"))
    except EXPECTED as error:
        failure = Failure.of(error)
        if isinstance(error, click.UsageError) and not screen.as_json:
            error.show()
            return code_of(error)
    screen.trouble(failure)
    return failure.exit_code
