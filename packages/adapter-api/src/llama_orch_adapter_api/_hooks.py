"""How a package is found and what it may hook into. Hooks are plain functions, and small."""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pluggy

from ._adapter import WorkerAdapter
from ._advice import Advise
from ._task import TaskRequest, Workload

PROJECT = "llama_orch"
ENTRY_POINT_GROUP = "llama_orch.adapters"
API_VERSION = 1
"""The version of this boundary. A host refuses an adapter that was written for another one."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Timeouts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pool's limits, in seconds. `connect` is the adapter's to keep, the others are the host's.

    `first_token` counts from the start of an attempt, `idle` between two events, `drain` is how long streams may go
    on after a replica was told to stop, and with less than `min_useful` left a task is not sent at all. `preload` is
    how long a new generation of a replica may take until it is ready to take over.
    """

    connect: float = 2.0
    first_token: float = 60.0
    idle: float = 30.0
    drain: float = 60.0
    min_useful: float = 0.05
    preload: float = 60.0

    def __post_init__(self) -> None:
        for name in self.__struct_fields__:
            value = getattr(self, name)
            least = "from 0" if name in ("drain", "min_useful") else "above 0"
            if not 0 <= value <= 86_400 or (value == 0 and least == "above 0"):
                raise ValueError(f"timeouts.{name} is {value}; give seconds, {least} and up to 86400")


class AdapterContext(msgspec.Struct, frozen=True):
    """All that an adapter is given; nothing is global.

    `config` is an instance of the spec's `config_type`, secrets resolved. `http` are the pool's overrides, as they
    stand in the config. `clock` counts seconds, monotonic. `narrate` takes one sentence for people. `count` takes the
    name of what happened once more, one of a few, for the host's metrics.
    """

    pool_id: str
    replica_id: str
    config: Any
    timeouts: Timeouts
    http: Mapping[str, Any]
    clock: Callable[[], float]
    narrate: Callable[[str], None]
    count: Callable[[str], None] = lambda _: None

    @property
    def replica(self) -> str:
        """`pool_id/replica_id`, as it stands in `Started.replica`."""
        return f"{self.pool_id}/{self.replica_id}"


class Progress(msgspec.Struct, frozen=True):
    """How far a launch has come. `done` and `total` are bytes, None where there is nothing to count."""

    what: str
    done: int | None = None
    total: int | None = None


class LaunchOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What to start. `model` None means the adapter's own small model; `context` is in tokens per slot.

    `port` 0 means a free one. `workload` is what it shall serve; one that embeds or reranks may do more besides.
    """

    model: Path | None = None
    slots: int = 2
    context: int = 2048
    threads: int | None = None
    port: int = 0
    workload: Workload = "completion"
    progress: Callable[[Progress], None] = lambda _: None


class LaunchError(Exception):
    """An engine could not be started; the message says why and the mend."""


Launch = Callable[[LaunchOptions], AbstractAsyncContextManager[str]]
"""Starts an engine and gives its base URL; leaving the block stops it. Raises `LaunchError`."""


class AdapterSpec(msgspec.Struct, frozen=True):
    """An engine that a package can speak to.

    `engine` is the name used in configs. `api` is the `API_VERSION` the package was written for. `config_type` is a
    Struct that refuses unknown keys and has a field `url`. `factory` makes an adapter for one replica, without I/O.
    `advise`, where given, is asked about each task before it is sent, such as `token_budget`.
    """

    engine: str
    api: int
    config_type: type[msgspec.Struct]
    factory: Callable[[AdapterContext], WorkerAdapter]
    launch: Launch | None = None
    advise: Advise | None = None


class BindingInfo(msgspec.Struct, frozen=True):
    """A binding as hooks see it. `generation` counts from 1 and grows with each rebind of the replica."""

    pool_id: str
    replica_id: str
    engine: str
    generation: int


class ReplicaView(msgspec.Struct, frozen=True):
    """A replica as a routing policy sees it: one that takes a task now.

    `in_flight` tasks run there. `slots` is how many its engine runs at once, None where nobody knows. `busy`: its
    engine says that tasks wait in it.
    """

    replica_id: str
    in_flight: int
    slots: int | None = None
    busy: bool = False


RoutePolicy = Callable[[TaskRequest, tuple[ReplicaView, ...]], str | None]
"""Picks a replica: gives the replica_id of one of the views, at least one; None leaves it to the host."""


class HookSpecs:
    """The hook specifications; an adapter's package needs the first alone.

    The registering hooks are called once, when the plugin is loaded. All others tell what happened: they are plain
    functions, called one after the other on a thread of the plugin's own, so that nothing waits for them. One that
    raises, or takes longer than 2 s, three times in a row, or once for 10 s, is called no more.
    """

    @hookspec
    def llama_orch_register_adapters(self, register: Callable[[AdapterSpec], None]) -> None:
        """Call `register` once for each engine; do no I/O and import nothing heavy."""

    @hookspec
    def llama_orch_on_preload(self, binding: BindingInfo) -> None:
        """A replica is being built; it serves nothing yet."""

    @hookspec
    def llama_orch_on_bind(self, binding: BindingInfo) -> None:
        """A replica is bound and takes tasks."""

    @hookspec
    def llama_orch_on_reload(self, binding: BindingInfo) -> None:
        """A bound replica is about to get a new generation, if that gets ready; `binding` is the one it has."""

    @hookspec
    def llama_orch_on_rebind(self, binding: BindingInfo) -> None:
        """A new generation of a replica has taken over."""

    @hookspec
    def llama_orch_on_drain(self, binding: BindingInfo) -> None:
        """A replica takes no more tasks; its streams run on."""

    @hookspec
    def llama_orch_on_unbind(self, binding: BindingInfo) -> None:
        """A replica is closed and gone."""

    @hookspec
    def llama_orch_on_event(self, event: object) -> None:
        """The host emitted an event of its union."""

    @hookspec
    def llama_orch_register_routes(self, register: Callable[[str, RoutePolicy], None]) -> None:
        """Call `register(name, policy)` once for each routing policy."""
