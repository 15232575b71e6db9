"""How the tasks of a pool are treated, as its config says."""

from typing import Annotated

import msgspec

from ._breaker import BreakerPolicy
from ._health import HealthPolicy
from ._retry import RetryPolicy

LEAST_IN_FLIGHT = "least_in_flight"
"""The routing policy where none is named."""


class PoolPolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the tasks of a pool are treated.

    `route` names a routing policy: `least_in_flight` or a plugin's. `affinity`, of `least_in_flight` alone, sends the
    tasks of one `session_id` to one replica while it is not overloaded; a plugin's policy sees the session and decides.
    `fallback` are the pools that are asked, in order, when no replica of this one takes a task. `max_in_flight` is how
    many tasks a replica may have at once; over it the host raises at once.
    """

    route: str = LEAST_IN_FLIGHT
    affinity: bool = True
    fallback: tuple[str, ...] = ()
    max_in_flight: Annotated[int, msgspec.Meta(ge=1)] | None = None
    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    health: HealthPolicy = HealthPolicy()
