import threading

import pytest
from llama_orch_adapter_host._guard import Hung, Misbehaved, guarded, told


def test_what_it_gives_is_given():
    """A call that comes to its end gives what it gives, None too."""
    assert guarded(lambda: 42, 10, "acme") == 42
    assert guarded(lambda: None, 10, "acme") is None


@pytest.mark.parametrize("error", [OSError("no"), SystemExit("no"), KeyboardInterrupt("no"), GeneratorExit("no")])
def test_whatever_it_raises_is_its_own_trouble(error: BaseException):
    """Battery 31: what would end a process is told like any exception, with its class and its text."""

    def call() -> None:
        raise error

    with pytest.raises(Misbehaved) as caught:
        guarded(call, 10, "acme")

    assert str(caught.value) == f"{type(error).__name__}: no"


def test_what_hangs_is_left_behind():
    """Battery 31: a call that goes on past its limit is given up; when it ends after all, nobody is told."""
    goes_on = threading.Event()
    ended = threading.Event()

    def call() -> None:
        goes_on.wait()
        ended.set()

    with pytest.raises(Hung, match=r"^it does not come to an end within 0\.05 s$"):
        guarded(call, 0.05, "acme")
    goes_on.set()

    assert ended.wait(10)


def test_its_thread_has_a_name_and_holds_nobody_up():
    """A thread that hangs can be told by the plugin's name, and does not keep the process from ending."""
    thread = guarded(threading.current_thread, 10, "acme")

    assert (thread.name, thread.daemon) == ("plugin acme", True)


class Mute(Exception):
    """Ends the process when it is asked what it is."""

    def __str__(self) -> str:
        raise SystemExit("no comment")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n\x1b[31mb\u202ec  d\x00"), r"ValueError: a \x1b[31mb\u202ec d\x00"),
        (ValueError(), "ValueError"),
        (Mute(), "Mute"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 200),
        (Misbehaved("it registers nothing"), "it registers nothing"),
    ],
)
def test_an_exception_is_one_line(error: Exception, text: str):
    """Battery 36: an exception is told in one line of bounded length, whatever its text does."""
    assert told(error) == text


def test_an_exception_tells_no_secret():
    """Battery 32: a secret in the text of a plugin's exception is not told."""
    canary = "canary" + "0123456789"

    assert canary not in told(ValueError(f"GET http://engine/?api_key={canary} with Authorization: Bearer {canary}"))
