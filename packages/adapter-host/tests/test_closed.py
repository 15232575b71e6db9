"""What is known of a pool that takes no task is never older than what its replicas would say (battery 13)."""

import random
from collections.abc import Callable

import pytest
from llama_orch_adapter_api import BindingInfo, PoolUnavailable
from llama_orch_adapter_host import PoolPolicy
from llama_orch_adapter_host._binding import Binding
from llama_orch_adapter_host._breaker import BreakerPolicy, Permit
from llama_orch_adapter_host._bus import Bus
from llama_orch_adapter_host._gate import ASKING, Gate, Refusal
from llama_orch_adapter_host._pool import Pool
from llama_orch_adapter_host._registry import Registry
from llama_orch_adapter_host._router import Router
from llama_orch_adapter_host._routes import Look

from .adapters import task  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import DOWN, LOADING, READY, bound, pool_of, trip  # type: ignore[import-not-found]  # as above


class Fate:
    """A pool to which things happen, drawn by a seed."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.now = 0.0
        self.permits: list[tuple[Binding, Permit]] = []
        self.pool = pool_of(*(self.replica(str(name)) for name in range(3)))

    def replica(self, name: str) -> Binding:
        return bound(name, breaker=BreakerPolicy(open_for=3, probe_lease=2), limit=1)

    def happen(self) -> None:
        acts: list[Callable[[Binding], None]] = [
            lambda each: trip(each, self.now),
            lambda each: trip(each, self.now),
            lambda each: each.gate.breaker.half_open(self.now),
            lambda each: each.gate.breaker.postpone(self.now),
            self.enter,
            self.leave,
            lambda each: each.gate.health.saw(self.rng.choice((READY, DOWN, LOADING))) or None,
            lambda each: each.leases.add(each),  # type: ignore[arg-type]  # whoever counts them looks into none
            lambda each: each.leases.discard(each),  # type: ignore[arg-type]  # as above
            self.pass_time,
            self.pass_time,
            self.rebind,
        ]
        if self.rng.random() < 0.03:
            acts = [lambda each: each.gate.drain()]
        self.rng.choice(acts)(self.rng.choice(self.pool.order))

    def pass_time(self, _: Binding) -> None:
        self.now += self.rng.uniform(0, 2)

    def enter(self, binding: Binding) -> None:
        permit = binding.gate.breaker.enter(self.now)
        if permit is not None:
            self.permits.append((binding, permit))

    def leave(self, _: Binding) -> None:
        if self.permits:
            binding, permit = self.permits.pop()
            if self.rng.random() < 0.3:
                binding.gate.breaker.first_token(permit, self.now)
            binding.gate.breaker.leave(permit, self.rng.choice(("ok", "fault", "neutral")), self.now)

    def rebind(self, binding: Binding) -> None:
        if self.rng.random() < 0.2:
            self.pool.set(self.replica(binding.info.replica_id))


def answer(router: Router, pool: Pool, now: float) -> tuple[str, float | None]:
    """What becomes of a task now: sent, or why not and when it may come again; not when, where a span was over."""
    known = pool.known_closed(now)
    try:
        router.route(pool, task(), Look(now))
    except PoolUnavailable as error:
        told = error.retry_after
        return error.detail, None if told is None or (known and known.again_at <= now) else round(told, 9)
    return "sent", None


def forget(pool: Pool) -> None:
    """Keep nothing of what was found out by looking."""
    pool.closed = None
    for binding in pool.order:
        binding.gate.join(pool.pulse)


def test_what_is_kept_says_what_the_replicas_say():
    """Battery 13: whatever happens to replicas, what is told of their pool is what a fresh look at them tells."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    router = Router(Registry(), dict, Bus())
    seen: dict[str, int] = {}
    kept = timed = 0
    for _ in range(200):
        fate = Fate(rng)
        for _ in range(100):
            fate.happen()
            kept += fate.pool.known_closed(fate.now) is not None
            told, when = answer(router, fate.pool, fate.now)
            again, _ = answer(router, fate.pool, fate.now)
            forget(fate.pool)
            fresh, really = answer(router, fate.pool, fate.now)
            assert told == again == fresh, f"seed {seed}"
            assert when in {None, really} or (really and when <= ASKING >= really), f"seed {seed}"
            seen[told] = seen.get(told, 0) + 1
            timed += when is not None
    print(f"seed {seed}: {seen}, {kept} of them known before, {timed} with a moment")

    assert {"sent", "all_open", "unreachable", "loading", "at_capacity", "draining"} <= set(seen)
    assert min(kept, timed) > 1000


def test_a_closed_pool_is_looked_at_once():
    """Battery 13: neither a pool that is known to be closed nor one that stands in for it is looked at again."""
    looked = 0

    class Counted(Gate):
        def refuses(self, now: float, in_flight: int) -> Refusal | None:
            nonlocal looked
            looked += 1
            return super().refuses(now, in_flight)

    registry = Registry()
    policy = PoolPolicy(fallback=("spare",))
    for pool_id in ("main", "spare"):
        for number in range(100):
            made = bound(str(number))
            gate = Counted(made.gate.breaker, made.gate.health)
            binding = Binding(BindingInfo(pool_id, str(number), "words", 1), made.adapter, made.timeouts, gate)
            trip(binding)
            registry.add(binding, policy if pool_id == "main" else None)
    router, pool = Router(registry, dict, Bus()), registry.pool("main")
    counts = []
    for request in (task(), task(), task(session_id="s"), task()):
        before = looked
        with pytest.raises(PoolUnavailable) as caught:
            router.route(pool, request, Look(0.0))
        counts.append(looked - before)

    before = looked
    told = router.refusal(pool, 0.0)

    assert told is not None
    assert looked == before
    assert counts[0] >= 400
    assert counts[1:] == [0, 0, 0]
    assert (caught.value.detail, caught.value.pool) == ("all_open", "main")


def test_when_to_ask_again_counts_down():
    """Battery 13: a pool that is known to be closed tells how long that lasts from now, not from when it was seen."""
    replicas = [bound(str(name), breaker=BreakerPolicy(open_for=5 + name, spread=0)) for name in range(3)]
    pool = pool_of(*replicas)
    for replica in replicas:
        trip(replica, 0.0)
    router = Router(Registry(), dict, Bus())
    waits = []
    for now in (0.0, 1.0, 4.5, 5.5):
        with pytest.raises(PoolUnavailable) as caught:
            router.route(pool, task(), Look(now))
        waits.append(caught.value.retry_after)

    assert waits == pytest.approx([5, 4, 0.5, 0.5], abs=1e-9)
