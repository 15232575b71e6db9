"""Calls that block the event loop, as the interpreter's audit hooks and a profile function see them."""

import gc
import linecache
import socket
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_BLOCKING = (
    "time.sleep",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "urllib.Request",
    "http.client.connect",
    "open",
)
_BLOCKING_CALLS = frozenset({*_BLOCKING, "os.system", "subprocess.Popen", "fcntl.flock", "shutil.copyfile"})
_UNHEARD = frozenset({"sleep", "accept", "recv", "recv_into", "recvfrom", "send", "sendall", "sendto"})
"""Calls without an audit event, `time.sleep` before Python 3.13 among them: they are seen by a profile function."""
_IMPORTING = "<frozen importlib._bootstrap"
_OF_THE_INTERPRETER = (_IMPORTING, linecache.__file__, traceback.__file__)
"""Who reads a file here is importing, or shows the source of a traceback: not what an adapter was written to do."""

_watching: dict[int, list[str]] = {}
_hooked = threading.Lock()
_is_hooked = False


@contextmanager
def watched() -> Iterator[list[str]]:
    """What blocks this thread inside the block. The hook itself stays: Python takes none away.

    Nothing is collected meanwhile: what others left behind would then end in this block, and be taken for its doing.
    """
    global _is_hooked  # noqa: PLW0603  # as the interpreter has it, one for all
    with _hooked:
        if not _is_hooked:
            sys.addaudithook(_audit)
            _is_hooked = True
    me = threading.get_ident()
    seen: list[str] = []
    collects = gc.isenabled()
    gc.disable()
    profile = sys.getprofile()
    _watching[me] = seen
    sys.setprofile(_profile)
    try:
        yield seen
    finally:
        sys.setprofile(profile)
        del _watching[me]
        if collects:
            gc.enable()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    seen = _watching.get(threading.get_ident())
    if seen is not None and (event in _BLOCKING_CALLS or (event == "socket.connect" and _waits(args[0]))):
        _note(seen, event, sys._getframe(1))  # noqa: SLF001  # how the interpreter shows who called


def _profile(frame: FrameType, event: str, called: Any) -> None:  # noqa: ANN401  # a function, of events of calls
    seen = _watching.get(threading.get_ident())
    if seen is not None and event == "c_call" and called.__name__ in _UNHEARD and _is_unheard(called):
        _note(seen, f"{called.__module__ or 'socket'}.{called.__name__}", frame)


def _is_unheard(called: Any) -> bool:  # noqa: ANN401  # as above
    if called.__name__ == "sleep":
        return bool(called.__module__ == "time")
    return isinstance(called.__self__, socket.SocketType) and _waits(called.__self__)


def _note(seen: list[str], event: str, caller: FrameType) -> None:
    frames = list(_frames(caller))
    if not any(frame.f_code.co_filename.startswith(_OF_THE_INTERPRETER) for frame in frames):
        where = next((frame for frame in frames if "asyncio" not in frame.f_code.co_filename), frames[0])
        seen.append(f"{event} in {where.f_code.co_qualname} ({where.f_globals.get('__name__')}:{where.f_lineno})")


def _waits(sock: Any) -> bool:  # noqa: ANN401  # a socket
    return bool(sock.gettimeout() != 0)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
