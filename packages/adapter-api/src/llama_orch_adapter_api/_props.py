"""What a replica is, and how it is."""

from datetime import datetime
from typing import Literal, Self

import msgspec

from ._errors import WorkerError
from ._task import Workload

State = Literal["ready", "loading", "busy", "down"]


class WorkerHealth(msgspec.Struct, frozen=True):
    """How a replica is at this moment.

    `live`: something answers. `ready`: a task submitted now would run or be queued by the engine. `loading` and
    `busy` are no failures. `detail` is one line for people.
    """

    live: bool
    ready: bool
    state: State
    detail: str = ""

    @classmethod
    def of(cls, error: WorkerError) -> Self:
        """The health of a replica whose answer to the question was this error."""
        state: State = "loading" if error.detail == "loading" else "down"
        return cls(live=error.detail not in {"unreachable", "address"}, ready=False, state=state, detail=error.message)


class Capabilities(msgspec.Struct, frozen=True):
    """What a replica can do; it changes only when the engine is replaced or reconfigured.

    `model_digest` is `sha256:<hex>` of the weights, None where neither engine nor file tells. `model_source` is where
    they come from as far as the engine says: a hub's name, or that of a file or folder without its path. `ctx_max` is
    in tokens, prompt and answer together. `slots` is how many tasks run at once, None where the engine has no fixed
    number. `features` are lower-case words such as `tools`, `vision`, `logprobs`, `confirms_cancel`, `deterministic`
    (one seed gives the same tokens, whatever else runs). `observed_at` is UTC.
    """

    engine: str
    engine_version: str
    model_id: str
    observed_at: datetime
    model_digest: str | None = None
    model_source: str | None = None
    ctx_max: int | None = None
    batching: bool = False
    slots: int | None = None
    workloads: tuple[Workload, ...] = ("completion",)
    features: tuple[str, ...] = ()


class WorkerProps(msgspec.Struct, frozen=True):
    """A replica's capacity now, and its capabilities. Slots are None where the engine does not count them."""

    slots_total: int | None
    slots_free: int | None
    capabilities: Capabilities
