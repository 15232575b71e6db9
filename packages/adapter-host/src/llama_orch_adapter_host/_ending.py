"""The part of `AdapterHost` that ends it."""

import asyncio
from collections import Counter

from llama_orch_adapter_api import WorkerReset

from ._binding import Binding
from ._bus import Bus
from ._call import Call
from ._events import HostStopped, HostStopping
from ._fleet import Fleet
from ._ledger import Ledger
from ._plugins import Plugins
from ._probe import FAREWELL_LIMIT
from ._relay import Relay
from ._reload import Reloads
from ._triggers import Trigger
from ._watch import Watch

_DRAIN_LOOK = 0.05
"""Seconds between two looks at the streams that are drained."""

_CLOSE_WITHIN = 3.0 - _DRAIN_LOOK
"""Seconds from the end of the draining until all is closed, whatever streams, adapters and plugins do."""

LAST_WORDS = 1.0
"""Seconds that plugins may take of that for what they were told last."""

_LEAST_WORDS = 0.25
"""Seconds that adapters leave them."""


class Ending:
    """Refuse, drain, interrupt, close. The host it is a part of sets the attributes."""

    _bus: Bus
    _fleet: Fleet
    _ledger: Ledger
    _reloads: Reloads
    _triggers: list[Trigger]
    _watch: Watch
    _plugins: Plugins | None
    _owns_plugins: bool
    _relay: Relay | None
    _stopping: bool
    _closing: asyncio.Task[None] | None

    async def aclose(self, drain: float | None = None) -> None:
        """Refuse new tasks, let streams run for `drain` seconds (None: as each pool says), end them, close adapters.

        A task that is ended so has failed, in `WorkerReset` (drained): it may be sent again, to another host.
        All is closed 3 s after the draining at the latest. A later call waits for the first to be done, and changes
        nothing of it. Whoever gives up the first one ends the draining alone, and is back when all is closed. Leaving
        the host's block is `aclose(drain=0)`.
        """
        if self._closing is not None:
            await asyncio.shield(self._closing)
            return
        self._stopping = True
        loop = asyncio.get_running_loop()
        cut: Counter[Binding | None] = Counter()
        begun: asyncio.Future[asyncio.Task[None]] = loop.create_future()
        self._closing = loop.create_task(self._close(begun, cut))  # before anybody is told, who may close it too
        try:
            self._bus.emit(HostStopping(flights=len(self._ledger)))  # first: a task that starts eagerly ends streams
            for binding in self._fleet.registry.all():
                self._fleet.refuse(binding, drain)
        finally:
            draining = loop.create_task(self._drain(drain, cut))
            begun.set_result(draining)
        for trigger in self._triggers:
            trigger.stop()  # a signal is still taken: nobody else does, and it would end the process
        self._reloads.close()
        try:
            await asyncio.shield(self._closing)
        except asyncio.CancelledError:  # who is tired of draining still leaves nothing open
            draining.cancel()
            await asyncio.wait([self._closing])
            raise

    async def _close(self, begun: asyncio.Future[asyncio.Task[None]], cut: Counter[Binding | None]) -> None:
        """Once `begun`, with the draining, it is finished, whoever waits for it.

        `cut` is how many streams of each were ended meanwhile.
        """
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.wait([await begun])
        until = loop.time() + _CLOSE_WITHIN
        leases = [lease for binding in self._fleet.bindings() for lease in binding.leases]
        for call in self._ledger.calls():  # the draining was given up
            cut[call.boarded] += call.interrupt(_stopped(call))
        await asyncio.gather(*(lease.stop() for lease in leases))
        for binding in self._fleet.bindings():
            if binding.gate.draining:
                took = loop.time() - began
                self._fleet.emptied(binding, cut[binding], took, stopping=True)
        self._watch.close()
        await self._fleet.close(min(FAREWELL_LIMIT, until - _LEAST_WORDS - loop.time()))
        for trigger in self._triggers:
            trigger.close()
        self._bus.emit(HostStopped(duration=loop.time() - began))
        await self._leave_plugins(max(0.0, min(LAST_WORDS, until - loop.time())))

    async def _leave_plugins(self, limit: float) -> None:
        """Let go of the plugins once they are told what there is to tell, for which they may take `limit` seconds."""
        if self._plugins is not None and self._plugins.listening:
            await asyncio.to_thread(self._let_go, limit)  # so that unbinding is told before we are gone
        else:
            self._let_go(limit)

    def _let_go(self, limit: float) -> None:
        """The same; not on the loop where plugins listen."""
        if self._plugins is not None and self._plugins.listening:
            leave = self._plugins.close if self._owns_plugins else self._plugins.settle
            leave(limit)
        if self._relay is not None:
            self._relay.close()

    async def _drain(self, seconds: float | None, cut: Counter[Binding | None]) -> None:
        """Wait for the running tasks; each is ended after what its pool allows, or after `seconds`, and counted."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        while self._ledger:
            spent = loop.time() - began
            for call in self._ledger.calls():
                limit = call.binding.timeouts.drain if seconds is None and call.binding is not None else seconds or 0.0
                if spent >= limit:
                    cut[call.boarded] += call.interrupt(_stopped(call))
            for binding in self._fleet.bindings():
                if binding.gate.draining and not binding.leases:
                    self._fleet.emptied(binding, cut[binding], spent, stopping=True)
            await asyncio.sleep(_DRAIN_LOOK if self._ledger else 0)


def _stopped(call: Call) -> WorkerReset:
    """How a task ends that a stop did not wait for."""
    where = call.boarded
    return WorkerReset(
        f"the host is stopping, and waits no longer for this task · "
        f"{f'pool {call.pool.id!r}' if where is None else where.replica} · send it again, to another host",
        detail="drained",
        phase=call.phase,
        pool=call.pool.id if where is None else None,  # else its flight fills in where it is
    )
