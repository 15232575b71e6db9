"""`adapter-host new-adapter`: the package of an adapter that is still to be written."""

import shlex
import shutil
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath

import click

from .._plugins import Plugins
from ._exit import Exit, NotWrittenError, TakenError
from ._scaffold import Like, Names, Stream, parts, rendered
from ._screen import Screen
from ._source import with_json

_OURS = frozenset(("api", "host", "testkit", "llamacpp", "openai", "vllm"))
"""Names that make packages of this project."""


@click.command()
@click.argument("name")
@click.option("--into", type=click.Path(path_type=Path), help="The new folder; ./adapter-NAME if left out.")
@click.option(
    "--like",
    type=click.Choice(["own", "openai"]),
    default="own",
    show_default=True,
    help="Whose dialect the engine speaks: its own, or OpenAI's.",
)
@click.option(
    "--stream",
    type=click.Choice(["sse", "ndjson"]),
    help="How an engine with a dialect of its own streams: event streams, as if left out, or a JSON document a line.",
)
@with_json
@click.pass_obj
def new_adapter(screen: Screen, /, name: str, into: Path | None, like: Like, stream: Stream | None) -> Exit:
    """Write a package with an adapter for the engine NAME, in which what the engine says is to be filled in.

    It installs and is found as it is; its tests say which parts are missing.
    """
    if stream and like == "openai":
        raise click.UsageError("--stream is for --like own; OpenAI's dialect streams in one way, leave --stream out")
    names = _free(name)
    folder = into or Path(names.folder)
    package = rendered(names, shlex.quote(str(folder)), like, stream or "sse")
    _write(folder, package)
    _tell(screen, names, folder, package)
    return Exit.OK


def _free(name: str) -> Names:
    """The names of the new package. Raises `UsageError` where they are none, `TakenError` where somebody has them."""
    try:
        names = Names.of(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    owner = next((plugin.origin for plugin in Plugins().scan() if plugin.name == name), None)
    owner = owner or (names.distribution if _installed(names.distribution) else None)
    if owner is not None:
        raise TakenError(f"{name!r} is taken by {owner}; give another name, such as my-{name}, or uninstall that")
    if name in _OURS:
        raise TakenError(f"{name!r} is a package of this project; give another name, such as my-{name}")
    return names


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True


def _write(folder: Path, package: Mapping[PurePosixPath, str]) -> None:
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise TakenError(f"{folder} is there already; remove it, or give another folder with --into DIR") from None
    except OSError as error:
        raise NotWrittenError(_unwritten(folder, error)) from None
    try:
        for path, text in package.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)  # it was not there before
        raise NotWrittenError(_unwritten(folder, error)) from None


def _unwritten(folder: Path, error: OSError) -> str:
    return f"{folder} cannot be written: {error.strerror}; give a folder that can, with --into DIR"


def _tell(screen: Screen, names: Names, folder: Path, package: Mapping[PurePosixPath, str]) -> None:
    missing = parts(package)
    if screen.as_json:
        screen.document(
            {
                "engine": names.engine,
                "distribution": names.distribution,
                "folder": str(folder),
                "files": [str(path) for path in package],
                "parts": [{"file": str(path), "function": part} for path, part in missing],
            }
        )
        return
    [file] = {str(path) for path, _ in missing}
    screen.piece(
        f"{folder} is written: {len(package)} files. To be filled in, in {file}: "
        f"{', '.join(f'{part}()' for _, part in missing)}\n"
        f"\n"
        f"  cd {shlex.quote(str(folder))}\n"
        f"  pip install -e . --group dev\n"
        f"  adapter-host plugins          # lists {names.engine}\n"
        f"  pytest -x                     # names the first part that is missing\n"
        f"\n"
        f"README.md there says the rest.\n"
    )
