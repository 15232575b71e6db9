"""What a command of another package has in common with `adapter-host`: options for engines, screen, exit codes.

It needs the extra `[cli]`. A verb of `Verbs` returns an `Exit`, or raises what `Exit` has a code for.
"""

from ._exit import Exit, Interrupted
from ._screen import Screen
from ._source import EMBEDDED, Source, prepared, with_engines, with_json
from ._verbs import Verbs

__all__ = [
    "EMBEDDED",
    "Exit",
    "Interrupted",
    "Screen",
    "Source",
    "Verbs",
    "prepared",
    "with_engines",
    "with_json",
]
