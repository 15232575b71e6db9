"""A group of verbs whose every ending is told in one form."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any, NoReturn

import click

from ._exit import Interrupted
from ._run import ended
from ._screen import Screen


class Verbs(click.Group):
    """A group whose every ending is told in one form; each verb gives its exit code and finds its screen in `obj`."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run a verb and exit. A command line that cannot be read is told in JSON where `--json` stands in it."""
        words = sys.argv[1:] if args is None else list(args)
        options = words[: words.index("--")] if "--" in words else words
        screen = Screen(as_json="--json" in options)
        command = partial(super().main, args, *rest, **{**extra, "standalone_mode": False, "obj": screen})
        sys.exit(ended(command, screen))

    def invoke(self, ctx: click.Context) -> Any:
        """Run a verb. Ctrl-C is told in JSON alone, where click would end the line on the terminal first."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            if not ctx.obj.as_json:
                raise
            raise Interrupted("cancelled") from None
