"""`pools.toml` as Structs. All that is wrong with a file is told at once, each problem with its pool and replica."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from llama_orch_adapter_api import AdapterSpec, Secret, Timeouts

from ._misspelt import told
from ._policy import PoolPolicy


class ConfigError(ValueError):
    """A configuration that cannot be used; `problems` holds one sentence for each thing to mend."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class PoolConfig(PoolPolicy, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A pool: replicas of one engine that may stand in for each other, and how its tasks are treated.

    A replica's table is its adapter's own, besides `id` (its position, from 0, where left out). `http` is handed to
    the adapter as it is.
    """

    engine: str
    replicas: tuple[dict[str, Any], ...]
    timeouts: Timeouts = Timeouts()
    http: dict[str, Any] = {}

    @property
    def policy(self) -> PoolPolicy:
        """How its tasks are treated, alone."""
        return PoolPolicy(**{name: getattr(self, name) for name in PoolPolicy.__struct_fields__})


class PluginsConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which plugins may be imported, by the name of their entry point or distribution; None allows all."""

    allow: tuple[str, ...] | None = None
    block: tuple[str, ...] = ()

    def says_as(self, other: "PluginsConfig") -> bool:
        """Whether both allow the same, in whatever order."""
        mine, others = ((each.allow is None, set(each.allow or ()), set(each.block)) for each in (self, other))
        return mine == others


class HostConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file: pools by name, and which plugins may be imported."""

    pools: dict[str, PoolConfig]
    plugins: PluginsConfig = PluginsConfig()


class _File(msgspec.Struct, forbid_unknown_fields=True):
    pools: dict[str, Any]
    plugins: Any = {}


def read_config(path: str | os.PathLike[str]) -> HostConfig:
    """The file as Structs; the adapters' own tables are not looked at yet. Raises `ConfigError`."""
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise ConfigError([f"{path} cannot be read: {error.strerror}; give the path of a pools.toml"]) from None
    try:
        return parse_config(raw)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None


def parse_config(raw: bytes) -> HostConfig:
    """TOML text as Structs. Raises `ConfigError` with every table's problem."""
    try:
        file = msgspec.toml.decode(raw, type=_File)
    except RecursionError:
        raise ConfigError(["it is nested too deep to be read"]) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError([told(error, _File)]) from None
    pools: dict[str, PoolConfig] = {}
    problems: list[str] = []
    for name, table in file.pools.items():
        try:
            pools[name] = msgspec.convert(table, PoolConfig)
        except msgspec.ValidationError as error:
            problems.append(f"pool {name!r}: {told(error, PoolConfig)}")
    try:
        plugins = msgspec.convert(file.plugins, PluginsConfig)
    except msgspec.ValidationError as error:
        problems.append(f"plugins: {told(error, PluginsConfig)}")
    if not file.pools:
        problems.append("it has no pools; add a table [pools.NAME] with engine and replicas")
    if problems:
        raise ConfigError(problems)
    return HostConfig(pools, plugins)


def read_replicas(name: str, pool: PoolConfig, spec: AdapterSpec) -> dict[str, msgspec.Struct]:
    """A pool's replicas by id, as its adapter wants them. Raises `ConfigError` with every replica's problem."""
    check_name("a pool has the name", name)
    replicas: dict[str, msgspec.Struct] = {}
    problems: list[str] = []
    for position, table in enumerate(pool.replicas):
        replica_id = str(table.get("id", position))
        try:
            check_name(f"a replica of {name!r} has the id", replica_id)
        except ConfigError as error:
            problems += error.problems
            continue
        if replica_id in replicas:
            problems.append(f"replica {name}/{replica_id} stands there twice; give each an id of its own")
            continue
        try:
            replicas[replica_id] = read_replica(f"{name}/{replica_id}", table, spec)
        except ConfigError as error:
            problems += error.problems
    if not pool.replicas:
        problems.append(f"pool {name!r} has no replicas; add [[pools.{name}.replicas]] with a url")
    if problems:
        raise ConfigError(problems)
    return replicas


def check_name(what: str, name: str) -> None:
    """Raise `ConfigError` for the name of a pool or a replica that would not be read as one in `pool/replica`."""
    if not name or not name.isprintable() or "/" in name:
        raise ConfigError([f"{what} {name!a}; give printable characters, no slash"])


def read_replica(replica: str, table: Mapping[str, object], spec: AdapterSpec) -> msgspec.Struct:
    """A replica's table as its adapter's own type, secrets resolved; `id` is the host's. Raises `ConfigError`."""
    own = {key: value for key, value in table.items() if key != "id"}
    try:
        return msgspec.convert(own, spec.config_type, dec_hook=_resolve_secret)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError([f"replica {replica}: {told(error, spec.config_type, also=('id',))}"]) from None


def _resolve_secret(kind: type, value: object) -> object:
    if kind is not Secret:
        raise TypeError(f"the adapter's config has a field of type {kind.__name__}, which TOML cannot give")
    return resolve_secret(value)


def resolve_secret(reference: object) -> Secret:
    """The secret that `{ env = "NAME" }` or `{ file = "PATH" }` refers to, so that a config can be shown and committed.

    A file is read at once, without the white space around its text. Raises `ValueError` with the mend.
    """
    match reference:
        case {"env": str(name), **others} if not others:
            text = os.environ.get(name)
            if not text:
                raise ValueError(f"the environment variable {name} is not set; export it")
            return Secret(text)
        case {"file": str(path), **others} if not others:
            return Secret(_read_secret(Path(path)))
        case _:
            raise ValueError('a secret is given as { env = "NAME" } or { file = "PATH" }, never as text')


def _read_secret(path: Path) -> str:
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the secret's file {path} cannot be read: {type(error).__name__}") from None
    if not text:
        raise ValueError(f"the secret's file {path} is empty")
    return text
