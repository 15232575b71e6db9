"""What a binding is made from: everything known of a replica before its adapter exists."""

import hashlib
import time
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple, Self

import msgspec
from llama_orch_adapter_api import (
    AdapterContext,
    AdapterSpec,
    BindingInfo,
    PoolEvent,
    Secret,
    Timeouts,
    WorkerAdapter,
)

from ._binding import Binding
from ._config import ConfigError, HostConfig, check_name, read_replica, read_replicas
from ._exits import is_strangers
from ._plugins import Plugins
from ._policy import LEAST_IN_FLIGHT, PoolPolicy


class Wish(NamedTuple):
    """One replica as somebody asks for it, not read yet. What is None is taken from `like` when it is read."""

    pool_id: str
    replica_id: str
    engine: str
    table: Mapping[str, object]
    timeouts: Timeouts | None = None
    http: Mapping[str, object] | None = None
    policy: PoolPolicy | None = None

    @classmethod
    def of(cls, event: PoolEvent) -> Self:
        """What an orchestrator's event asks for."""
        return cls(event.pool_id, event.replica_id, event.engine, event.replica, event.timeouts, event.http)

    @property
    def place(self) -> tuple[str, str]:
        """Pool and replica."""
        return self.pool_id, self.replica_id

    def read(self, plugins: Plugins, like: Binding | None = None) -> "Blueprint":
        """The replica, checked, with its secrets resolved, which may read files. Raises `ConfigError`."""
        check_name("a pool has the name", self.pool_id)
        check_name(f"a replica of {self.pool_id!r} has the id", self.replica_id)
        spec = plugins.spec(self.engine)
        if self.policy is not None and (unknown := _unknown_route(self.pool_id, self.policy, plugins)):
            raise ConfigError(unknown)
        config = read_replica(f"{self.pool_id}/{self.replica_id}", self.table, spec)
        timeouts = self.timeouts or (Timeouts() if like is None else like.timeouts)
        http = self.http if self.http is not None else {} if like is None else like.http
        return Blueprint(spec, self.pool_id, self.replica_id, config, timeouts, http, self.policy)


class Blueprint(NamedTuple):
    """One replica, read and checked: `config` is an instance of its adapter's own type, with secrets resolved."""

    spec: AdapterSpec
    pool_id: str
    replica_id: str
    config: msgspec.Struct
    timeouts: Timeouts
    http: Mapping[str, object]
    policy: PoolPolicy | None = None  # its pool's, None to leave that as it is

    @property
    def place(self) -> tuple[str, str]:
        """Pool and replica, which one binding at a time may have."""
        return self.pool_id, self.replica_id

    @property
    def replica(self) -> str:
        """`pool_id/replica_id`."""
        return f"{self.pool_id}/{self.replica_id}"

    @property
    def fingerprint(self) -> str:
        """What it is built from, as a digest; secrets go in with what they are now, so that a new key is a change."""
        parts = (self.spec.engine, self.config, self.timeouts, self.http)
        return hashlib.sha256(msgspec.json.encode(parts, enc_hook=_inside, order="sorted")).hexdigest()

    def info(self, generation: int = 1) -> BindingInfo:
        """The binding it will be, as hooks see it."""
        return BindingInfo(self.pool_id, self.replica_id, self.spec.engine, generation)

    def build(self, narrate: Callable[[str], None], count: Callable[[str], None]) -> WorkerAdapter:
        """The adapter. Raises `ConfigError` for whatever its factory raises."""
        context = AdapterContext(
            pool_id=self.pool_id,
            replica_id=self.replica_id,
            config=self.config,
            timeouts=self.timeouts,
            http=self.http,
            clock=time.monotonic,
            narrate=narrate,
            count=count,
        )
        try:
            return self.spec.factory(context)
        except BaseException as error:
            if not isinstance(error, Exception) and not is_strangers(error):
                raise
            told = str(error) if isinstance(error, ValueError) else type(error).__name__
            raise ConfigError([f"replica {self.replica}: {told}"]) from error


def _inside(value: object) -> str:
    """What msgspec cannot encode, for a digest that nobody sees."""
    return value.reveal() if isinstance(value, Secret) else repr(value)


def read_blueprints(config: HostConfig, plugins: Plugins) -> list[Blueprint]:
    """Every replica of every pool. Raises `ConfigError` with all that is wrong, or what is the one thing wrong."""
    blueprints: list[Blueprint] = []
    problems: list[ConfigError] = []
    for pool_id, pool in config.pools.items():
        unknown = _unknown_route(pool_id, pool, plugins) + _unknown_pools(pool_id, pool, config.pools)
        if unknown:
            problems.append(ConfigError(unknown))
        try:
            spec = plugins.spec(pool.engine)
            blueprints += [
                Blueprint(spec, pool_id, replica_id, replica, pool.timeouts, pool.http, pool.policy)
                for replica_id, replica in read_replicas(pool_id, pool, spec).items()
            ]
        except ConfigError as error:
            problems.append(error)
    raise_all(problems)
    return blueprints


def raise_all(problems: list[ConfigError]) -> None:
    """Raise the one problem as it is, several as one."""
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigError([sentence for error in problems for sentence in error.problems])


def _unknown_route(pool_id: str, policy: PoolPolicy, plugins: Plugins) -> list[str]:
    known = {LEAST_IN_FLIGHT, *plugins.routes()}
    if policy.route in known:
        return []
    names = ", ".join(sorted(known))
    mend = "name one of these, or install the plugin that registers it"
    return [f"pool {pool_id!r}: no routing policy is named {policy.route!r} (known: {names}); {mend}"]


def _unknown_pools(pool_id: str, policy: PoolPolicy, pools: Collection[str]) -> list[str]:
    return [
        f"pool {pool_id!r}: fallback names {name!r}, which is no pool (pools: {', '.join(sorted(pools))}); "
        f"name one of these, or add a table [pools.{name}]"
        for name in policy.fallback
        if name not in pools
    ]
