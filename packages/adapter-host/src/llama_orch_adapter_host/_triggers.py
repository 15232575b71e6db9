"""What makes a host reload its config by itself, and a signal that does."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Self

from llama_orch_adapter_api import PoolUnavailable, get_logger

from ._report import ReloadError

logger = get_logger(__name__)

Install = Callable[[Callable[[], None]], Callable[[], object]]
"""Has what it is given called at each occasion, on the event loop; call what it returns to end that."""

Errand = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
"""Runs work in the background of a host."""


class Trigger:
    """Reloads at each occasion until it is closed, or its block is left. Occasions during a reload make one more.

    A reload that fails is told by its event, and the next occasion tries again.
    """

    def __init__(self, reload: Callable[[], Awaitable[object]], install: Install, errand: Errand) -> None:
        self._reload = reload
        self._errand = errand
        self._wanted = False
        self._running = False
        self._over = False
        self._uninstall: Callable[[], object] | None = install(self.pull)

    def pull(self) -> None:
        """Reload now, or once more after the reload that runs."""
        if self._over:
            return
        self._wanted = True
        if not self._running:
            self._running = True
            self._errand(self._run())

    def stop(self) -> None:
        """Reload at no further occasion; a reload that runs goes on. What `close` uninstalls still takes them."""
        self._over, self._wanted = True, False

    def close(self) -> None:
        """Wait for no further occasion; a reload that runs goes on, and none follows it. A second call does nothing."""
        self.stop()
        uninstall, self._uninstall = self._uninstall, None
        if uninstall is not None:
            uninstall()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close()

    async def _run(self) -> None:
        try:
            while self._wanted:
                self._wanted = False
                await self._attempt()
        finally:
            self._running = False

    async def _attempt(self) -> None:
        try:
            await self._reload()
        except ReloadError:
            pass  # which its event told
        except PoolUnavailable:  # the host is stopping
            self._wanted = False
        except Exception:
            logger.exception("the reload failed; report it")


def on_sighup(pull: Callable[[], None]) -> Callable[[], None]:
    """An `Install` for SIGHUP."""
    hup = getattr(signal, "SIGHUP", None)
    if hup is None:
        raise RuntimeError("this system has no SIGHUP; call host.reload() instead")
    before = signal.getsignal(hup)
    if before not in (signal.SIG_DFL, signal.SIG_IGN):
        raise RuntimeError("SIGHUP is handled already; call host.reload() where that is done")
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(hup, pull)

    def restore() -> None:
        loop.remove_signal_handler(hup)
        signal.signal(hup, before)

    return restore
