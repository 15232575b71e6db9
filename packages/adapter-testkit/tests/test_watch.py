"""What counts as blocking the event loop, and what is only the interpreter's own business."""

import gc
import linecache
import os
import socket
import traceback
from pathlib import Path
from time import sleep

from llama_orch_adapter_testkit.conformance._watch import watched


class Careless:
    """Reads a file when it is collected, as a finalizer that says what was left open does."""

    def __init__(self) -> None:
        self.itself = self

    def __del__(self) -> None:
        Path(os.devnull).open("rb").close()


def test_a_blocking_call_is_named():
    """What blocks is told with who called it and where; also where Python has no audit event for it."""
    one, other = socket.socketpair()
    with one, other, watched() as seen:
        Path(os.devnull).open("rb").close()
        sleep(0)
        one.send(b"a")
        other.recv(1)
        other.setblocking(False)
        other.send(b"b")

    assert {each.partition(" in ")[0] for each in seen} == {"open", "time.sleep", "socket.send", "socket.recv"}
    assert f"time.sleep in {test_a_blocking_call_is_named.__name__} ({__name__}:" in str(seen)
    assert len([each for each in seen if each.startswith("socket.")]) == 2


def test_a_traceback_that_is_shown_blocks_nobody():
    """The interpreter reads sources for it: of a task that failed unseen, say, whenever that is collected."""
    linecache.clearcache()
    with watched() as seen:
        try:
            raise OSError("no such luck")
        except OSError:
            shown = traceback.format_exc()

    assert 'raise OSError("no such luck")' in shown
    assert seen == []


def test_what_lies_about_is_left_there():
    """What others left behind is not collected while somebody is watched: he would be blamed for it."""
    thresholds = gc.get_threshold()
    Careless()
    try:
        with watched() as seen:
            gc.set_threshold(1)
            more = [[number] for number in range(100)]
    finally:
        gc.set_threshold(*thresholds)

    assert len(more) == 100
    assert seen == []
    assert gc.isenabled()
