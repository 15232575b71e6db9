"""What a binding is made from: everything known of a replica before its adapter exists."""

import time
from collections.abc import Mapping
from typing import NamedTuple

import msgspec
from llama_orch_adapter_api import AdapterContext, AdapterSpec, BindingInfo, Timeouts, get_logger

from ._config import ConfigError, HostConfig, read_replicas
from ._plugins import Plugins
from ._registry import Binding

logger = get_logger(__name__)


class Blueprint(NamedTuple):
    """One replica, read and checked: `config` is an instance of its adapter's own type, with secrets resolved."""

    spec: AdapterSpec
    pool_id: str
    replica_id: str
    config: msgspec.Struct
    timeouts: Timeouts
    http: Mapping[str, object]

    @property
    def info(self) -> BindingInfo:
        """The binding it will be, as hooks see it."""
        return BindingInfo(self.pool_id, self.replica_id, self.spec.engine, generation=1)

    def build(self) -> Binding:
        """The adapter, bound. Raises `ConfigError` for whatever its factory raises."""
        replica = f"{self.pool_id}/{self.replica_id}"
        context = AdapterContext(
            pool_id=self.pool_id,
            replica_id=self.replica_id,
            config=self.config,
            timeouts=self.timeouts,
            http=self.http,
            clock=time.monotonic,
            narrate=lambda human: logger.info("%s: %s", replica, human),
        )
        try:
            adapter = self.spec.factory(context)
        except Exception as error:
            told = str(error) if isinstance(error, ValueError) else type(error).__name__
            raise ConfigError([f"replica {replica}: {told}"]) from error
        return Binding(self.info, adapter, self.timeouts)


def read_blueprints(config: HostConfig, plugins: Plugins) -> list[Blueprint]:
    """Every replica of every pool. Raises `ConfigError` with all that is wrong, or what is the one thing wrong."""
    blueprints: list[Blueprint] = []
    problems: list[ConfigError] = []
    for pool_id, pool in config.pools.items():
        try:
            spec = plugins.spec(pool.engine)
            blueprints += [
                Blueprint(spec, pool_id, replica_id, replica, pool.timeouts, pool.http)
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
