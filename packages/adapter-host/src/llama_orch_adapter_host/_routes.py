"""Which replica takes a task, and why: functions over values.

The replica the task is pinned to comes first. Then, with the default policy, the one its session belongs to, and else
the one with the least in flight; a pool of few replicas is looked at whole; of many, two are drawn, so that a pick
costs the same whatever their number. A plugin's policy decides in the place of both: it sees the task with its session.
"""

import inspect
import random
from collections.abc import Callable, Collection
from typing import NamedTuple

import msgspec
from llama_orch_adapter_api import ReplicaView, RoutePolicy, TaskRequest

from ._binding import Binding
from ._pool import Pool

FEW = 8
"""Replicas of which all are looked at."""

_DRAWS = 4
"""Times two are drawn before all are looked at: most of a large pool refuses."""

_BOUND = 1.25
"""A session leaves its replica when that has so many times the average of those that take tasks, and one more."""

_KEPT = 20e-6
"""Seconds, for each replica of many, that the average is kept: counting takes a few hundredths of that."""


class Pick(NamedTuple):
    """A replica and why it was picked."""

    binding: Binding
    why: str


class Look(msgspec.Struct, frozen=True):
    """One look at a pool: `now` on the loop's clock, the replicas left out, where chance comes from."""

    now: float
    without: Collection[Binding] = ()
    chance: Callable[[], float] = random.random


def admits(binding: Binding, look: Look) -> bool:
    """Whether a task may be sent there now."""
    gate, without = binding.gate, look.without
    return gate.refuses(look.now, len(binding.leases)) is None and (not without or binding not in without)


def pick(pool: Pool, task: TaskRequest, look: Look) -> Pick | None:
    """The replica for a task that is not pinned, by session or by least in flight; None where none takes it."""
    if task.session_id is not None and pool.policy.affinity and len(pool.order) > 1:
        binding, over = _of_session(pool, task.session_id, look)
        if binding is not None:
            return Pick(binding, "session affinity")
        away = least_in_flight(pool, Look(look.now, (*look.without, *over), look.chance)) if over else None
        if away is not None:
            return away
    return least_in_flight(pool, look)


def least_in_flight(pool: Pool, look: Look) -> Pick | None:
    """The one with the least in flight for its slots; equals take turns."""
    order = pool.order
    if len(order) == 1:
        return Pick(order[0], "the only replica") if admits(order[0], look) else None
    if not order:  # unbound while a task waited
        return None
    if len(order) <= FEW:
        pool.turn = turn = (pool.turn + 1) % len(order)
        best = _least(order[turn:] + order[:turn], look)
        return None if best is None else Pick(best, "least in flight")
    for _ in range(_DRAWS):
        best = _least([order[int(look.chance() * len(order))] for _ in "12"], look)
        if best is not None:
            return Pick(best, "fewer in flight of two drawn")
    best = _least(order, look)
    return None if best is None else Pick(best, "least in flight")


def by_policy(policy: RoutePolicy, pool: Pool, task: TaskRequest, look: Look) -> Pick | None:
    """What a policy of somebody else picks.

    Raises whatever it raises, `KeyError` for a replica it was not shown, `TypeError` for an `async def`.
    """
    shown = {binding.info.replica_id: binding for binding in pool.order if admits(binding, look)}
    if not shown:
        return None
    picked = policy(task, tuple(view_of(binding) for binding in shown.values()))
    if inspect.iscoroutine(picked):
        picked.close()
        raise TypeError("a routing policy is a plain function")
    return None if picked is None else Pick(shown[picked], f"policy {pool.policy.route}")


def view_of(binding: Binding) -> ReplicaView:
    """A replica as routing policies see it."""
    gate = binding.gate
    return ReplicaView(binding.info.replica_id, len(binding.leases), gate.slots, busy=gate.busy)


def _least(bindings: Collection[Binding], look: Look) -> Binding | None:
    best: Binding | None = None
    least = 0.0
    for binding in bindings:
        if admits(binding, look):
            load = binding.gate.load(len(binding.leases))
            if best is None or load < least:
                best, least = binding, load
    return best


def _of_session(pool: Pool, session_id: str, look: Look) -> tuple[Binding | None, list[Binding]]:
    """The first on the ring that takes it and is within the bound, and those before it that are over: a few at most."""
    most, known = 1.0, False  # the bound is one at least: to one in flight nothing need be counted
    over: list[Binding] = []
    for binding in pool.ring.walk(session_id):
        if not admits(binding, look):
            continue
        if len(binding.leases) > most and not known:
            most, known = _BOUND * _average(pool, look.now) + 1, True
        if len(binding.leases) <= most:
            return binding, over
        over.append(binding)
        if len(over) == FEW:
            break
    return None, over


def _average(pool: Pool, now: float) -> float:
    """What is in flight on a replica that takes tasks: what refuses can take no session's overflow.

    Of many replicas it is what it was a moment ago, so that a pick pays for no more looks than one of few.
    """
    if now >= pool.average_until:
        loads = [len(each.leases) for each in pool.order if each.gate.refuses(now, len(each.leases)) is None]
        pool.average = sum(loads) / len(loads) if loads else 0.0
        pool.average_until = now + (_KEPT * len(pool.order) if len(pool.order) > FEW else 0.0)
    return pool.average
