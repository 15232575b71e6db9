"""What real engines sent, byte for byte. The README beside each engine's files lists them and names the versions."""

from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable

from ._message import layout


@dataclass(frozen=True)
class Capture:
    """One exchange with a real engine. `request` is empty where only the answer was kept.

    `headers` have lower-case names. `body` is without its chunk framing; of an answer that was cut it holds what came.
    `complete` tells whether the answer's own framing (last chunk or content-length) was satisfied.
    """

    engine: str
    name: str
    request: bytes = field(repr=False)
    response: bytes = field(repr=False)
    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)
    complete: bool

    @classmethod
    def of(cls, engine: str, name: str, request: bytes, response: bytes) -> "Capture":
        """The capture of one exchange, its answer taken apart. The answer's head must be whole."""
        message = layout(response)
        if message is None:
            raise ValueError(f"the response of {engine}/{name} ends inside its head; give at least the whole head")
        return cls(
            engine=engine,
            name=name,
            request=request,
            response=response,
            status=int(message.first_line.split(" ")[1]),
            headers=message.headers,
            body=message.body(response),
            complete=message.end is not None,
        )

    def __str__(self) -> str:
        return f"{self.engine}/{self.name}"


@cache
def load(engine: str, name: str) -> Capture:
    """The capture of that name. It is read from disk once: load it outside of coroutines."""
    shelf = _shelf(engine)
    response, request = shelf / f"{name}.http", shelf / f"{name}.req"
    if not response.is_file():
        raise LookupError(f"{engine} has no capture {name!r}; captures.names({engine!r}) lists them")
    sent = request.read_bytes() if request.is_file() else b""
    return Capture.of(engine, name, sent, response.read_bytes())


def names(engine: str) -> list[str]:
    """The names of an engine's captures, sorted."""
    return sorted(file.name.removesuffix(".http") for file in _shelf(engine).iterdir() if file.name.endswith(".http"))


def streams(engine: str | None = None) -> list[Capture]:
    """The captures that are event streams, of one engine or of all."""
    engines = _engines() if engine is None else [engine]
    loaded = [load(each, name) for each in engines for name in names(each)]
    return [one for one in loaded if one.headers.get("content-type", "").startswith("text/event-stream")]


def _shelf(engine: str) -> Traversable:
    if engine not in _engines():
        raise LookupError(f"there are no captures of {engine!r}; known: {', '.join(_engines())}")
    return _root() / engine


def _engines() -> list[str]:
    return sorted(each.name for each in _root().iterdir() if each.is_dir() and not each.name.startswith("_"))


def _root() -> Traversable:
    return files("llama_orch_adapter_testkit.captures")
