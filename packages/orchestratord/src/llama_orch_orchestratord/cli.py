"""The command `orchestratord`, from its first line on."""

import contextlib
import signal
import sys
from collections.abc import Iterator


def main() -> None:
    """Run the command and exit with one of the codes of docs/exit-codes.md, also where Ctrl-C comes while it loads."""
    try:
        with held():
            from ._command import main as command  # noqa: PLC0415  # half a second, in which Ctrl-C may come
    except KeyboardInterrupt:
        sys.exit(130)
    command()


@contextlib.contextmanager
def held() -> Iterator[None]:
    """Ctrl-C within the block is heard at its end: what is being imported may swallow a `KeyboardInterrupt`."""
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # it is ignored, as behind nohup, or somebody else's
        yield
        return
    came: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if came:
        raise KeyboardInterrupt
