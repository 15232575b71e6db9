"""What an orchestrator tells a host of a replica that it starts, moves or reconfigures."""

from typing import Any

import msgspec

from ._check import identifier, jsonable, require, shown
from ._hooks import Timeouts


class PoolEvent(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One replica as it shall be: a host preloads its next generation for it, or reloads the replica to it.

    `replica` is its adapter's own table, as in a config, secrets by reference: the host reads the variables and files
    it names. `timeouts` and `http` None: as the replica has them now, a new one as its pool has them.
    """

    pool_id: str
    engine: str
    replica: dict[str, Any]
    replica_id: str = "0"
    timeouts: Timeouts | None = None
    http: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        for name in ("pool_id", "replica_id", "engine"):
            value = getattr(self, name)
            identifier(name, value)
            require("/" not in value, f"{name} is {shown(value)}; give it without a slash")
        jsonable("replica", self.replica)
        jsonable("http", self.http)
