"""What every replica can do, as it was last seen (ORCH-3603)."""

import asyncio
from datetime import UTC, datetime
from typing import Any

import jsonschema
import msgspec
import pytest
from llama_orch_adapter_api import Capabilities, PoolUnavailable, WorkerProps
from llama_orch_adapter_host import (
    AdapterHost,
    CapabilitySnapshot,
    HealthPolicy,
    PoolCapabilities,
    PoolPolicy,
    capabilities_schema,
)
from llama_orch_adapter_host._capabilities import CapabilityCache, changes
from llama_orch_adapter_host._events import CapabilitiesChanged, HostEvent

from .adapters import host_of, moment, virtual  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import DOWN, READY, Replica, bound, props  # type: ignore[import-not-found]  # as above

ABSENT = PoolUnavailable("connection refused", detail="unreachable")


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Telling(Replica):
    """Says what it can do, or fails to, and counts how often it was asked."""

    def __init__(self, answer: WorkerProps | PoolUnavailable) -> None:
        super().__init__()
        self.told = answer
        self.props_asked = 0

    async def props(self) -> WorkerProps:
        self.props_asked += 1
        await asyncio.sleep(0.1)
        if isinstance(self.told, PoolUnavailable):
            raise self.told
        return self.told


# --- the cache


def test_before_the_first_answer():
    """ORCH-3603: a replica that never answered is told by engine and generation, stale, with its problem if any."""
    cache, binding = CapabilityCache(60, Clock()), bound()
    unknown = cache.of(binding)
    cache.saw(binding, ABSENT)

    assert (unknown.engine, unknown.generation, unknown.stale, unknown.problem) == ("words", 1, True, None)
    assert (unknown.capabilities, unknown.observed_at, unknown.age) == (None, None, None)
    assert cache.of(binding) == msgspec.structs.replace(unknown, problem="connection refused")


def test_an_answer_grows_old():
    """ORCH-3603: an answer has an age, counted on the host's clock; past the patience it is stale."""
    clock = Clock()
    cache, binding = CapabilityCache(60, clock), bound()
    assert cache.age(binding) == float("inf")
    before = datetime.now(UTC)
    cache.saw(binding, props(4))
    after = datetime.now(UTC)
    clock.now += 60
    fresh = cache.of(binding)
    clock.now += 0.1
    stale = cache.of(binding)

    assert (fresh.age, fresh.stale, stale.stale) == (60, False, True)
    assert (fresh.slots_total, fresh.slots_free, fresh.problem) == (4, 4, None)
    assert fresh.observed_at is not None
    assert before <= fresh.observed_at <= after
    assert stale.observed_at == fresh.observed_at
    assert binding.gate.slots == 4


def test_an_answer_is_fresh_for_three_pauses():
    """ORCH-3603: where looks are further apart than the patience, an answer is fresh until three of them are due."""
    clock = Clock()
    cache, binding = CapabilityCache(60, clock), bound()
    cache.saw(binding, props())
    clock.now += 300

    assert [cache.of(binding, pause).stale for pause in (0, 20, 99.9, 100, 1000)] == [True, True, True, False, False]


def test_a_replica_that_no_longer_answers():
    """ORCH-3603: the last answer is kept, as stale, with the reason; the next one makes it fresh again."""
    cache, binding = CapabilityCache(60, Clock()), bound()
    cache.saw(binding, props())
    assert cache.saw(binding, ABSENT) == ()
    lost = cache.of(binding)
    cache.saw(binding, props())
    back = cache.of(binding)

    assert lost.capabilities == back.capabilities == props().capabilities
    assert (lost.stale, lost.problem) == (True, "connection refused")
    assert (back.stale, back.problem) == (False, None)


def test_what_is_forgotten():
    """ORCH-3603: nothing is kept of a binding that is gone, and forgetting it again is nothing."""
    cache, binding = CapabilityCache(60, Clock()), bound()
    cache.saw(binding, props())
    cache.forget(binding)
    cache.forget(binding)

    assert cache.of(binding).capabilities is None


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        ({"ctx_max": 32768}, {"ctx_max": 8192}, ["context shrank 32768 → 8192"]),
        ({"ctx_max": 8192}, {"ctx_max": 32768}, ["context grew 8192 → 32768"]),
        ({"ctx_max": None}, {"ctx_max": 8192}, ["context changed None → 8192"]),
        ({"model_id": "a"}, {"model_id": "b\nc"}, [r"model changed a → b\nc"]),
        ({"engine_version": "1"}, {"engine_version": "2"}, ["engine changed 1 → 2"]),
        ({"features": ("tools", "vision")}, {"features": ("tools", "logprobs")}, ["features -vision +logprobs"]),
        ({"features": ("a", "b")}, {"features": ("b", "a")}, ["features reordered"]),
        ({"batching": False}, {"batching": True}, ["batching changed False → True"]),
        ({"slots": 1, "ctx_max": 9}, {"slots": 2, "ctx_max": 8}, ["context shrank 9 → 8", "slots grew 1 → 2"]),
        ({}, {"observed_at": datetime(2026, 2, 1, tzinfo=UTC)}, []),
    ],
)
def test_the_words_of_a_change(before: dict[str, Any], after: dict[str, Any], told: list[str]):
    """ORCH-3603: each change is one sentence in people's words; when it was observed is none."""
    one = Capabilities(**{**_BASE, **before})
    other = Capabilities(**{**_BASE, **after})

    assert changes(one, other) == tuple(told)


_BASE = {name: getattr(props().capabilities, name) for name in Capabilities.__struct_fields__}


def test_a_change_is_told_once():
    """ORCH-3603: the first answer changes nothing, another one tells what is different, the same one nothing."""
    cache, old, new = CapabilityCache(60, Clock()), bound(), bound()

    assert cache.hand_over(old, new) == ()
    assert cache.saw(old, props(ctx_max=32768)) == ()
    assert cache.hand_over(old, new) == ()
    assert cache.saw(old, props(ctx_max=8192)) == ("context shrank 32768 → 8192",)
    assert cache.saw(old, props(ctx_max=8192)) == ()
    assert cache.saw(new, props(ctx_max=4096)) == ()
    assert cache.hand_over(old, new) == ("context shrank 8192 → 4096",)


# --- the host


@virtual
async def test_it_is_asked_by_itself_and_again():
    """ORCH-3603: a replica is asked when it was found ready and every minute from then on, and changes are events."""
    events: list[HostEvent] = []
    replica = Telling(props(ctx_max=32768))
    async with host_of(replica) as host:
        host.observe(events.append)
        assert _of(host).stale
        await asyncio.sleep(1)
        first = _of(host)
        replica.told = props(ctx_max=8192)
        await asyncio.sleep(600)
        later = _of(host)

    assert (first.stale, first.age) == (False, moment(0.85))
    assert first.capabilities is not None
    assert first.capabilities.ctx_max == 32768
    assert 8 <= replica.props_asked <= 11
    assert later.age is not None
    assert later.age <= 66.2
    assert [event.changes for event in events if isinstance(event, CapabilitiesChanged)] == [
        ("context shrank 32768 → 8192",)
    ]


@pytest.mark.parametrize("interval", [1.0, 29.0, 45.0, 70.0, 600.0])
@virtual
async def test_looks_that_are_far_apart_keep_it_fresh(interval: float):
    """ORCH-3603: whatever the health interval, a replica that answers is never stale, one that is down is."""
    replica = Telling(props())
    policy = PoolPolicy(health=HealthPolicy(interval=interval, spread=0.3))
    async with host_of(replica, policy=policy) as host:
        await asyncio.sleep(1)
        seen: list[bool] = []
        for _ in range(200):
            await asyncio.sleep(interval / 7)
            seen.append(_of(host).stale)
        replica.answer = DOWN
        await asyncio.sleep(121 + 4 * interval)

        assert not any(seen)
        assert _of(host).stale


@virtual
async def test_a_replica_that_is_down_grows_stale():
    """ORCH-3603: a replica that is down is not asked what it can do; it grows stale, and is asked when it is back."""
    replica = Telling(props())
    async with host_of(replica) as host:
        await asyncio.sleep(1)
        replica.answer = DOWN
        asked = replica.props_asked
        await asyncio.sleep(119)
        fresh = _of(host)
        await asyncio.sleep(2)
        stale = _of(host)
        assert replica.props_asked == asked
        replica.answer = READY
        await asyncio.sleep(12.2)

        assert (fresh.stale, stale.stale, _of(host).stale) == (False, True, False)


@virtual
async def test_whoever_asks_meanwhile_shares_the_answer():
    """ORCH-3603: a hundred refreshes at once ask the engine once."""
    replica = Telling(props())
    async with host_of(replica) as host:
        (binding,) = host._registry.all()
        await asyncio.gather(*(host._fleet.lookout.refresh(binding) for _ in range(100)))

        assert replica.props_asked == 1
        await host._fleet.lookout.refresh(binding)
        assert replica.props_asked == 2


@virtual
async def test_reading_asks_nobody():
    """ORCH-3603: reading the cache is no I/O: it neither waits nor asks, however often."""
    replica = Telling(ABSENT)
    async with host_of(replica, Telling(props())) as host:
        for _ in range(1000):
            host.capabilities()

        assert replica.props_asked == 0
        await asyncio.sleep(1)
        snapshot = host.capabilities()

    assert list(snapshot.pools) == ["pool"]
    pool = snapshot.pools["pool"].replicas
    assert list(pool) == ["0", "1"]
    assert [(pool[name].stale, pool[name].problem) for name in pool] == [(True, "connection refused"), (False, None)]


def test_the_schema_fits_what_is_served():
    """ORCH-3603: the published JSON schema holds for a snapshot of every kind, and refuses what is none."""
    cache, known, unknown = CapabilityCache(60, Clock()), bound("a"), bound("b")
    cache.saw(known, props(features=("tools",)))
    cache.saw(unknown, ABSENT)
    snapshot = CapabilitySnapshot({"pool": PoolCapabilities({"a": cache.of(known), "b": cache.of(unknown)})})
    served = msgspec.json.decode(msgspec.json.encode(snapshot))
    schema = capabilities_schema()

    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(served, schema)
    assert msgspec.convert(served, CapabilitySnapshot) == snapshot
    del served["pools"]["pool"]["replicas"]["a"]["generation"]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(served, schema)


def _of(host: AdapterHost) -> Any:
    return host.capabilities().pools["pool"].replicas["0"]
