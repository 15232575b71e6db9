import threading
import time
from collections.abc import Callable, Iterator

import pytest
from llama_orch_adapter_host import PluginLimits
from llama_orch_adapter_host._listener import Listener

HOOK = "llama_orch_on_bind"


class Ear:
    """A plugin's hook: it keeps what it is told, and does as it is told, on a clock that it moves itself."""

    def __init__(self) -> None:
        self.heard: list[object] = []
        self.threads: set[str] = set()
        self.now = 0.0
        self.entered = threading.Event()
        self.goes_on = threading.Event()
        self.reasons: list[str] = []
        self.listener: Listener

    def hear(self, payload: object) -> object:
        self.heard.append(payload)
        self.threads.add(threading.current_thread().name)
        if isinstance(payload, BaseException):
            raise payload
        if isinstance(payload, float):
            self.now += payload
        if payload == "wait":
            self.entered.set()
            self.goes_on.wait()
        return hear_later() if payload == "later" else None

    def tell(self, *payloads: object) -> None:
        for payload in payloads:
            self.listener.tell(HOOK, payload)

    def settled(self) -> bool:
        return self.listener.settle(time.monotonic() + 10)


async def hear_later() -> None:
    """What a hook may give by mistake."""


Listening = Callable[..., Ear]


@pytest.fixture
def listening() -> Iterator[Listening]:
    """An ear with its listener; whatever waits is let go at the end."""
    ears: list[Ear] = []

    def make(**limits: float) -> Ear:
        ear = Ear()
        ears.append(ear)
        ear.listener = Listener(
            "acme", {HOOK: (ear.hear,)}, ear.reasons.append, PluginLimits(**limits), lambda: ear.now
        )
        return ear

    yield make
    for ear in ears:
        ear.goes_on.set()
        ear.listener.abandon()
        if ear.listener.thread is not None:
            ear.listener.thread.join(10)


def test_what_is_told_is_heard_in_order(listening: Listening):
    """A plugin hears everything, in order, on one thread of its own that does not keep the process from ending."""
    ear = listening()
    ear.tell(*range(100))

    assert ear.settled()
    assert ear.heard == list(range(100))
    assert ear.threads == {"hooks of acme"}
    assert ear.listener.thread is not None
    assert ear.listener.thread.daemon


def test_no_thread_before_there_is_something_to_tell(listening: Listening):
    """A listener that was told nothing has no thread, and nothing to settle."""
    ear = listening()

    assert ear.settled()
    assert ear.listener.thread is None


def test_many_may_tell_at_once(listening: Listening):
    """ORCH-3600: what several threads tell is all heard, each thread's in its order, by one thread alone."""
    ear = listening(waiting=100_000)
    tellers = [threading.Thread(target=ear.tell, args=[(who, i) for i in range(500)]) for who in range(8)]
    for teller in tellers:
        teller.start()
    for teller in tellers:
        teller.join(10)

    assert ear.settled()
    assert len(ear.heard) == 8 * 500
    assert all([i for w, i in ear.heard if w == who] == list(range(500)) for who in range(8))  # type: ignore[misc]  # pairs
    assert ear.threads == {"hooks of acme"}


def strike(kind: str) -> object:
    return {"raises": OSError("no"), "exits": SystemExit("no"), "slow": 2.5, "awaits": "later"}[kind]


SAID = {
    "raises": "raised OSError: no",
    "exits": "raised SystemExit: no",
    "slow": "took 2.5 s",
    "awaits": "gave a coroutine, which nobody awaits",
}


@pytest.mark.parametrize("kind", SAID)
def test_three_strikes_in_a_row(listening: Listening, kind: str, caplog: pytest.LogCaptureFixture):
    """Battery 31: after three strikes in a row a plugin hears no more, and nothing is kept for it; why is told once."""
    ear = listening()
    ear.tell(*[strike(kind) for _ in range(3)], "never heard")
    ear.settled()
    ear.tell(*["nor this"] * 10)

    assert ear.settled()
    assert len(ear.heard) == 3
    assert ear.listener._queue.qsize() <= 2  # marks and the end alone
    assert ear.reasons == [f"{HOOK} {SAID[kind]}, the last of 3 strikes in a row"]
    assert caplog.messages == [f"plugin acme: {HOOK} {SAID[kind]}"] * 3
    assert ear.listener.thread is not None
    ear.listener.thread.join(10)
    assert not ear.listener.thread.is_alive()


def test_a_good_call_wipes_the_slate(listening: Listening):
    """Battery 31: strikes count in a row; a plugin that fails now and then is told everything."""
    ear = listening()
    ear.tell(*[strike("raises"), strike("slow"), "fine"] * 5)

    assert ear.settled()
    assert len(ear.heard) == 15
    assert ear.reasons == []


def test_two_seconds_are_not_slow(listening: Listening):
    """Battery 31: a call that takes exactly its limit is none too long."""
    ear = listening()
    ear.tell(*[2.0] * 5)

    assert ear.settled()
    assert (len(ear.heard), ear.reasons) == (5, [])


def test_one_call_that_hangs(listening: Listening):
    """Battery 31: a call that runs for its limit turns the hooks off at once, for this one reason.

    When it comes back after all, which would be a strike too, its thread ends.
    """
    ear = listening(strikes=1)
    ear.tell("wait", "never heard")
    assert ear.entered.wait(10)
    ear.now = 9.9
    ear.listener.check()
    before = list(ear.reasons)
    ear.now = 10.0
    ear.listener.check()
    ear.listener.check()

    assert before == []
    assert ear.reasons == [f"{HOOK} did not come to an end within 10 s"]
    assert ear.settled()
    ear.goes_on.set()
    assert ear.listener.thread is not None
    ear.listener.thread.join(10)
    assert not ear.listener.thread.is_alive()
    assert ear.heard == ["wait"]
    assert len(ear.reasons) == 1


def test_whoever_tells_next_finds_it_out(listening: Listening):
    """Battery 31: the next thing to tell is when a call that hangs is found out, without any timer."""
    ear = listening()
    ear.tell("wait")
    assert ear.entered.wait(10)
    ear.now = 10.0
    ear.tell("is it well?")

    assert ear.reasons == [f"{HOOK} did not come to an end within 10 s"]


def test_whoever_waits_finds_it_out(listening: Listening):
    """Battery 31: waiting for a plugin that hangs ends when it is found out, not at the end of the patience."""
    ear = listening()
    ear.tell("wait")
    assert ear.entered.wait(10)
    ear.now = 10.0

    assert ear.settled()
    assert ear.reasons == [f"{HOOK} did not come to an end within 10 s"]


def test_waiting_has_an_end(listening: Listening):
    """Who waits for a plugin that takes its time waits until the moment he said."""
    ear = listening()
    ear.tell("wait")
    assert ear.entered.wait(10)

    assert not ear.listener.settle(time.monotonic() + 0.05)
    assert not ear.listener.settle(0)


def test_no_more_than_so_many_wait(listening: Listening, caplog: pytest.LogCaptureFixture):
    """ORCH-3600: over its bound the newest is dropped and counted, which is told once; the order of the rest stays."""
    ear = listening(waiting=3)
    ear.tell("wait")
    assert ear.entered.wait(10)
    ear.tell(*range(10))
    ear.goes_on.set()

    assert ear.settled()
    assert ear.heard == ["wait", 0, 1, 2]
    assert ear.listener.dropped == 7
    assert caplog.messages == ["plugin acme is 3 calls behind; what comes on top is dropped"]


def test_its_end(listening: Listening):
    """At its end a listener tells what was told before, nothing after, and its thread is gone."""
    ear = listening()
    ear.tell(*range(10))
    ear.listener.end()
    ear.tell("never heard")
    assert ear.listener.thread is not None
    ear.listener.thread.join(10)

    assert not ear.listener.thread.is_alive()
    assert ear.heard == list(range(10))
    assert ear.settled()


def test_an_end_before_the_beginning(listening: Listening):
    """A listener that ended before it was told anything never has a thread."""
    ear = listening()
    ear.listener.end()
    ear.tell("never heard")

    assert ear.listener.thread is None


def test_what_was_taken_too_late_is_not_told(listening: Listening):
    """Battery 31: a call that was taken from the queue just before the hooks went off is not made."""
    ear = listening()
    ear.listener._queue.put((HOOK, ear.hear, "never heard"))
    ear.listener.abandon()
    ear.listener.run()

    assert ear.heard == []


def test_where_no_thread_can_be_had(listening: Listening, monkeypatch: pytest.MonkeyPatch):
    """ORCH-3600: a process out of threads turns the hooks off with the reason; whoever tells is not harmed."""

    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ear = listening()
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        ear.tell("never heard")

    assert ear.reasons == ["no thread can be had for its hooks (RuntimeError: can't start new thread)"]
    assert (ear.listener.thread, ear.heard) == (None, [])
