import asyncio
import threading
import time
from collections.abc import Callable

import pytest
from llama_orch_adapter_host import PluginLimits
from llama_orch_adapter_host import _fanout as room
from llama_orch_adapter_host._fanout import Fanout
from llama_orch_adapter_host._listener import Listener

BIND = "llama_orch_on_bind"
DRAIN = "llama_orch_on_drain"


class Crowd:
    """A fan-out and what its listeners heard, in order and by name; one that is named in `off` is turned off."""

    def __init__(self) -> None:
        self.fanout = Fanout()
        self.heard: dict[str, list[object]] = {}
        self.off = threading.Event()

    def add(self, name: str, *hooks: str, hear: Callable[[object], object] | None = None, **limits: float) -> None:
        heard = self.heard[name] = []
        calls = dict.fromkeys(hooks, (hear or heard.append,))
        self.fanout.add(Listener(name, calls, lambda _: self.off.set(), PluginLimits(**limits)))


def test_each_is_told_what_it_has_a_hook_for():
    """ORCH-3600: all who have the hook are told, and nobody else."""
    crowd = Crowd()
    crowd.add("alpha", BIND, DRAIN)
    crowd.add("beta", DRAIN)
    crowd.fanout.notify(BIND, 1)
    crowd.fanout.notify(DRAIN, 2)
    crowd.fanout.notify("llama_orch_on_event", 3)

    assert crowd.fanout.settle(10)
    assert crowd.heard == {"alpha": [1, 2], "beta": [2]}
    assert crowd.fanout.close(10)


def test_one_that_waits_holds_up_nobody():
    """Battery 31: while a hook hangs the others hear everything; who waits for all is told that it is not all."""
    crowd = Crowd()
    goes_on = threading.Event()
    crowd.add("alpha", BIND, hear=lambda _: goes_on.wait())
    crowd.add("beta", BIND)
    for i in range(100):
        crowd.fanout.notify(BIND, i)

    assert crowd.fanout._by_name["beta"].settle(time.monotonic() + 10)
    assert crowd.heard["beta"] == list(range(100))
    assert not crowd.fanout.settle(0.05)
    goes_on.set()
    assert crowd.fanout.close(10)


async def test_telling_never_blocks_the_loop():
    """Battery 31: telling from an event loop waits for nothing and for no lock, from the first time on."""
    crowd = Crowd()
    entered, goes_on = threading.Event(), threading.Event()

    def hear(_: object) -> None:
        entered.set()
        goes_on.wait()

    crowd.add("alpha", BIND, hear=hear, waiting=10)
    crowd.fanout.notify(BIND, 0)
    assert await asyncio.to_thread(entered.wait, 10)
    for i in range(100):
        crowd.fanout.notify(BIND, i)
    goes_on.set()

    assert await asyncio.to_thread(crowd.fanout.close, 10)
    assert crowd.fanout.dropped("alpha") == 90
    assert crowd.fanout.dropped("nobody") == 0


def test_nothing_is_begun_before_somebody_is_told():
    """ORCH-3600: listeners alone cost no thread; an end without a beginning is at once."""
    crowd = Crowd()
    crowd.add("alpha", BIND)
    crowd.fanout.notify(DRAIN, 1)

    assert not crowd.fanout.listening
    assert crowd.fanout.settle(0)
    assert crowd.fanout.close(0)
    crowd.fanout.notify(BIND, 1)
    assert not crowd.fanout.listening


def test_a_watch_finds_out_who_hangs(monkeypatch: pytest.MonkeyPatch):
    """Battery 31: a hook that hangs is found out with nothing more to tell and nobody who waits."""
    monkeypatch.setattr(room, "LOOK", 0.01)
    crowd = Crowd()
    goes_on = threading.Event()
    crowd.add("alpha", BIND, hear=lambda _: goes_on.wait(), hang=0.05)
    crowd.fanout.notify(BIND, 1)

    assert crowd.off.wait(10)
    goes_on.set()
    assert crowd.fanout.close(10)


def test_without_a_thread_for_the_watch(monkeypatch: pytest.MonkeyPatch):
    """ORCH-3600: a process out of threads loses the watch, and whoever tells is not harmed."""
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "watch over plugins":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    crowd = Crowd()
    crowd.add("alpha", BIND)
    crowd.fanout.notify(BIND, 1)

    assert crowd.fanout.close(10)
    assert crowd.heard["alpha"] == [1]


def test_an_end_tells_what_was_told_before():
    """ORCH-3600: closing delivers what was told, and leaves no thread behind; what is told after is nobody's."""
    before = set(threading.enumerate())
    crowd = Crowd()
    crowd.add("alpha", BIND)
    crowd.add("beta", BIND)
    for i in range(200):
        crowd.fanout.notify(BIND, i)

    assert crowd.fanout.close(10)
    crowd.fanout.notify(BIND, "never heard")
    assert crowd.heard == {"alpha": list(range(200)), "beta": list(range(200))}
    left = [thread for thread in set(threading.enumerate()) - before if thread.name.startswith(("hooks", "watch"))]
    for thread in left:  # the watch, on its way out
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


def test_an_end_does_not_wait_for_ever():
    """Battery 31: who does not come to an end is left behind, and is told no more of what still waits for him."""
    crowd = Crowd()
    goes_on = threading.Event()
    heard: list[object] = []

    def hear(payload: object) -> None:
        heard.append(payload)
        goes_on.wait()

    crowd.add("alpha", BIND, hear=hear)
    for i in range(5):
        crowd.fanout.notify(BIND, i)
    assert not crowd.fanout.close(0.05)
    goes_on.set()
    thread = crowd.fanout._by_name["alpha"].thread
    assert thread is not None
    thread.join(10)

    assert not thread.is_alive()
    assert len(heard) <= 1
