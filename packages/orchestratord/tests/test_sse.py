"""What a task's events look like on the wire."""

import json

from llama_orch_adapter_api import End, Error, Metrics, Started, Token
from llama_orch_orchestratord._sse import frame, narration


def test_each_kind_is_named_numbered_and_whole() -> None:
    """A frame has three fields and an empty line; its data is the event's own JSON, its kind included."""
    events = [
        Started("e", "1", "m", "chat/0"),
        Token("a", 0),
        Metrics(tokens_out=1),
        End(1, 1, "stop"),
        Error("INTERNAL", "broke", None, retriable=False),
    ]
    for number, event in enumerate(events):
        lines = frame(number, event).decode().split("\n")
        data = json.loads(lines[2].removeprefix("data: "))

        assert lines[0] == f"event: {data['kind']}"
        assert lines[1] == f"id: {number}"
        assert lines[3:] == ["", ""]


def test_no_text_breaks_a_frame() -> None:
    """Line ends and other controls in a token or a sentence stay within its data."""
    evil = "a\r\nb\n\ndata: x\u2028\x00\x85"
    for made in (frame(0, Token(evil, 0)), narration(evil)):
        assert made.count(b"\n\n") == 1
        assert b"\r" not in made
        data = made.decode().split("data: ", 1)[1]
        assert evil in json.loads(data).values()
