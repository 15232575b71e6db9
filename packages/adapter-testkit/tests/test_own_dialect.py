"""An engine whose events have keys of their own is tried by every rule that any other is."""

import json
from dataclasses import dataclass

import msgspec
import pytest
from llama_orch_adapter_api import End, TaskRequest, Token
from llama_orch_adapter_testkit import VLLM, Asked, Finish, Piece
from llama_orch_adapter_testkit.conformance._check import every_check
from llama_orch_adapter_testkit.conformance._suite import Subject
from llama_orch_http_util import Exchange
from llama_orch_http_util.openai import body_of, path_of

from .twisted import Twisted, spec_of  # type: ignore[import-not-found]  # test folders are no packages

pytestmark = pytest.mark.timeout(120)  # whole certificates, on a machine that may be busy


class Event(msgspec.Struct, frozen=True):
    said: str = ""
    over: bool = False


class Answer:
    def __init__(self) -> None:
        self.count = 0
        self.finished = False

    def take(self, event: Event) -> list[Token]:
        self.finished = event.over
        self.count += 1
        return [Token(event.said, self.count - 1)] if event.said else []

    def end(self) -> End:
        return End(None, None, "stop")


EVENT = msgspec.json.Decoder(Event)


class Own(Twisted):
    features = ("seed",)

    def exchange(self, task: TaskRequest, model: str) -> Exchange[Event]:
        body = body_of(task, model)
        return Exchange(path_of(task), body | {"options": {"seed": body.pop("seed", None)}}, EVENT, Answer())


def event(**document: object) -> bytes:
    return b"data: " + json.dumps(document).encode() + b"\n\n"


@dataclass(frozen=True)
class OwnDialect(type(VLLM)):  # type: ignore[misc]  # the dialect's class has no public name
    def token(self, asked: Asked, piece: Piece, number: int) -> bytes:
        return event(said=piece.text)

    def last(self, asked: Asked, finish: Finish, tokens: int) -> tuple[bytes, ...]:
        return (event(over=True),)


@pytest.mark.parametrize("name", ["stream.order", "errors.nonsense", "seed.sent"])
def test_a_check_takes_events_from_the_dialect(name: str):
    """ORCH-3612: a check spoils an event of the engine's own, and finds a seed wherever the engine wants it."""
    subject = Subject(spec_of(Own), OwnDialect(), lambda url: {"url": url}, {})
    (one,) = [each for each in every_check() if each.id == name]

    assert subject.run(one).reason == ""
