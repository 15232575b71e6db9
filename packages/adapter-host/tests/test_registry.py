import gc
import random
import weakref

import pytest
from llama_orch_adapter_api import BindingInfo, PoolUnavailable, Timeouts
from llama_orch_adapter_host import ConfigError, PoolPolicy
from llama_orch_adapter_host._binding import Binding
from llama_orch_adapter_host._breaker import BreakerPolicy, Breakers
from llama_orch_adapter_host._gate import Gate
from llama_orch_adapter_host._health import Health, HealthPolicy
from llama_orch_adapter_host._registry import NUMBERED, Registry
from llama_orch_adapter_host._retry import RetryPolicy

from .adapters import Words  # type: ignore[import-not-found]  # test folders are no packages


def binding(pool: str, replica: str, generation: int = 1) -> Binding:
    breakers = Breakers(random=random.random, on_change=lambda *_: None)
    gate = Gate(breakers.create("key", BreakerPolicy()), Health(HealthPolicy()))
    return Binding(BindingInfo(pool, replica, "words", generation), Words(), Timeouts(), gate)


def test_one_binding_for_each_pool_and_replica():
    """ORCH-3600: the same replica id may stand in two pools, and each pool gives its own adapters, in binding order."""
    registry = Registry()
    chat = [binding("chat", name) for name in ("b", "a")]
    embed = binding("embed", "a")
    for one in (*chat, embed):
        registry.add(one)

    assert registry.pool("chat").bindings == {"b": chat[0], "a": chat[1]}
    assert registry.pool("chat").order == tuple(chat)
    assert registry.pool("embed").order == (embed,)
    assert registry.all() == [*chat, embed]
    assert registry.names() == ("chat", "embed")


def test_a_replica_is_bound_once():
    """ORCH-3600: a second binding of the same replica is refused with the mend, and the first one stays."""
    registry = Registry()
    first = binding("chat", "0")
    registry.add(first)

    with pytest.raises(ConfigError, match="replica chat/0 is bound already; give another replica_id"):
        registry.add(binding("chat", "0"))

    assert registry.all() == [first]


def test_a_new_generation_takes_its_place():
    """ORCH-3600: what is put where something is bound stands in its very place, and hands back what stood there."""
    registry = Registry()
    old, other, new = binding("chat", "0"), binding("chat", "1"), binding("chat", "0", generation=2)
    registry.add(old)
    registry.add(other)

    assert registry.put(new) is old
    assert registry.pool("chat").order == (new, other)
    assert registry.find("chat", "0") is new


def test_who_was_replaced_removes_nothing():
    """ORCH-3600: taking out a generation that another has taken over from leaves that other where it is."""
    registry = Registry()
    old, new = binding("chat", "0"), binding("chat", "0", generation=2)
    registry.add(old)
    registry.put(new)

    assert not registry.remove(old)
    assert registry.all() == [new]


def test_the_last_replica_takes_its_pool_with_it():
    """ORCH-3600: a pool whose last replica is taken out is unknown; the same twice is nothing."""
    registry = Registry()
    only = binding("chat", "0")
    registry.add(only)

    assert registry.remove(only)
    assert not registry.remove(only)
    assert (registry.names(), registry.get("chat"), registry.find("chat", "0")) == ((), None, None)


def test_generations_go_on_counting():
    """ORCH-3600: numbers begin at 1 for each replica, and one that is built again after an unbind goes on counting."""
    registry = Registry()
    first = binding("chat", "0")

    assert registry.next_generation("chat", "0") == registry.next_generation("chat", "0") == 1
    registry.number(first.info)
    registry.add(first)
    registry.remove(first)
    assert registry.next_generation("chat", "0") == 2
    assert registry.next_generation("chat", "1") == 1


def test_generations_are_not_counted_for_ever():
    """ORCH-3600: of very many names the latest are counted; whoever was forgotten gets a number it never had."""
    registry = Registry()

    def build(replica_id: str) -> int:
        generation = registry.next_generation("chat", replica_id)
        registry.number(BindingInfo("chat", replica_id, "words", generation))
        return generation

    assert [build("first"), build("first"), build("second")] == [1, 2, 1]
    assert [build(str(i)) for i in range(NUMBERED - 1)] == [1] * (NUMBERED - 1)
    assert len(registry._latest) == NUMBERED
    assert build("second") == 2
    assert build("first") == 3
    assert len(registry._latest) == NUMBERED


def test_a_policy_is_its_pools():
    """A policy that comes with a binding is the whole pool's; None leaves it, and the budget with it, as it is."""
    registry = Registry()
    registry.add(binding("chat", "0"), PoolPolicy(affinity=False))
    budget = registry.pool("chat").budget
    registry.add(binding("chat", "1"))

    assert registry.pool("chat").policy == PoolPolicy(affinity=False)
    registry.add(binding("chat", "2"), PoolPolicy(max_in_flight=2))
    assert registry.pool("chat").budget is budget
    registry.put(binding("chat", "2"), PoolPolicy(retry=RetryPolicy(budget=1)))
    assert registry.pool("chat").budget.left == 1


@pytest.mark.parametrize(("pools", "told"), [((), "bound: none"), (("chat", "embed"), "bound: chat, embed")])
def test_an_unknown_pool_is_told_with_those_there_are(pools: tuple[str, ...], told: str):
    """A pool that nobody bound is PoolUnavailable (unknown_pool), and told with the pools that are bound."""
    registry = Registry()
    for pool in pools:
        registry.add(binding(pool, "0"))

    with pytest.raises(PoolUnavailable, match=told) as caught:
        registry.pool("nope")

    assert (caught.value.detail, caught.value.phase, caught.value.pool) == ("unknown_pool", "queue", "nope")
    assert not caught.value.retriable


def test_an_unknown_replica_is_told_with_those_there_are():
    """A replica that nobody bound is PoolUnavailable (unknown_pool), and told with its pool's replicas."""
    registry = Registry()
    registry.add(binding("chat", "b"))
    registry.add(binding("chat", "a"))

    with pytest.raises(PoolUnavailable, match=r"pool 'chat' has no replica 'nope' \(bound: a, b\)") as caught:
        registry.binding("chat", "nope")

    assert (caught.value.detail, caught.value.replica) == ("unknown_pool", "nope")


def test_a_binding_is_itself_and_cannot_change():
    """A binding is compared by identity, as its leases are, and refuses to be changed."""
    one = binding("chat", "0")

    assert one != binding("chat", "0")
    assert one.replica == "chat/0"
    with pytest.raises(AttributeError):
        one.adapter = Words()  # type: ignore[misc]


def test_a_pool_lives_as_long_as_its_tasks():
    """ORCH-3600: a pool that is bound again is the one its tasks still hold, treated anew; else nothing is kept."""
    registry = Registry()
    registry.add(binding("chat", "0"), PoolPolicy(max_in_flight=7))
    held = registry.pool("chat")
    registry.remove(held.order[0])
    registry.add(binding("chat", "1"))

    assert registry.pool("chat") is held
    assert (held.policy, list(held.bindings)) == (PoolPolicy(), ["1"])

    registry.remove(held.order[0])
    gone = weakref.ref(held)
    del held
    gc.collect()

    assert gone() is None
