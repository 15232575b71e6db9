from typing import Any

import pytest
from llama_orch_adapter_api import ReplicaView, TaskRequest, hookimpl
from llama_orch_adapter_host import AdapterHost, ConfigError, HostConfig, Plugins, PoolPolicy, ReloadError, parse_config
from llama_orch_adapter_host._blueprint import read_blueprints

from .adapters import Words, plugins_with, virtual  # type: ignore[import-not-found]  # test folders are no packages


class Router:
    """A plugin with a routing policy."""

    @hookimpl
    def llama_orch_register_routes(self, register: Any) -> None:
        def nearest(_: TaskRequest, replicas: tuple[ReplicaView, ...]) -> str:
            return replicas[0].replica_id

        register("nearest", nearest)


def routed(adapters: int = 0) -> Plugins:
    plugins = plugins_with(*(Words() for _ in range(adapters)))
    plugins.register_plugin(Router(), "router")
    return plugins


def config(**pools: str) -> HostConfig:
    lines = [f"[pools.{pool}]\nengine = 'words'\nreplicas = [{{}}]\n{more}" for pool, more in pools.items()]
    return parse_config("\n".join(lines).encode())


def problems_of(told: HostConfig, plugins: Plugins) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read_blueprints(told, plugins)
    return caught.value.problems


def test_a_route_and_the_stand_ins_of_a_config_are_known():
    """ORCH-3600: a config may name the default, a plugin's routing policy, and its own pools to stand in."""
    told = config(a="route = 'least_in_flight'\nfallback = ['b']", b="route = 'nearest'\nfallback = ['c', 'a']", c="")

    assert [blueprint.pool_id for blueprint in read_blueprints(told, routed())] == ["a", "b", "c"]


def test_a_slip_in_a_route_or_a_stand_in_is_told():
    """ORCH-3600: a config that names an unknown policy or pool is refused, with all that is wrong and what there is."""
    told = config(a="route = 'nearset'\nfallback = ['b', 'sparr']", b="fallback = ['bb']")

    route, spare, other = problems_of(told, routed())

    assert route == (
        "pool 'a': no routing policy is named 'nearset' (known: least_in_flight, nearest); "
        "name one of these, or install the plugin that registers it"
    )
    assert spare == (
        "pool 'a': fallback names 'sparr', which is no pool (pools: a, b); "
        "name one of these, or add a table [pools.sparr]"
    )
    assert other.startswith("pool 'b': fallback names 'bb', which is no pool (pools: a, b); ")


def test_a_slip_is_told_beside_an_unknown_engine():
    """What is wrong with a pool's policy and what is wrong with its engine are told together."""
    route, engine = problems_of(config(a="route = 'x'"), Plugins())

    assert "no routing policy is named 'x' (known: least_in_flight)" in route
    assert "no adapter is installed" in engine


@virtual
async def test_a_slip_changes_nothing_in_a_reload():
    """ORCH-3600: a reload to a config with an unknown policy or pool raises, and the policies stay as they were."""
    host = AdapterHost(config(a="fallback = ['b']", b=""), routed(2))
    async with host:
        for slip in ("route = 'x'", "fallback = ['x']"):
            with pytest.raises(ReloadError, match="'x'"):
                await host.reload(config(a=slip, b=""))

        assert host._registry.pool("a").policy == PoolPolicy(fallback=("b",))


@virtual
async def test_by_hand_a_route_is_known_and_a_stand_in_may_come_later():
    """`bind` and `rebind` refuse an unknown routing policy, with nothing bound; the pools of `fallback` may follow."""
    host = AdapterHost(plugins=routed(2))
    async with host:
        with pytest.raises(ConfigError, match=r"no routing policy is named 'x' \(known: least_in_flight, nearest\)"):
            host.bind("a", "words", {}, policy=PoolPolicy(route="x"))
        assert host.pools() == ()
        host.bind("a", "words", {}, policy=PoolPolicy(route="nearest", fallback=("later",)))
        with pytest.raises(ReloadError, match="no routing policy is named 'x'"):
            await host.rebind("a", "words", {}, policy=PoolPolicy(route="x"))
        host.bind("later", "words", {})

        assert host.pools() == ("a", "later")
