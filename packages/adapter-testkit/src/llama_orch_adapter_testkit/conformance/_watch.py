"""Calls that block the event loop, as the interpreter's audit hooks see them."""

import sys
import threading
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
_IMPORTING = "<frozen importlib._bootstrap"

_watching: dict[int, list[str]] = {}
_hooked = threading.Lock()
_is_hooked = False


@contextmanager
def watched() -> Iterator[list[str]]:
    """What blocks this thread inside the block. The hook itself stays: Python takes none away."""
    global _is_hooked  # noqa: PLW0603  # as the interpreter has it, one for all
    with _hooked:
        if not _is_hooked:
            sys.addaudithook(_audit)
            _is_hooked = True
    me = threading.get_ident()
    seen: list[str] = []
    _watching[me] = seen
    try:
        yield seen
    finally:
        del _watching[me]


def _audit(event: str, args: tuple[Any, ...]) -> None:
    seen = _watching.get(threading.get_ident())
    if seen is None or not (event in _BLOCKING_CALLS or (event == "socket.connect" and _waits(args[0]))):
        return
    frames = list(_frames(sys._getframe(1)))  # noqa: SLF001  # how the interpreter shows who called
    if not any(frame.f_code.co_filename.startswith(_IMPORTING) for frame in frames):
        where = next((frame for frame in frames if "asyncio" not in frame.f_code.co_filename), frames[0])
        seen.append(f"{event} in {where.f_code.co_qualname} ({where.f_globals.get('__name__')}:{where.f_lineno})")


def _waits(sock: Any) -> bool:  # noqa: ANN401  # a socket
    return bool(sock.gettimeout() != 0)


def _frames(frame: FrameType | None) -> Iterator[FrameType]:
    while frame is not None:
        yield frame
        frame = frame.f_back
