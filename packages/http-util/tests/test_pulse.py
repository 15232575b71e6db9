"""When a silent peer is asked for a sign of life, and when it is given up."""

from llama_orch_http_util._pulse import Pulse


def test_a_peer_that_falls_silent() -> None:
    """A span of silence with somebody waiting brings a PING, another the end; any word in between starts anew."""
    pulse = Pulse()

    assert [pulse.look(heard, 1, 1) for heard in (3, 9, 9, 10, 10, 10)] == [
        *("wait", "wait", "ping", "wait", "ping", "give_up")
    ]


def test_a_connection_that_nobody_uses() -> None:
    """Without a stream nobody is asked anything; unused for a span, it is closed."""
    pulse = Pulse()

    assert [pulse.look(2, opened, 0) for opened in (1, 2, 2)] == ["wait", "wait", "close"]


def test_a_request_after_a_long_rest() -> None:
    """A stream that begins after a rest has a span of its own before its peer is asked, and one more to answer."""
    pulse = Pulse()

    assert pulse.look(5, 1, 0) == "wait"
    assert [pulse.look(5, 2, 1), pulse.look(5, 2, 1)] == ["ping", "give_up"]
