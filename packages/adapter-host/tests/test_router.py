"""From a task to a replica, or why nobody takes it (ORCH-3602)."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from llama_orch_adapter_api import BindingInfo, PoolUnavailable, ReplicaView, RoutePolicy, TaskRequest
from llama_orch_adapter_host import AdapterHost, PoolPolicy
from llama_orch_adapter_host._binding import Binding
from llama_orch_adapter_host._breaker import BreakerPolicy
from llama_orch_adapter_host._bus import Bus
from llama_orch_adapter_host._events import HostEvent, RouteFailed
from llama_orch_adapter_host._gate import ASKING
from llama_orch_adapter_host._registry import Registry
from llama_orch_adapter_host._router import Router
from llama_orch_adapter_host._routes import Look

from .adapters import Engine, Words, Yard, host_of, moment, task, virtual  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import DOWN, LOADING, bound, trip  # type: ignore[import-not-found]  # as above

NOW = Look(0.0)


class Table:
    """A router over pools that are given as bindings by name, and what it told."""

    def __init__(self, policy: PoolPolicy | None = None, *policies: RoutePolicy, **pools: list[Binding]) -> None:
        self.registry = Registry()
        for name, bindings in pools.items():
            for i, likeness in enumerate(bindings):
                info = BindingInfo(name, str(i), "words", generation=1)
                self.registry.put(
                    Binding(info, likeness.adapter, likeness.timeouts, likeness.gate, leases=likeness.leases),
                    policy if name == "pool" else None,
                )
        self.told: list[HostEvent] = []
        bus = Bus()
        bus.add(self.told.append)
        self.router = Router(self.registry, lambda: {each.__name__: each for each in policies}, bus)

    def route(self, request: TaskRequest | None = None, look: Look = NOW) -> tuple[str, str]:
        """Where a task goes, and why."""
        picked = self.router.route(self.registry.pool("pool"), request or task(), look)
        return picked.binding.replica, picked.why

    def refusal(self, request: TaskRequest | None = None, look: Look = NOW) -> PoolUnavailable:
        with pytest.raises(PoolUnavailable) as caught:
            self.route(request, look)
        return caught.value


def opened(open_for: float) -> Binding:
    """A replica whose breaker opened at 0."""
    binding = bound(breaker=BreakerPolicy(open_for=open_for, spread=0))
    trip(binding)
    return binding


def ailing(how: str) -> Binding:
    binding = bound(limit=0 if how == "full" else None)
    match how:
        case "draining":
            binding.gate.drain()
        case "down":
            binding.gate.health.saw(DOWN)
            binding.gate.health.saw(DOWN)
        case "loading":
            binding.gate.health.saw(LOADING)
        case "paused":
            binding.gate.paused_until = 2.5
        case "open":
            return opened(5)
    return binding


# --- the pin


def test_a_pinned_task_goes_where_it_is_pinned():
    """A task's `replica_id` outranks how much that replica has to do, its session, and any policy."""

    def first(_: TaskRequest, replicas: tuple[ReplicaView, ...]) -> str:
        return replicas[0].replica_id

    table = Table(PoolPolicy(route="first"), first, pool=[bound(), bound("1", 9)])

    assert table.route(task(replica_id="1", session_id="s")) == ("pool/1", "the task is pinned to it")
    pool = table.registry.pool("pool")
    failed = msgspec.structs.replace(NOW, without=(pool.bindings["1"],))
    assert table.router.others(pool, task(replica_id="1"), failed) is False
    table.registry.put(bound("1"))
    assert table.router.others(pool, task(replica_id="1"), failed) is True  # its next generation


def test_a_pin_to_nowhere_names_what_is_bound():
    """A task pinned to a replica that is not there is refused for good, and told which ones there are."""
    error = Table(pool=[bound(), bound()]).refusal(task(replica_id="r9"))

    assert error.message == "replica 'r9', which the task is pinned to, is not bound (bound: 0, 1)"
    assert (error.detail, error.phase, error.pool, error.replica) == ("unknown_pool", "queue", "pool", "r9")
    assert (error.retriable, error.engine_fault) == (False, False)


def test_a_pin_to_one_that_refuses():
    """A pinned task is told of its own replica, not of others that would take it, nor sent to them."""
    table = Table(PoolPolicy(fallback=("spare",)), pool=[bound(), ailing("paused")], spare=[bound()])
    error = table.refusal(task(replica_id="1"))

    assert (error.detail, error.retry_after, error.replica) == ("overloaded", 2.5, "1")
    assert "its replica is left alone for a moment" in error.message


# --- fallback


def test_pools_that_stand_in():
    """Where no replica of the pool takes a task the pools that stand in for it are asked, in their order."""
    policy = PoolPolicy(fallback=("absent", "first", "second"))
    spares = {"first": [bound()], "second": [bound()]}

    assert Table(policy, pool=[bound()], **spares).route() == ("pool/0", "the only replica")
    table = Table(policy, pool=[ailing("open")], **spares)
    assert table.route() == ("first/0", "fallback, the only replica")
    assert table.router.others(table.registry.pool("pool"), task(), NOW) is True
    table = Table(policy, pool=[ailing("open")], first=[ailing("full")], second=[bound()])
    assert table.route() == ("second/0", "fallback, the only replica")


def test_where_nobody_stands_in_either():
    """Where the fallback refuses too, the task is told of its own pool."""
    table = Table(PoolPolicy(fallback=("spare",)), pool=[ailing("open")], spare=[ailing("full")])

    assert table.refusal().detail == "all_open"
    assert table.router.others(table.registry.pool("pool"), task(), NOW) is False


# --- policies of plugins


def test_a_policy_by_its_name():
    """A pool's policy decides, by its name; one that leaves it to the host, or is not installed, does not."""

    def last(_: TaskRequest, replicas: tuple[ReplicaView, ...]) -> str:
        return replicas[-1].replica_id

    def nobody(_: TaskRequest, replicas: tuple[ReplicaView, ...]) -> None:
        return None

    pool = [bound("0", 1), bound("1", 2)]

    assert Table(PoolPolicy(route="last"), last, nobody, pool=pool).route() == ("pool/1", "policy last")
    assert Table(PoolPolicy(route="nobody"), last, nobody, pool=pool).route() == ("pool/0", "least in flight")
    assert Table(PoolPolicy(route="absent"), last, nobody, pool=pool).route() == ("pool/0", "least in flight")


def test_a_policy_replaces_affinity():
    """With a plugin's policy the session decides nothing: the policy, which is shown it, does."""
    sessions: list[str | None] = []

    def last(asked: TaskRequest, replicas: tuple[ReplicaView, ...]) -> str:
        sessions.append(asked.session_id)
        return replicas[-1].replica_id

    def nobody(_: TaskRequest, replicas: tuple[ReplicaView, ...]) -> None:
        return None

    pool = [bound("0", 1), bound("1", 1), bound("2", 1)]
    many = [task(session_id=f"session {i}") for i in range(20)]
    by_session = Table(PoolPolicy(), pool=pool)
    by_policy = Table(PoolPolicy(route="last"), last, pool=pool)
    by_default = Table(PoolPolicy(route="nobody"), nobody, pool=pool)

    assert {by_session.route(each)[1] for each in many} == {"session affinity"}
    assert {by_policy.route(each) for each in many} == {("pool/2", "policy last")}
    assert sessions == [each.session_id for each in many]
    assert {by_default.route(each)[1] for each in many} == {"least in flight"}


async def slow(_: TaskRequest, replicas: tuple[ReplicaView, ...]) -> str:
    return replicas[0].replica_id


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (slow, "TypeError"),
        (lambda *_: 1 / 0, "ZeroDivisionError"),
        (lambda *_: "no such replica", "KeyError"),
        (lambda *_: ["0"], "TypeError"),
        (lambda: "0", "TypeError"),
    ],
    ids=["async", "raises", "unknown", "nonsense", "signature"],
)
def test_a_policy_that_fails(answer: Callable[..., Any], error: str):
    """Battery 31: a policy that raises, or names nobody it was shown, is told of, and the default decides."""
    answer.__name__ = "odd"
    table = Table(PoolPolicy(route="odd"), answer, pool=[bound()])

    assert table.route() == ("pool/0", "the only replica")
    assert table.told == [RouteFailed(pool_id="pool", policy="odd", error=error)]


@pytest.mark.parametrize("leave", [SystemExit(3), BaseException("x")], ids=["exits", "base"])
def test_a_policy_that_wants_to_leave(leave: BaseException):
    """Battery 31: a policy that ends the process, or raises what is no Exception, only fails; Ctrl-C goes through."""

    def odd(*_: object) -> str:
        raise leave

    table = Table(PoolPolicy(route="odd"), odd, pool=[bound()])

    assert table.route() == ("pool/0", "the only replica")
    assert table.told == [RouteFailed(pool_id="pool", policy="odd", error=type(leave).__name__)]
    for through in (KeyboardInterrupt(), asyncio.CancelledError()):
        leave = through
        with pytest.raises(type(through)):
            table.route()


def test_a_policy_has_three_strikes():
    """Battery 31: after three failures in a row a policy is asked no more, which is told once; a success forgives."""
    asked = 0

    def odd(*_: object) -> str | None:
        nonlocal asked
        asked += 1
        if asked != 3:
            raise KeyError("x")
        return None

    table = Table(PoolPolicy(route="odd"), odd, pool=[bound()])
    for _ in range(20):
        table.route()

    assert asked == 6
    assert [(told.error, told.dropped) for told in table.told if isinstance(told, RouteFailed)] == [
        *[("KeyError", False)] * 4,
        ("KeyError, the last of 3 strikes in a row; it is asked no more", True),
    ]
    assert len(table.told) == 5


# --- refusals


@pytest.mark.parametrize(
    ("how", "detail", "retry_after", "message"),
    [
        ("full", "at_capacity", None, "at max_in_flight · wait, raise the limit, or add replicas"),
        (
            "paused",
            "overloaded",
            2.5,
            "left alone for a moment after pushing back; to be asked again in 2.5 s · wait, or add replicas",
        ),
        ("loading", "loading", None, "loading the model · wait until it is loaded"),
        (
            "open",
            "all_open",
            5.0,
            "left alone for a while after too many failures; to be asked again in 5 s · look at the engines' own logs",
        ),
        ("down", "unreachable", None, "not answering health checks · check that the engines run, and their urls"),
        (
            "draining",
            "draining",
            None,
            (
                "being drained · use another pool, or undo that: host.undrain(pool_id), "
                "or POST /v1/pools/{id}/reload?undrain=true"
            ),
        ),
    ],
)
def test_why_nobody_takes_it(how: str, detail: str, retry_after: float | None, message: str):
    """ORCH-3602: a pool whose replica refuses says what is the matter and the mend, and when it may be otherwise."""
    error = Table(pool=[ailing(how)]).refusal()

    assert error.message == f"pool 'pool' takes no task now: its replica is {message}"
    assert (error.detail, error.phase, error.pool, error.retry_after) == (detail, "queue", "pool", retry_after)


def test_the_nearest_is_told():
    """ORCH-3602: of several reasons the one nearest to taking a task is told, with the soonest moment of all."""
    order = ["full", "paused", "loading", "open", "down", "draining"]
    details = ["at_capacity", "overloaded", "loading", "all_open", "unreachable", "draining"]
    for first, detail in enumerate(details):
        error = Table(pool=[ailing(how) for how in reversed(order[first:])]).refusal()

        assert error.detail == detail
        assert error.retry_after == (2.5 if first < 2 else 5.0 if first < 4 else None)


def test_how_many_of_them():
    """ORCH-3602: the message counts the replicas that the reason holds for."""
    two = Table(pool=[ailing("full"), ailing("full"), ailing("down")]).refusal()
    one = Table(pool=[ailing("full"), ailing("down"), ailing("down")]).refusal()

    assert "takes no task now: 2 of its 3 replicas are at max_in_flight · " in two.message
    assert "takes no task now: 1 of its 3 replicas is at max_in_flight · " in one.message


def test_all_open_tells_the_smallest_remaining_time():
    """ORCH-3602: with every breaker open `retry_after` is the time until the first may let a task through, never 0."""
    table = Table(pool=[opened(9), opened(4), opened(7)])

    assert table.refusal().retry_after == 4
    assert table.refusal(look=Look(3.0)).retry_after == moment(1)
    assert table.refusal(look=Look(20.0)).retry_after == ASKING


def test_at_capacity_tells_of_the_others():
    """ORCH-3602: a limit is per replica: what is full is passed over while another has room."""
    table = Table(pool=[bound("0", 2, limit=2), bound("1", 1, limit=2)])
    assert table.route()[0] == "pool/1"
    table.registry.binding("pool", "1").leases.add(object())  # type: ignore[arg-type]

    assert table.refusal().detail == "at_capacity"


@pytest.mark.parametrize("route", ["least_in_flight", "first"])
def test_a_pool_that_was_emptied(route: str):
    """ORCH-3600: a task that still holds a pool without a replica is told so, and the mend."""

    def first(_: TaskRequest, replicas: tuple[ReplicaView, ...]) -> str:
        return replicas[0].replica_id

    table = Table(PoolPolicy(route=route), first, pool=[bound()])
    pool = table.registry.pool("pool")
    table.registry.remove(pool.order[0])
    with pytest.raises(PoolUnavailable, match="has no replica bound any more · bind one, or use another") as caught:
        table.router.route(pool, task(), NOW)
    with pytest.raises(PoolUnavailable, match=r"is not bound \(bound: none\)"):
        table.router.route(pool, task(replica_id="0"), NOW)

    assert (caught.value.detail, caught.value.pool) == ("unknown_pool", "pool")
    assert not table.router.others(pool, task(), NOW)


def test_why_a_pool_takes_nothing_is_told_without_a_task() -> None:
    """What a task would be refused with is told beforehand, and nothing is where a replica or a stand-in takes one."""
    full = Table(pool=[bound(flights=1, limit=1)])
    second = Table(pool=[bound(flights=1, limit=1), bound()])
    stand_in = Table(PoolPolicy(fallback=("other",)), pool=[opened(5)], other=[bound()])

    asked = full.router.refusal(full.registry.pool("pool"), 0.0)

    assert asked is not None
    assert (asked.detail, asked.message) == (full.refusal().detail, full.refusal().message)
    for table in (second, stand_in):
        assert table.router.refusal(table.registry.pool("pool"), 0.0) is None


async def test_a_host_says_why_it_would_refuse() -> None:
    """An unknown pool and a stop of the host are reasons too."""
    async with host_of(Words()) as host:
        assert host.refusal("pool") is None
        unknown = host.refusal("nope")
        await host.aclose()
        stopping = host.refusal("pool")

    assert unknown is not None
    assert unknown.detail == "unknown_pool"
    assert stopping is not None
    assert stopping.detail == "draining"


@virtual
async def test_sessions_in_a_pool_that_stands_in():
    """The sessions of a pool that refuses stay each on one replica of the pool that stands in for it."""
    yard = Yard(lambda _: Engine(words=2, pause=60.0))
    async with AdapterHost(plugins=yard.plugins) as host:
        host.bind("pool", "words", {}, policy=PoolPolicy(fallback=("spare",)))
        for i in range(4):
            host.bind("spare", "words", {}, replica_id=str(i))
        await host.drain("pool")
        tasks = [task(session_id=f"s{i % 16}") for i in range(16 * 4)]
        streams = [asyncio.create_task(host.submit("pool", each).__aenter__()) for each in tasks]
        await asyncio.sleep(1)
        taken = [each for engine in yard.built for each in engine.tasks]
        why = {host.explain(each).attempts[0].why for each in taken}
        for each in streams:
            each.cancel()
        await asyncio.wait(streams)

    assert len(taken) == len(tasks)
    assert why == {"fallback, session affinity"}
