"""`orchestratord.toml` as Structs. All that is wrong with a file is told at once, each problem with its table."""

import errno
import ipaddress
import os
import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, TypeVar

import msgspec
from llama_orch_adapter_api import Secret
from llama_orch_adapter_host import ConfigError, resolve_secret

from ._mends import with_mend
from ._queue import Policy

S = TypeVar("S", bound=msgspec.Struct)

Role = Literal["tasks", "control"]
"""What a token opens: `tasks` sends and reads tasks, `control` may do everything."""

Count = Annotated[int, msgspec.Meta(ge=1, le=2**31)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=86400)]

_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""What may stand behind `Bearer` in a header (RFC 6750)."""

_SHORTEST_TOKEN = 16
_ROLES: tuple[Role, ...] = ("tasks", "control")


class Address(NamedTuple):
    """Where to listen; port 0 is any free one."""

    host: str
    port: int

    @property
    def loopback(self) -> bool:
        """Whether this machine alone reaches it. Of names only `localhost` is known to be one."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "Address":
        """`HOST:PORT`, with an IPv6 address in brackets. Raises `ValueError` with the mend."""
        found = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/\[\]]+)):([0-9]{1,5})", text)
        if found is None or int(found[3]) > 65535:
            raise ValueError(f"listen is {text!a}; give HOST:PORT, such as 127.0.0.1:8700 or [::1]:8700")
        return cls(found[1] or found[2], int(found[3]))


def unheard(address: Address, error: OSError) -> str:
    """Why nothing can be heard at an address, and the mend. The reason is the number's: asyncio's words bury it."""
    resolving = isinstance(error, socket.gaierror)  # whose numbers are its own
    why = error.strerror if resolving or error.errno is None else os.strerror(error.errno)
    mend = "end what listens there, or give" if error.errno == errno.EADDRINUSE else "give"
    return f"{address} cannot be listened on: {why}; {mend} another address with --listen HOST:PORT"


class _Table(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table of the file."""


class TlsSettings(_Table, frozen=True):
    """Files in PEM: the certificate with its chain, and its key."""

    cert: Path
    key: Path


class ServerSettings(_Table, frozen=True):
    """`[server]`: where and how it listens. Sizes in bytes; `shutdown` is how many seconds streams run on at a stop.

    `plain_http` allows tokens to travel unencrypted from other machines, as behind a proxy that speaks TLS. `page` is
    the page at `/`; `watch` reloads the pools when their file changes.
    """

    listen: str = "127.0.0.1:8700"
    max_body: Annotated[int, msgspec.Meta(ge=1024, le=2**31)] = 1048576
    max_header: Annotated[int, msgspec.Meta(ge=1024, le=1048576)] = 8190
    tls: TlsSettings | None = None
    plain_http: bool = False
    shutdown: Seconds = 30.0
    page: bool = True
    watch: bool = False

    def __post_init__(self) -> None:
        Address.parse(self.listen)

    @property
    def address(self) -> Address:
        """`listen`, taken apart."""
        return Address.parse(self.listen)


class AccessToken(msgspec.Struct, frozen=True):
    """A bearer token and what it opens."""

    secret: Secret
    role: Role


class AuthSettings(_Table, frozen=True):
    """`[auth]`: who may do what; without tokens everybody may do everything."""

    tokens: tuple[AccessToken, ...] = ()


class AdmissionSettings(_Table, frozen=True):
    """`[admission]`: how many tasks may wait for each pool, and what becomes of one too many.

    `slots_if_unknown` is how many tasks a replica is taken to run at once where it does not tell.
    """

    queue: Count = 256
    policy: Policy = "reject"
    slots_if_unknown: Count = 4


class TaskSettings(_Table, frozen=True):
    """`[tasks]`: how many are known at once, and for how many seconds after their end."""

    limit: Count = 10_000
    keep: Seconds = 300.0


class StreamSettings(_Table, frozen=True):
    """`[stream]`: what of a task is kept unread, in events and bytes, and for how many seconds once it has started.

    `heartbeat` is the seconds of silence after which a comment is sent, 0 for none; `narration_every` the seconds
    between two narration frames; `batch` puts frames that are there together into one write.
    """

    unread_events: Count = 1024
    unread_bytes: Annotated[int, msgspec.Meta(ge=1024, le=2**31)] = 262_144
    unread_expiry: Seconds = 60.0
    cancel_on_disconnect: bool = True
    heartbeat: Seconds = 15.0
    narration: bool = False
    narration_every: Annotated[float, msgspec.Meta(ge=0.1, le=86400)] = 1.0
    batch: bool = False


class OpenAISettings(_Table, frozen=True):
    """`[openai]`: whether `/v1/chat/completions` and its like are served."""

    enabled: bool = False


class ServerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The whole file. `pools` is the host's own, None where they are named otherwise."""

    pools: Path | None = None
    server: ServerSettings = ServerSettings()
    auth: AuthSettings = AuthSettings()
    admission: AdmissionSettings = AdmissionSettings()
    tasks: TaskSettings = TaskSettings()
    stream: StreamSettings = StreamSettings()
    openai: OpenAISettings = OpenAISettings()


def read_config(path: Path) -> ServerConfig:
    """The file as Structs, secrets resolved. Files it names lie relative to it. Raises `ConfigError`."""
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            [f"{path} cannot be read: {error.strerror}; give the path of an orchestratord.toml"]
        ) from None
    try:
        return parse_config(raw, path.parent)
    except ConfigError as error:
        raise ConfigError([f"{path}: {problem}" for problem in error.problems]) from None


def parse_config(raw: bytes, folder: Path = Path()) -> ServerConfig:
    """TOML text as Structs; files it names lie in `folder`. Raises `ConfigError` with every table's problem."""
    try:
        file: dict[str, Any] = msgspec.toml.decode(raw)
    except RecursionError:
        raise ConfigError(["it is nested too deep to be read"]) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ConfigError([str(error)]) from None
    problems = _unknown("the file", file, ServerConfig)
    read: dict[str, Any] = {}
    for name, settings in _TABLES.items():
        try:
            read[name] = _table(name, file.get(name, {}), settings, folder)
        except ConfigError as error:
            problems += error.problems
    pools = file.get("pools")
    if pools is not None and (not isinstance(pools, str) or not pools):
        problems.append('pools is no path; give that of the file with the pools, such as pools = "pools.toml"')
    if problems:
        raise ConfigError(problems)
    return ServerConfig(pools=None if pools is None else folder / pools, **read)


_TABLES: Mapping[str, type[msgspec.Struct]] = {
    "server": ServerSettings,
    "auth": AuthSettings,
    "admission": AdmissionSettings,
    "tasks": TaskSettings,
    "stream": StreamSettings,
    "openai": OpenAISettings,
}


def _table(name: str, table: object, settings: type[S], folder: Path) -> S:
    """One table. Raises `ConfigError`."""
    if not isinstance(table, dict):
        raise ConfigError([f"{name} is no table; write it as [{name}]"])
    if unknown := _unknown(f"[{name}]", table, settings):
        raise ConfigError(unknown)
    if name == "auth":
        table = {"tokens": _tokens(table.get("tokens", []), folder)}
    try:
        return msgspec.convert(table, settings, dec_hook=lambda kind, value: _file(kind, value, folder))
    except msgspec.ValidationError as error:
        raise ConfigError([f"[{name}]: {with_mend(str(error), settings)}"]) from None


def _unknown(where: str, table: Mapping[str, object], settings: type[msgspec.Struct]) -> list[str]:
    known = settings.__struct_fields__
    return [f"{where} has no {key!a}; it may have: {', '.join(known)}" for key in table if key not in known]


def _file(kind: type, value: object, folder: Path) -> object:
    if kind is not Path or not isinstance(value, str) or not value:
        raise ValueError("give the path of a file")
    return folder / value


def _tokens(given: object, folder: Path) -> tuple[AccessToken, ...]:
    """Raises `ConfigError` with what is wrong with each of them; none of it holds a token."""
    if not isinstance(given, list):
        raise ConfigError(['auth.tokens is no list; give [{ env = "NAME", role = "control" }]'])
    tokens: list[AccessToken] = []
    problems: list[str] = []
    for position, table in enumerate(given):
        try:
            token = _token(table, folder)
            if any(token.secret.reveal() == other.secret.reveal() for other in tokens):
                raise ValueError("the same token stands there twice; give it once, control may do all that tasks may")
            tokens.append(token)
        except ValueError as error:
            problems.append(f"auth.tokens[{position}]: {error}")
    if problems:
        raise ConfigError(problems)
    return tuple(tokens)


def _token(table: object, folder: Path) -> AccessToken:
    reference = dict(table) if isinstance(table, dict) else {}
    role = reference.pop("role", None)
    if role not in _ROLES:
        raise ValueError(f"role is {'missing' if role is None else repr(role)}; give one of: {', '.join(_ROLES)}")
    if isinstance(file := reference.get("file"), str):
        reference["file"] = str(folder / file)
    secret = resolve_secret(reference)
    if len(secret.reveal()) < _SHORTEST_TOKEN or _TOKEN.fullmatch(secret.reveal()) is None:
        raise ValueError(
            f"the token cannot be used; give at least {_SHORTEST_TOKEN} letters, digits or -._~+/, "
            "such as what `openssl rand -hex 32` prints"
        )
    return AccessToken(secret, role)
