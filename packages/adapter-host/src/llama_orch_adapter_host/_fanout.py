"""All plugins that listen. Telling them costs microseconds and never waits; one thread looks whether any hangs."""

import threading
import time
from contextlib import suppress

from ._listener import Listener

LOOK = 1.0
"""Seconds between two looks of the thread that watches: a hook that hangs is found out within as much."""


class Fanout:
    """Hands each thing that happens to every listener with a hook for it."""

    def __init__(self) -> None:
        self._by_name: dict[str, Listener] = {}
        self._by_hook: dict[str, tuple[Listener, ...]] = {}
        self._adding = threading.Lock()
        self._watched = threading.Lock()  # taken once and never released: who takes it starts the watch
        self._stop = threading.Event()

    @property
    def listening(self) -> bool:
        """Whether anybody was told anything."""
        return any(listener.thread is not None for listener in self._by_name.values())

    def hears(self, hook: str) -> bool:
        """Whether anybody has this hook."""
        return hook in self._by_hook

    def add(self, listener: Listener) -> None:
        """Tell this one too, from now on."""
        with self._adding:
            self._by_name[listener.name] = listener
            for hook in listener.hooks:
                self._by_hook[hook] = (*self._by_hook.get(hook, ()), listener)

    def notify(self, hook: str, payload: object) -> None:
        """Tell all who have this hook, in the order they were added."""
        listeners = self._by_hook.get(hook)
        if not listeners:
            return
        for listener in listeners:
            listener.tell(hook, payload)
        if not self._stop.is_set() and self._watched.acquire(blocking=False):
            with suppress(RuntimeError):  # without a thread, whoever hangs is found out when there is more to tell
                threading.Thread(target=self._watch, name="watch over plugins", daemon=True).start()

    def check(self) -> None:
        """Turn off whoever hangs."""
        for listener in tuple(self._by_name.values()):
            listener.check()

    def dropped(self, name: str) -> int:
        """How much a plugin was not told because it was too far behind."""
        return self._by_name[name].dropped if name in self._by_name else 0

    def settle(self, limit: float) -> bool:
        """Wait until all were told what is to be told now; False where that takes more than `limit` seconds."""
        until = time.monotonic() + limit
        settled = [listener.settle(until) for listener in tuple(self._by_name.values())]
        return all(settled)

    def close(self, limit: float) -> bool:
        """Tell what is to be told, and end the threads; False where one is left behind after `limit` seconds."""
        until = time.monotonic() + limit
        self._stop.set()
        listeners = tuple(self._by_name.values())
        for listener in listeners:
            listener.end()
        for listener in listeners:
            if listener.thread is not None:
                listener.thread.join(max(0.0, until - time.monotonic()))
        left = [listener for listener in listeners if listener.thread is not None and listener.thread.is_alive()]
        for listener in left:
            listener.abandon()
        return not left

    def _watch(self) -> None:
        while not self._stop.wait(LOOK):
            self.check()
