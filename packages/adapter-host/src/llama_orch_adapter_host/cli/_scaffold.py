"""The package that `new-adapter` writes: its names, and its files from the templates beside this room."""

import re
from collections.abc import Iterator, Mapping
from importlib.resources import files
from pathlib import PurePosixPath
from string import Template
from typing import Literal, NamedTuple

Like = Literal["own", "openai"]
Stream = Literal["sse", "ndjson"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 30
_PART = re.compile(r'NotImplementedError\(f"fill in (\w+)\(\) in ')

_FILES = {
    "README.md": "README.md",
    "pyproject.toml": "pyproject.toml",
    "__init__.py": "src/$module/__init__.py",
    "_adapter.py": "src/$module/_adapter.py",
    "_wire.py": "src/$module/_wire.py",
    "py.typed": "src/$module/py.typed",
    "dialect.py": "tests/dialect.py",
    "test_conformance.py": "tests/test_conformance.py",
}
"""The templates and where they go. Each is in `shared`, or else in the folder of every dialect."""

_STREAMS: dict[Stream, dict[str, str]] = {
    "sse": {
        "is_sse": "True",
        "content_type": "text/event-stream",
        "event": r'b"data: " + json.dumps(document).encode() + b"\n\n"',
    },
    "ndjson": {
        "is_sse": "False",
        "content_type": "application/x-ndjson",
        "event": r'json.dumps(document).encode() + b"\n"',
    },
}


class Names(NamedTuple):
    """What the parts of a package are called, after its engine. Make it with `of`."""

    engine: str

    @classmethod
    def of(cls, engine: str) -> "Names":
        """Raises `ValueError` with a name that would do, for one that would make no package."""
        if _NAME.fullmatch(engine) and len(engine) <= _LONGEST:
            return cls(engine)
        raise ValueError(
            f"{engine!r} is no name for an engine; give lower-case letters, digits and single hyphens, at most "
            f"{_LONGEST} and a letter first, such as {_like(engine)}"
        )

    @property
    def distribution(self) -> str:
        """What pip calls it."""
        return f"llama-orch-adapter-{self.engine}"

    @property
    def module(self) -> str:
        """What Python imports."""
        return self.distribution.replace("-", "_")

    @property
    def folder(self) -> str:
        """Where it is written unless told otherwise."""
        return f"adapter-{self.engine}"

    @property
    def name(self) -> str:
        """What its classes begin with."""
        return "".join(word.capitalize() for word in self.engine.split("-"))


def rendered(names: Names, folder: str, like: Like, stream: Stream) -> dict[PurePosixPath, str]:
    """The files of a new package and their texts, by path in its folder; `folder` is how one gets there."""
    words = {each: getattr(names, each) for each in ("engine", "distribution", "module", "name")}
    words |= {"folder": folder, **_STREAMS[stream]}
    return {PurePosixPath(_filled(path, words)): _filled(text, words) for path, text in _templates(like)}


def parts(package: Mapping[PurePosixPath, str]) -> list[tuple[PurePosixPath, str]]:
    """The functions that are to be filled in, each with its file."""
    return [(path, part) for path, text in package.items() for part in _PART.findall(text)]


def _templates(like: Like) -> Iterator[tuple[str, str]]:
    root = files(__package__) / "templates"
    for source, path in _FILES.items():
        shared = root / "shared" / f"{source}.tmpl"
        yield path, (shared if shared.is_file() else root / like / f"{source}.tmpl").read_text(encoding="utf-8")


def _filled(text: str, words: Mapping[str, str]) -> str:
    return Template(text).substitute(words)


def _like(engine: str) -> str:
    """The nearest name that would do."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"^[^a-z]+", "", engine.lower()))
    return "-".join(words)[:_LONGEST].strip("-") or "acme"
