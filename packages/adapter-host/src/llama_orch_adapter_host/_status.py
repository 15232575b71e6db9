"""How a replica stands at one moment: what its gate goes by, and what runs there."""

from typing import Literal

import msgspec

from ._binding import Binding
from ._breaker import State
from ._health import Belief

Stage = Literal["building", "bound", "leaving"]
"""Whether a generation takes no tasks yet, takes them, or takes no more and only ends those that run."""


class ReplicaStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a replica.

    `health` is what is believed after hysteresis, "unknown" before the first answer, and `detail` the engine's words
    for it. `reopens_in` is in how many seconds the breaker may admit again, 0 where it admits or waits for health
    alone. `in_flight` tasks run there; `limit` and `slots` are how many may, by its pool's policy and by the engine,
    None where nobody says.
    """

    pool_id: str
    replica_id: str
    engine: str
    generation: int
    stage: Stage
    health: Belief
    detail: str
    breaker: State
    reopens_in: float
    in_flight: int
    limit: int | None
    slots: int | None


def status_of(binding: Binding, stage: Stage, now: float) -> ReplicaStatus:
    """At the moment `now`, on the loop's clock."""
    info, gate = binding.info, binding.gate
    return ReplicaStatus(
        pool_id=info.pool_id,
        replica_id=info.replica_id,
        engine=info.engine,
        generation=info.generation,
        stage="leaving" if gate.draining else stage,
        health=gate.health.belief,
        detail=gate.health.detail,
        breaker=gate.breaker.state,
        reopens_in=gate.breaker.reopens_in(now) if gate.breaker.state == "open" else 0.0,
        in_flight=len(binding.leases),
        limit=gate.limit,
        slots=gate.slots,
    )
