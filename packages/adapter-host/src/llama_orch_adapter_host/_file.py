"""The file that a host's config comes from, and a watch over it."""

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncGenerator, Callable
from importlib.util import find_spec
from pathlib import Path

from llama_orch_adapter_api import get_logger

from ._config import HostConfig, read_config
from ._guard import told
from ._triggers import Errand

logger = get_logger(__name__)

_QUIET = 100
"""Milliseconds without a further change after which the file is looked at; many changes in a row are one."""

_LOOK = 2.0
"""Seconds after which it is looked at anyway: not every file system tells of changes, nor of every link on the way."""


class ConfigFile:
    """Knows what the file held when it was last read. All of it reads files: not for the event loop."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._read: bytes | None = None  # a digest

    def read(self) -> HostConfig:
        """What it says. Raises `ConfigError`."""
        self._read = self.content()  # before: what is written meanwhile is read twice rather than never
        return read_config(self.path)

    def content(self) -> bytes | None:
        """A digest of what it holds now; None while it is not there."""
        try:
            return hashlib.sha256(self.path.read_bytes()).digest()
        except OSError:
            return None

    def news(self) -> bytes | None:
        """The digest of what it holds now if that was not read yet."""
        content = self.content()
        return None if content == self._read else content

    def folders(self) -> frozenset[Path]:
        """Where a change of it shows: beside its name, and beside the file that its name leads to."""
        places = (self.path.absolute().parent, self.path.resolve().parent)
        return frozenset(folder for folder in places if folder.is_dir())


def on_change(file: ConfigFile, pull: Callable[[], None], errand: Errand) -> Callable[[], object]:
    """Pull whenever the file has news, in an errand; call what is returned to end that.

    Raises `RuntimeError` without watchfiles.
    """
    if find_spec("watchfiles") is None:
        raise RuntimeError(
            "watching a file needs watchfiles; pip install llama-orch-adapter-host[watch], or call host.reload()"
        )
    return errand(_watch(file, pull)).cancel


async def _watch(file: ConfigFile, pull: Callable[[], None]) -> None:
    """Pull at each change of what the file holds, be it written, replaced, or a link to it led elsewhere.

    Where its changes are not told, for whatever reason, it is looked at all the same.
    """
    seen: bytes | None = None
    warned = False

    async def look() -> None:
        nonlocal seen
        before, seen = seen, await asyncio.to_thread(file.news)
        if seen is not None and seen != before:
            pull()

    while True:
        try:
            await look()
            folders = await asyncio.to_thread(file.folders)
            async with contextlib.aclosing(await asyncio.to_thread(_changes, folders)) as changes:
                async for _ in changes:
                    warned = False
                    await look()
                    if await asyncio.to_thread(file.folders) != folders:
                        break  # a link leads elsewhere: watch that
        except Exception as error:  # noqa: BLE001  # watchfiles has errors of its own, and a watch may not end unseen
            if not warned:
                logger.warning(
                    "%s cannot be watched: %s · it is looked at every %g s instead; "
                    "where no watches are left, raise fs.inotify.max_user_instances or max_user_watches",
                    file.path,
                    told(error),
                    _LOOK,
                )
            warned = True
            await asyncio.sleep(_LOOK)


def _changes(folders: frozenset[Path]) -> AsyncGenerator[object, None]:
    from watchfiles import awatch  # noqa: PLC0415  # an extra, and slow to import

    return awatch(
        *folders,
        watch_filter=None,
        step=_QUIET,
        rust_timeout=int(_LOOK * 1000),
        yield_on_timeout=True,
        recursive=False,
    )
