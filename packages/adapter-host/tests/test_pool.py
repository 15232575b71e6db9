"""Replicas that stand in for each other (ORCH-3602)."""

import math

from llama_orch_adapter_host import PoolPolicy
from llama_orch_adapter_host._gate import Refusal
from llama_orch_adapter_host._retry import RetryPolicy

from .replicas import bound, pool_of  # type: ignore[import-not-found]  # test folders are no packages


def test_a_replica_keeps_its_place():
    """A new generation takes the place of the old one; a new replica comes last."""
    first, second = bound("a"), bound("b")
    pool = pool_of(first, second)
    again, third = bound("a"), bound("c")
    pool.set(again)
    pool.set(third)

    assert pool.order == (again, second, third)
    pool.remove("b")
    assert pool.order == (again, third)


def test_the_ring_follows():
    """Where sessions belong is made anew when replicas come, go or are replaced, and kept meanwhile."""
    pool = pool_of(bound("a"), bound("b"))
    ring = pool.ring
    assert pool.ring is ring
    again = bound("a")
    pool.set(again)

    assert pool.ring is not ring
    assert again in set(pool.ring.walk("key"))
    pool.remove("a")
    assert again not in set(pool.ring.walk("key"))


def test_a_new_policy_keeps_what_was_spent():
    """A changed policy does not fill the retry budget, unless the budget's own figures are what changed."""
    pool = pool_of(bound())
    pool.budget.spend(4)
    pool.adopt(PoolPolicy(affinity=False))
    assert (pool.policy.affinity, pool.budget.left) == (False, 6)
    pool.adopt(PoolPolicy(retry=RetryPolicy(budget=20)))

    assert pool.budget.left == 20


def test_a_new_policy_holds_for_replicas_bound_earlier():
    """A changed limit of tasks in flight holds for every replica of the pool from then on."""
    first, second = bound("a", 2), bound("b", 0)
    pool = pool_of(first, second)
    pool.adopt(PoolPolicy(max_in_flight=2))
    assert first.gate.refuses(0.0, 2) == Refusal("full", math.inf)
    assert second.gate.refuses(0.0, 0) is None
    pool.adopt(PoolPolicy())

    assert first.gate.refuses(0.0, 2) is None
