"""Between the host and its plugins: what happens to a plugin is an event, and each event is told to plugins."""

import asyncio
from collections.abc import Callable

from ._bus import Bus
from ._events import HostEvent, PluginChanged
from ._plugins import Plugins
from ._scan import Plugin

_HOOK = "llama_orch_on_event"


class Relay:
    """Of one host and its plugins. A plugin changes on whatever thread; its event is told on the host's loop.

    Events are handed on only once a plugin wants them: each costs every task four times.
    """

    def __init__(self, plugins: Plugins, bus: Bus) -> None:
        self._plugins = plugins
        self._bus = bus
        self.loop: asyncio.AbstractEventLoop | None = None  # None as long as none runs
        self._hands_on = False
        self.told_before = plugins.on_change
        plugins.on_change = self._changed
        self._look()

    def close(self) -> None:
        """Let go of the plugins, which other hosts may share: whoever was told before is told by whoever came later."""
        if self._plugins.on_change == self._changed:
            self._plugins.on_change = self.told_before
            return
        later = _relay_of(self._plugins.on_change)
        while later is not None:
            if later.told_before == self._changed:
                later.told_before = self.told_before
                return
            later = _relay_of(later.told_before)

    def _changed(self, plugin: Plugin) -> None:
        if self.told_before is not None:
            self.told_before(plugin)
        if self.loop is None:
            self._tell(plugin)
        elif not self.loop.is_closed():
            self.loop.call_soon_threadsafe(self._tell, plugin)

    def _tell(self, plugin: Plugin) -> None:
        self._look()
        self._bus.emit(
            PluginChanged(
                name=plugin.name, version=plugin.version, origin=plugin.origin, state=plugin.state, mend=plugin.mend
            )
        )

    def _look(self) -> None:
        if not self._hands_on and self._plugins.hears(_HOOK):
            self._hands_on = True
            self._bus.add(self._hand_on)

    def _hand_on(self, event: HostEvent) -> None:
        self._plugins.notify(_HOOK, event)


def _relay_of(on_change: Callable[[Plugin], None] | None) -> Relay | None:
    """Whose method it is, if it is a relay's."""
    owner = getattr(on_change, "__self__", None)
    return owner if isinstance(owner, Relay) else None
