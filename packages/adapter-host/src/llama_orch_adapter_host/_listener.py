"""One plugin's lifecycle hooks, called one after the other on a thread of their own."""

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from queue import Empty, SimpleQueue

from llama_orch_adapter_api import get_logger

from ._guard import PluginLimits, told
from ._offer import Hook, never_awaited

logger = get_logger(__name__)

_LOOK = 0.02
"""Seconds between two looks of somebody who waits: a listener may be turned off meanwhile."""


class Listener:
    """Tells a plugin what happens, in order, without ever waiting for it. Every method but `run` is for any thread.

    It ends by `end()`, after what was told before. When the plugin has its last strike, or hangs, it is turned off:
    what was still to be told is dropped, and `turned_off` learns why, once, from whichever thread saw it.
    """

    def __init__(
        self,
        name: str,
        hooks: Mapping[str, tuple[Hook, ...]],
        turned_off: Callable[[str], None],
        limits: PluginLimits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.hooks = hooks
        self.dropped = 0
        self.thread: threading.Thread | None = None  # once there was something to tell
        self._open = True  # to what is told
        self._off = False
        self._turned_off = turned_off
        self._limits = limits
        self._clock = clock
        self._queue: SimpleQueue[tuple[str, Hook, object] | threading.Event | None] = SimpleQueue()
        self._started = threading.Lock()  # taken once and never released: who takes it starts the thread
        self._judged = threading.Lock()  # as well: who takes it turns the hooks off
        self._strikes = 0
        self._running: tuple[str, float] | None = None  # the hook that runs now, and since when

    def tell(self, hook: str, payload: object) -> None:
        """Let the plugin know, some time soon."""
        self.check()
        if self.thread is None and self._open and self._started.acquire(blocking=False):
            self._start()
        for call in self.hooks[hook] if self._open else ():
            if self._queue.qsize() < self._limits.waiting:
                self._queue.put((hook, call, payload))
            else:
                self._drop()

    def check(self) -> None:
        """Turn it off where a call has run for too long."""
        if (running := self._running) is None or self._off:
            return
        hook, began = running
        if self._clock() - began >= self._limits.hang:
            self._turn_off(f"{hook} did not come to an end within {self._limits.hang:g} s")

    def settle(self, until: float) -> bool:
        """Wait until the plugin was told all that is to be told now; False where `time.monotonic()` passes `until`."""
        if self.thread is None:
            return True
        mark = threading.Event()
        self._queue.put(mark)
        while not mark.is_set() and self.thread.is_alive() and not self._off:
            self.check()
            left = until - time.monotonic()
            if left <= 0:
                return False
            mark.wait(min(left, _LOOK))
        return True

    def end(self) -> None:
        """Let the thread end once it told what was to be told before."""
        self._open = False
        self._queue.put(None)

    def abandon(self) -> None:
        """Tell nothing more: the call that runs now is the last."""
        self._open = False
        self._off = True
        self._queue.put(None)

    def run(self) -> None:
        """What the thread does."""
        while self._take():
            pass

    def _start(self) -> None:
        thread = threading.Thread(target=self.run, name=f"hooks of {self.name}", daemon=True)
        try:
            thread.start()
        except RuntimeError as error:  # no more threads, or the interpreter is ending
            self._turn_off(f"no thread can be had for its hooks ({told(error)})")
        else:
            self.thread = thread

    def _take(self) -> bool:
        """Do the next thing; False when it was the last one."""
        match self._queue.get():
            case None:
                return False
            case threading.Event() as mark:
                mark.set()
            case hook, call, payload if not self._off:
                self._call(hook, call, payload)
        return not self._off

    def _call(self, hook: str, call: Hook, payload: object) -> None:
        began = self._clock()
        self._running = (hook, began)
        fault = ""
        try:
            if never_awaited(call(payload)):
                fault = "gave a coroutine, which nobody awaits"
        except BaseException as error:  # it is a stranger's code, and his package's trouble alone
            fault = f"raised {told(error)}"
            logger.debug("plugin %s: %s raised", self.name, hook, exc_info=True)
        took = self._clock() - began
        self._running = None
        if not fault and took > self._limits.slow:
            fault = f"took {took:.1f} s"
        self._judge(hook, fault)

    def _judge(self, hook: str, fault: str) -> None:
        if not fault:
            self._strikes = 0
            return
        self._strikes += 1
        logger.warning("plugin %s: %s %s", self.name, hook, fault)
        if self._strikes >= self._limits.strikes:
            self._turn_off(f"{hook} {fault}, the last of {self._strikes} strikes in a row")

    def _drop(self) -> None:
        if not self.dropped:
            logger.warning(
                "plugin %s is %d calls behind; what comes on top is dropped", self.name, self._limits.waiting
            )
        self.dropped += 1

    def _turn_off(self, why: str) -> None:
        if not self._judged.acquire(blocking=False):
            return
        self.abandon()
        with suppress(Empty):
            while True:
                self._queue.get_nowait()
        self._queue.put(None)
        self._turned_off(why)
