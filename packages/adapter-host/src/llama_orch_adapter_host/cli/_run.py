"""Runs a command's coroutine and turns whatever ends it into one sentence and one exit code."""

import asyncio
import os
import sys
from collections.abc import Coroutine
from typing import Any, NoReturn

from .._config import ConfigError
from ._exit import EXPECTED, Exit, code_of
from ._screen import Screen


def run(work: Coroutine[Any, Any, Exit], screen: Screen) -> NoReturn:
    """Run to the end and exit. Ctrl-C cancels the work, which cleans up; then the code is 130."""
    try:
        code = asyncio.run(work)
    except KeyboardInterrupt:
        code = Exit.INTERRUPTED
    except BrokenPipeError:
        # whoever read our output has gone; stdout must not be flushed again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.FAILED
    except EXPECTED as error:
        code = code_of(error)
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        screen.trouble(problems, code)
    sys.exit(code)
