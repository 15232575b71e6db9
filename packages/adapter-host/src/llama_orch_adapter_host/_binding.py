"""One adapter that stands for one replica. A binding never changes: what replaces it is another generation."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Protocol

import msgspec
from llama_orch_adapter_api import Advise, BindingInfo, Timeouts, WorkerAdapter, WorkerError

from ._gate import Gate


class Lease(Protocol):
    """A use of a binding: as long as there is one, the adapter lives."""

    async def stop(self) -> None:
        """End it, and wait until the adapter has let go."""

    def cut(self, error: WorkerError) -> bool:
        """End it with an error. False where it was over already."""


class Leases(dict[Lease, None]):
    """The uses of one binding, in the order in which they began."""

    __slots__ = ("_none",)

    def __init__(self) -> None:
        super().__init__()
        self._none: asyncio.Event | None = None  # for who waits for that

    def add(self, lease: Lease) -> None:
        """Begin one."""
        self[lease] = None

    def discard(self, lease: Lease) -> None:
        """End one; a second time is nothing."""
        self.pop(lease, None)
        if not self and self._none is not None:
            self._none.set()

    async def none(self) -> None:
        """Return as soon as there is none."""
        while self:
            self._none = self._none or asyncio.Event()
            self._none.clear()
            await self._none.wait()


def _untold(what: str, error: str) -> None:
    """Of a binding that no host has made."""


class Binding(msgspec.Struct, frozen=True, eq=False):
    """One adapter bound to one replica. `leases` are the flights that use it now, `gate` says whether it takes more.

    `broke` is told what the adapter did wrong where no task fails of it: where, and the class of what it raised.
    `fingerprint` tells what it was built from: another one needs another binding. `http` are its pool's overrides.
    `unanswered` are questions that were given up and still run, `nonsense` what was told to be wrong.
    `replica` is `pool_id/replica_id`.
    """

    info: BindingInfo
    adapter: WorkerAdapter
    timeouts: Timeouts
    gate: Gate
    fingerprint: str = ""
    advise: Advise | None = None
    http: Mapping[str, object] = {}
    leases: Leases = msgspec.field(default_factory=Leases)
    broke: Callable[[str, str], None] = _untold
    unanswered: set[asyncio.Future[object]] = msgspec.field(default_factory=set)
    nonsense: set[str] = msgspec.field(default_factory=set)
    replica: str = ""

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "replica", f"{self.info.pool_id}/{self.info.replica_id}")
