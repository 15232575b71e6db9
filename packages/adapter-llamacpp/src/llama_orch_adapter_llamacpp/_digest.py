"""The digest of a model's file: computed off the event loop, once for each state of the file."""

import asyncio
import hashlib
import stat
import threading
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

PATIENCE = 1.0
"""Seconds that a look at the engine waits for a digest; one that takes longer is in a later look."""

_CHUNK = 1 << 20

_known: dict[tuple[str, int, int], str] = {}
"""By path, time of change in ns, and size."""

_one_at_a_time = threading.Lock()
"""Replicas often share a file: whoever waits finds its digest known."""


class Digests:
    """Of the model files that one engine names. Only those of an engine on this machine are files of ours.

    `aclose` ends a computation that still runs.
    """

    def __init__(self, url: str) -> None:
        self._near = _is_loopback(urlsplit(url).hostname or "")
        self._computing: dict[str, asyncio.Task[str | None]] = {}
        self._stop = threading.Event()

    async def of(self, path: str) -> str | None:
        """`sha256:<hex>`; None where the file is no GGUF that can be read here, or its digest not known yet."""
        if not self._near or not path:
            return None
        computing = self._computing.get(path)
        if computing is None:
            computing = asyncio.ensure_future(asyncio.to_thread(digest_of, Path(path), self._stop))
            self._computing[path] = computing
            computing.add_done_callback(lambda _: self._computing.pop(path, None))
        done, _ = await asyncio.wait([computing], timeout=PATIENCE)
        return computing.result() if done else None

    async def aclose(self) -> None:
        """Return when nothing is computed any more."""
        self._stop.set()
        if self._computing:
            await asyncio.wait(list(self._computing.values()))


def digest_of(path: Path, stop: threading.Event) -> str | None:
    """The digest of a GGUF file; None where there is no such file to read, or it was stopped."""
    try:
        about = path.stat()
        key = str(path), about.st_mtime_ns, about.st_size
        if stat.S_ISREG(about.st_mode) and key not in _known:
            _compute(path, key, stop)
    except (OSError, ValueError):  # a name with a NUL in it is none
        return None
    return _known.get(key)


def _compute(path: Path, key: tuple[str, int, int], stop: threading.Event) -> None:
    while not _one_at_a_time.acquire(timeout=0.05):
        if stop.is_set():
            return
    try:
        whole = None if key in _known else _sha256(path, stop)
        if whole is not None:
            _known[key] = f"sha256:{whole}"
    finally:
        _one_at_a_time.release()


def _sha256(path: Path, stop: threading.Event) -> str | None:
    """Of what is not secret: the name came from the engine, and only a model's digest may leave."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        chunk = file.read(_CHUNK)
        if not chunk.startswith(b"GGUF"):
            return None
        while chunk:
            if stop.is_set():
                return None
            digest.update(chunk)
            chunk = file.read(_CHUNK)
    return digest.hexdigest()


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
