import pytest
from llama_orch_adapter_api import BindingInfo, PoolUnavailable, Timeouts
from llama_orch_adapter_host import ConfigError
from llama_orch_adapter_host._registry import Binding, Registry

from .adapters import Words  # type: ignore[import-not-found]  # test folders are no packages


def binding(pool: str, replica: str) -> Binding:
    return Binding(BindingInfo(pool, replica, "words", generation=1), Words(), Timeouts())


def test_one_binding_for_each_pool_and_replica():
    """ORCH-3600: the same replica id may stand in two pools, and each pool gives its own adapters, in binding order."""
    registry = Registry()
    chat = [binding("chat", name) for name in ("b", "a")]
    embed = binding("embed", "a")
    for one in (*chat, embed):
        registry.add(one)

    assert registry.pool("chat") == {"b": chat[0], "a": chat[1]}
    assert list(registry.pool("chat")) == ["b", "a"]
    assert registry.pool("embed") == {"a": embed}
    assert registry.all() == [*chat, embed]
    assert registry.names() == ("chat", "embed")


def test_adding_tells_what_is_bound():
    """ORCH-3600: a new binding is answered with its pool, replica, engine and first generation."""
    info = Registry().add(binding("chat", "r0"))

    assert info == BindingInfo("chat", "r0", "words", generation=1)


def test_a_replica_is_bound_once():
    """ORCH-3600: a second binding of the same replica is refused with the mend, and the first one stays."""
    registry = Registry()
    first = binding("chat", "0")
    registry.add(first)

    with pytest.raises(ConfigError, match="replica chat/0 is bound already; give another replica_id"):
        registry.add(binding("chat", "0"))

    assert registry.all() == [first]


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


def test_a_binding_is_itself_and_cannot_change():
    """A binding is compared by identity, as its leases are, and refuses to be changed."""
    one = binding("chat", "0")

    assert one != binding("chat", "0")
    assert one.replica == "chat/0"
    with pytest.raises(AttributeError):
        one.adapter = Words()  # type: ignore[misc]
