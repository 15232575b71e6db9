"""Which replica takes a task, and why: functions over values (ORCH-3602)."""

import collections
import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import ReplicaView, TaskRequest
from llama_orch_adapter_host import PoolPolicy
from llama_orch_adapter_host._binding import Binding
from llama_orch_adapter_host._gate import Gate, Refusal
from llama_orch_adapter_host._pool import Pool
from llama_orch_adapter_host._routes import FEW, Look, Pick, by_policy, least_in_flight, pick

from .adapters import task  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import BUSY, DOWN, LOADING, bound, pool_of, trip  # type: ignore[import-not-found]  # as above

NOW = Look(0.0)

TICK = 3e-4
"""Seconds between two tasks of a host that does nothing else."""


def ticking() -> Callable[[], Look]:
    """Looks at a pool by one task after the other."""
    ticks = itertools.count()
    return lambda: Look(TICK * next(ticks))


def many(count: int, flights: int = 0) -> Pool:
    return pool_of(*(bound(str(i), flights) for i in range(count)))


def id_of(picked: Pick | None) -> str | None:
    return None if picked is None else picked.binding.info.replica_id


def run(binding: Binding) -> None:
    """Let one task more run there."""
    binding.leases.add(object())  # type: ignore[arg-type]


# --- least in flight


@given(st.lists(st.tuples(st.integers(0, 5), st.sampled_from([None, 1, 2, 4])), min_size=1, max_size=8))
def test_the_least_in_flight_for_its_slots(replicas: list[tuple[int, int | None]]):
    """Of few replicas none has less to do, for each of its slots, than the one that is picked."""
    pool = pool_of(*(bound(str(i), flights, slots=slots) for i, (flights, slots) in enumerate(replicas)))
    loads = [flights / (slots or 1) for flights, slots in replicas]
    picked = least_in_flight(pool, NOW)

    assert loads[int(id_of(picked) or -1)] == min(loads)


def test_equals_take_turns():
    """Replicas that have the same to do are picked in turn, each as often as the others."""
    pool = many(5)
    picked = [id_of(least_in_flight(pool, NOW)) for _ in range(50)]

    assert collections.Counter(picked) == dict.fromkeys("01234", 10)
    assert all(set(picked[i : i + 5]) == set("01234") for i in range(0, 50, 5))


def test_a_busy_replica_counts_as_one_slot_fuller():
    """An engine that says tasks wait in it is picked only where the others have their slots' worth more to do."""
    calm, busy = bound("calm", 1, slots=2), bound("busy", 0, slots=2)
    busy.gate.health.saw(BUSY)
    pool = pool_of(calm, busy)
    assert {id_of(least_in_flight(pool, NOW)) for _ in range(4)} == {"calm"}

    for _ in range(2):
        run(calm)
    assert {id_of(least_in_flight(pool, NOW)) for _ in range(4)} == {"busy"}


def test_the_reasons():
    """Each pick says why, in words for people."""
    only, few, lots = many(1), many(2), many(9)

    assert least_in_flight(only, NOW) == (only.order[0], "the only replica")
    assert [pick.why for pool in (few, lots) if (pick := least_in_flight(pool, NOW))] == [
        "least in flight",
        "fewer in flight of two drawn",
    ]


def _close(binding: Binding, how: str) -> None:
    """Make it refuse."""
    match how:
        case "draining":
            binding.gate.drain()
        case "down":
            binding.gate.health.saw(DOWN)
            binding.gate.health.saw(DOWN)
        case "loading":
            binding.gate.health.saw(LOADING)
        case "open":
            trip(binding)
        case "paused":
            binding.gate.paused_until = 1.0
        case "full":
            binding.gate.limit = len(binding.leases)


@pytest.mark.parametrize("count", [3, 30])
@pytest.mark.parametrize("how", ["draining", "down", "loading", "open", "paused", "full"])
def test_who_refuses_is_not_picked(how: str, count: int):
    """A replica that refuses, for whichever reason, is not picked though it has the least to do."""
    pool = many(count, flights=1)
    for binding in pool.order[1:]:
        _close(binding, how)
    run(pool.order[0])

    assert {id_of(pick(pool, task(), NOW)) for _ in range(20)} == {"0"}
    _close(pool.order[0], how)
    assert pick(pool, task(), NOW) is None


def test_who_was_tried_is_left_out():
    """What an attempt leaves out is not picked, in a small pool, in a large one, nor by a session."""
    for count in (3, 30):
        pool = many(count)
        look = Look(0.0, without=pool.order[1:])

        assert {id_of(pick(pool, task(session_id="s"), look)) for _ in range(10)} == {"0"}
        assert pick(pool, task(session_id="s"), Look(0.0, without=pool.order)) is None


def test_two_draws_spread_the_load():
    """In a large pool two draws keep the fullest replica close to the average (power of two choices)."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    pool = many(100)
    for _ in range(2000):
        picked = least_in_flight(pool, Look(0.0, chance=rng.random))
        assert picked is not None
        run(picked.binding)
    fullest = max(len(binding.leases) for binding in pool.order)
    print(f"seed {seed}: 2000 tasks on 100 replicas, the fullest has {fullest}")

    assert fullest <= 20 + 5


# --- the price of a pick


class Counted(Gate):
    """Counts how often it is looked at."""

    __slots__ = ()
    looks = 0

    def refuses(self, now: float, in_flight: int) -> Refusal | None:
        Counted.looks += 1
        return super().refuses(now, in_flight)


def counted(pool: Pool, what: Callable[[], Any]) -> int:
    """How often the pool's gates are looked at for it."""
    for binding in pool.order:
        binding.gate.__class__ = Counted
    Counted.looks = 0
    what()
    return Counted.looks


@pytest.mark.parametrize("request_", [task(), task(session_id="s")], ids=["no_session", "session"])
def test_a_pick_costs_the_same_whatever_the_number(request_: TaskRequest):
    """Battery 41: of 9, 100 or 1000 replicas a pick looks at two gates, by session at one."""
    looks = {}
    for count in (9, 100, 1000):
        pool = many(count)
        looks[count] = counted(pool, lambda pool=pool: pick(pool, request_, NOW))  # type: ignore[misc]
    print(f"gates looked at by size of the pool: {looks}")

    assert set(looks.values()) == {2 if request_.session_id is None else 1}


def test_a_pool_that_refuses_costs_one_look_each():
    """Battery 13: where every one of many refuses, each is looked at once, by session twice, and some drawn."""
    pool = many(100)
    for binding in pool.order:
        trip(binding)

    assert counted(pool, lambda: pick(pool, task(), NOW)) == 2 * 4 + 100
    assert counted(pool, lambda: pick(pool, task(session_id="s"), NOW)) == 100 + 2 * 4 + 100


# --- sessions


def test_a_session_stays_where_it_is():
    """The tasks of a session go to one replica, those of many sessions to all."""
    pool = many(5)
    sessions = [f"s{i}" for i in range(200)]
    homes = {session: id_of(pick(pool, task(session_id=session), NOW)) for session in sessions}

    assert all(id_of(pick(pool, task(session_id=session), NOW)) == homes[session] for session in sessions)
    assert set(homes.values()) == set("01234")
    assert getattr(pick(pool, task(session_id="s"), NOW), "why", "") == "session affinity"


def test_few_sessions_move_with_the_replicas():
    """A replica that goes takes its own sessions with it and moves no other; back again, it has them again."""
    pool = many(5)
    sessions = [f"s{i}" for i in range(500)]

    def homes() -> dict[str, str | None]:
        return {session: id_of(pick(pool, task(session_id=session), NOW)) for session in sessions}

    before = homes()
    gone = pool.bindings["2"]
    pool.remove("2")
    without = homes()
    pool.set(gone)

    assert {before[session] for session in sessions if before[session] != without[session]} == {"2"}
    assert homes() == before


def test_a_refusing_home_lends_its_sessions():
    """While a session's replica refuses, another one takes it, always the same; then it goes home."""
    pool = many(5)
    request = task(session_id="s")
    home = pick(pool, request, NOW)
    assert home is not None
    home.binding.gate.paused_until = 1.0
    away = {id_of(pick(pool, request, NOW)) for _ in range(10)}

    assert len(away) == 1
    assert away != {id_of(home)}
    assert pick(pool, request, Look(1.0)) == home


def run_sessions(pool: Pool, sessions: int, turns: int) -> tuple[int, collections.Counter[str]]:
    """Let sessions run tasks that do not end; how many left where the one before them runs, and why each was picked."""
    last: dict[int, str | None] = {}
    left = 0
    whys: collections.Counter[str] = collections.Counter()
    look = ticking()
    for turn in range(turns):
        for session in range(sessions):
            picked = pick(pool, task(session_id=f"s{session}"), look())
            assert picked is not None
            run(picked.binding)
            whys[picked.why] += 1
            left += turn > 0 and last[session] != id_of(picked)
            last[session] = id_of(picked)
    return left, whys


@pytest.mark.parametrize("count", [4, 8, 40])
@pytest.mark.parametrize("how", ["draining", "down", "loading", "open", "paused", "full"])
def test_sessions_stay_while_others_refuse(how: str, count: int):
    """Of a pool that half refuses, and whose tasks are another pool's, sessions stay on the half that takes them."""
    pool = many(count)
    for binding in pool.order[::2]:
        _close(binding, how)
    left, whys = run_sessions(pool, sessions=4 * count, turns=8)

    assert set(whys) == {"session affinity"}
    assert left <= 0.05 * 4 * count * 7


@pytest.mark.parametrize("count", [4, 40])
def test_one_session_does_not_drown_its_replica(count: int):
    """Bounded load: for its session a replica never has more than 1.25 times the average in flight, and two."""
    pool = many(count)
    refusing, taking = pool.order[: count // 2], pool.order[count // 2 :]
    for binding in refusing:
        for _ in range(100):
            run(binding)
        _close(binding, "draining")
    request, look = task(session_id="s"), ticking()
    for number in range(50 * len(taking)):
        picked = pick(pool, request, look())
        assert picked is not None
        assert picked.why != "session affinity" or len(picked.binding.leases) <= 1.25 * number / len(taking) + 1
        run(picked.binding)
    loads = sorted(len(binding.leases) for binding in taking)
    print(f"one session's {50 * len(taking)} tasks on {len(taking)} replicas: {loads}")

    assert loads[-1] <= 1.25 * 50 + 2
    assert loads.count(0) <= len(taking) / 5


@pytest.mark.parametrize("count", [9, 100, 1000])
def test_what_a_session_costs_under_load(count: int):
    """Battery 41: whatever the number, tasks of sessions look at a few gates each, on average."""
    pool = many(count, flights=2)
    sessions = [task(session_id=f"s{i}") for i in range(4 * count)]
    look = ticking()
    looks = counted(pool, lambda: [pick(pool, each, look()) for each in sessions])
    print(f"{looks / len(sessions):.1f} gates looked at by each of {len(sessions)} tasks, of {count}")

    assert looks <= 2 * FEW * len(sessions)


def set_loads(pool: Pool, flights: int) -> None:
    """Let so many tasks run on each of its replicas."""
    for binding in pool.order:
        binding.leases.clear()
        for _ in range(flights):
            run(binding)


def counted_at(flights: int) -> Pool:
    """A pool of a thousand whose load was counted at the moment 0, when each replica had so many in flight."""
    pool = many(1000)
    set_loads(pool, flights)
    for _ in range(2):
        picked = pick(pool, task(session_id="s"), NOW)
        assert picked is not None
        run(picked.binding)
    pick(pool, task(session_id="s"), NOW)
    return pool


@pytest.mark.parametrize(("later", "why"), [(0.0, "fewer in flight of two drawn"), (3600.0, "session affinity")])
def test_a_pool_is_not_walked_for_an_average_of_the_past(later: float, why: str):
    """Battery 41: counted idle and loaded since, a pool is counted anew; at once, a few replicas of it are asked."""
    pool = counted_at(0)
    set_loads(pool, 5)
    looks, whys = [], set()
    for number in range(130):
        picked: list[Pick | None] = []
        request = task(session_id=f"s{number}")
        looks.append(
            counted(pool, lambda request=request, picked=picked: picked.append(pick(pool, request, Look(later))))
        )  # type: ignore[misc]
        whys.add(getattr(picked[0], "why", ""))

    assert whys == {why}
    assert sum(look >= 1000 for look in looks) == (later > 0)  # each is looked at once, to count
    assert sorted(looks)[-2] <= FEW + 2


def test_one_session_does_not_drown_its_replica_for_an_average_of_the_past():
    """Bounded load: counted under load and idle since, a pool lets no session have a replica for itself."""
    pool = counted_at(20)
    set_loads(pool, 0)
    for _ in range(30):
        picked = pick(pool, task(session_id="s"), Look(3600.0))
        assert picked is not None
        run(picked.binding)

    assert max(len(binding.leases) for binding in pool.order) == 2


def test_a_session_is_refused_by_nobody_for_an_average_of_the_past():
    """Bounded load: where all that take tasks are over a bound that is too low by now, one gets it all the same."""
    pool = counted_at(0)
    for binding in pool.order[2:]:
        _close(binding, "paused")
    set_loads(pool, 5)

    assert {id_of(pick(pool, task(session_id="s"), NOW)) for _ in range(20)} <= {"0", "1"}


def test_without_affinity():
    """A pool whose policy says so knows no sessions, and one of a single replica needs not to."""
    pool = pool_of(*(bound(str(i)) for i in range(3)), policy=PoolPolicy(affinity=False))

    assert {id_of(pick(pool, task(session_id="s"), NOW)) for _ in range(3)} == set("012")
    assert getattr(pick(many(1), task(session_id="s"), NOW), "why", "") == "the only replica"


# --- policies of plugins


def test_a_policy_sees_who_takes_it():
    """A plugin's policy is shown the replicas that take the task, in their order, and what they have to do."""
    shown: list[tuple[ReplicaView, ...]] = []

    def last(_: TaskRequest, replicas: tuple[ReplicaView, ...]) -> str:
        shown.append(replicas)
        return replicas[-1].replica_id

    busy, full = bound("busy", 2, slots=4), bound("full", limit=0)
    busy.gate.health.saw(BUSY)
    pool = pool_of(bound("a"), full, busy, policy=PoolPolicy(route="last"))

    assert by_policy(last, pool, task(), NOW) == (busy, "policy last")
    assert shown == [(ReplicaView("a", 0, None), ReplicaView("busy", 2, 4, busy=True))]
    assert by_policy(last, pool_of(full), task(), NOW) is None
    assert len(shown) == 1
    assert by_policy(lambda *_: None, pool, task(), NOW) is None
    with pytest.raises(KeyError):
        by_policy(lambda *_: "full", pool, task(), NOW)
