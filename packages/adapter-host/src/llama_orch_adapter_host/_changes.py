"""The part of `AdapterHost` that changes what is bound while tasks run."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping

import msgspec
from llama_orch_adapter_api import BindingInfo, PoolEvent, Timeouts, get_logger

from ._blueprint import Blueprint, Wish, read_blueprints
from ._config import ConfigError, HostConfig, PluginsConfig
from ._file import ConfigFile, on_change
from ._fleet import Fleet
from ._plugins import Plugins
from ._policy import PoolPolicy
from ._reload import Reloads
from ._report import ReloadReport
from ._triggers import Install, Trigger, on_sighup

logger = get_logger(__name__)


class Changes(ABC):
    """Rebind, drain, undrain, unbind, preload, reload. The host it is a part of sets the attributes."""

    _fleet: Fleet
    _reloads: Reloads
    _triggers: list[Trigger]
    _file: ConfigFile | None
    _owns_plugins: bool
    _read: Callable[[], HostConfig | None]

    @property
    @abstractmethod
    def plugins(self) -> Plugins:
        """The adapters at hand."""

    @abstractmethod
    def _check_open(self, pool_id: str) -> None:
        """Raise `PoolUnavailable` where the host is stopping."""

    async def rebind(
        self,
        pool_id: str,
        engine: str,
        replica: Mapping[str, object],
        *,
        replica_id: str = "0",
        timeouts: Timeouts | None = None,
        http: Mapping[str, object] | None = None,
        policy: PoolPolicy | None = None,
    ) -> BindingInfo:
        """Give a bound replica a new generation, which is ready before it takes over; the old one's streams run on.

        They end with the old one's `timeouts.drain` in `WorkerReset` (drained). None leaves `timeouts`, `http` and
        `policy` as they are. Raises `PoolUnavailable` for what is not bound, `ReloadError` where nothing was changed.
        """
        self._check_open(pool_id)
        wish = Wish(pool_id, replica_id, engine, replica, timeouts, http, policy)
        report = await self._reloads.one(wish, bound=True)
        (info,) = report.added + report.rebound
        return info

    async def drain(self, pool_id: str, replica_id: str | None = None) -> int:
        """Send no more tasks to a replica, None: to any of the pool, and wait for its streams.

        They are cut at its `timeouts.drain`; how many were is returned. It stays bound until it is unbound; an
        `undrain` or a rebind that is asked for afterwards lets tasks in again. It goes on in the background where the
        caller is cancelled. Raises `PoolUnavailable`.
        """
        self._check_open(pool_id)
        pool = self._fleet.registry.pool(pool_id)
        some = pool.order if replica_id is None else (self._fleet.registry.binding(pool_id, replica_id),)
        self._reloads.drained(pool_id, replica_id)
        return sum(await asyncio.gather(*(self._fleet.empty(binding) for binding in some)))

    async def undrain(self, pool_id: str, replica_id: str | None = None) -> ReloadReport:
        """Send tasks again to a replica that was drained, None: to any of the pool, by a new generation of it.

        It is built as the drained one was, and ready first. Each comes back by itself: what is not ready in time, or
        is drained again meanwhile, is among the report's `drained`, and `problems` say why. No config is read. Raises
        `PoolUnavailable` for what is not bound, `ReloadError` where nothing came back that was to.
        """
        self._check_open(pool_id)
        return await self._reloads.undrain(pool_id, replica_id)

    async def unbind(self, pool_id: str, replica_id: str) -> int:
        """Take a replica out at once, drain it as `drain` does, and close its adapter; how many streams were cut.

        It goes on in the background where the caller is cancelled. Raises `PoolUnavailable`.
        """
        self._check_open(pool_id)
        binding = self._fleet.registry.binding(pool_id, replica_id)
        self._reloads.forget(pool_id, replica_id)
        return await self._fleet.see_off(binding)

    async def preload(self, event: PoolEvent) -> BindingInfo:
        """Build a replica's next generation and keep it ready: a `reload` with an equal event swaps it in at once.

        One is kept for each replica, for ten minutes; a newer one replaces it. Raises `ReloadError`.
        """
        self._check_open(event.pool_id)
        return await self._reloads.preload(Wish.of(event))

    async def reload(self, change: HostConfig | PoolEvent | None = None) -> ReloadReport:
        """Put a change in force, whole or not at all: everything new is ready before it takes over.

        A `PoolEvent` gives one replica a new generation, or binds it; a config makes what is bound what it says,
        removals included, and rebinds nothing that is the same; None reads this host's own config again. Reloads of
        configs come in turn. What was drained and is the same stays drained, and is among the report's `drained`.
        Raises `ReloadError` with every problem, where nothing was changed.
        """
        if isinstance(change, PoolEvent):
            self._check_open(change.pool_id)
            return await self._reloads.one(Wish.of(change))
        self._check_open("")
        ignored: list[str] = []

        def read() -> list[Blueprint]:
            return self._blueprints_of(self._read() if change is None else change, ignored)

        report = await self._reloads.whole(read)
        return msgspec.structs.replace(report, ignored=tuple(ignored))

    def reload_on_sighup(self) -> Trigger:
        """Reload this host's config at each SIGHUP, until the trigger is closed or the host is. Main thread only.

        A reload that fails is told by its event and the log. Raises `RuntimeError` where SIGHUP is handled already.
        """
        return self._triggered(on_sighup)

    def reload_on_change(self) -> Trigger:
        """Reload this host's config whenever its file's content changes, until the trigger is closed or the host is.

        Failures are told as by `reload_on_sighup`. Raises `RuntimeError` without the extra `[watch]`.
        """
        file = self._file
        if file is None:
            raise RuntimeError("this host was made without a file; make it by AdapterHost.from_config to watch one")
        return self._triggered(lambda pull: on_change(file, pull, self._fleet.errand))

    def _blueprints_of(self, config: HostConfig | None, ignored: list[str]) -> list[Blueprint]:
        """What it says is to be bound; `ignored` gets the tables that no reload heeds, which are told of."""
        if config is None:
            raise ConfigError(["this host was made without a config; give reload() one, or make it from a file"])
        blueprints = read_blueprints(config, self.plugins)
        silent = config.plugins == PluginsConfig() and not self._owns_plugins
        if not silent and not config.plugins.says_as(self.plugins.lists):
            logger.warning("the config's [plugins] are not those in force; a new host would import what they say")
            ignored.append("plugins")
        return blueprints

    def _triggered(self, install: Install) -> Trigger:
        self._check_open("")
        trigger = Trigger(self.reload, install, self._fleet.errand)
        self._triggers.append(trigger)
        return trigger
