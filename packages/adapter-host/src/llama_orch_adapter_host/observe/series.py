"""What is counted of a pool and of a replica, and how Prometheus is told of it.

The counts are plain numbers until somebody scrapes: Prometheus's own counters take a lock at each step, which a task
would pay for ten times. And they belong to their pool or replica: when that goes, its series go.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final, get_args

from llama_orch_adapter_api import (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    InternalError,
    Phase,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
    one_line,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from .._events import Ending

OTHER: Final = "other"
"""The label of what is in none of the closed sets."""

BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 160.0, 320.0)
"""Seconds: from a cached prompt's first token to a long answer's last."""

HEALTH: Final = ("ready", "busy", "loading", "down", OTHER)
BREAKER: Final = ("closed", "open", "half_open")

ENDINGS: Final[tuple[str, ...]] = get_args(Ending)
PHASES: Final[frozenset[str]] = frozenset(get_args(Phase))

_KINDS: tuple[type[WorkerError], ...] = (
    DeadlineUnmet,
    PoolUnavailable,
    DecodeTimeout,
    WorkerReset,
    AdapterError,
    InternalError,
)
ERRORS: Final = frozenset((kind.code, detail) for kind in _KINDS for detail in kind.verdicts)
"""Every code with its details."""

MOST_COUNTED: Final = 32
"""Names of what adapters count, for each replica; what is named after that is counted together."""

_WORD = re.compile("[a-z][a-z0-9_]{0,47}")
_BOUNDS = (*map(str, BUCKETS), "+Inf")
_REPLICA = ("pool", "replica", "engine")


def error_labels(code: str | None, detail: str | None) -> tuple[str, str]:
    """Code and detail as labels."""
    labels = (code or "", detail or "")
    return labels if labels in ERRORS else (OTHER, OTHER)


class Spans:
    """Seconds, as a histogram keeps them."""

    __slots__ = ("_buckets", "_sum")

    def __init__(self) -> None:
        self._buckets = [0] * len(_BOUNDS)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one."""
        self._buckets[bisect_left(BUCKETS, seconds)] += 1
        self._sum += seconds

    def add_to(self, family: HistogramMetricFamily, labels: Iterable[str]) -> None:
        """Tell them under these labels."""
        family.add_metric(tuple(labels), list(zip(_BOUNDS, accumulate(self._buckets), strict=True)), self._sum)


class ReplicaSeries:
    """A replica's. `generation` is the one that takes tasks, 0 while none does; health and breaker each generation has.

    One that is being built tells its health beside the one that runs, and one that drains may still tell its own.
    """

    __slots__ = (
        "adapter_faults",
        "breaker",
        "counts",
        "decode",
        "first_token",
        "generation",
        "health",
        "id",
        "labels",
        "retries",
        "set_up",
        "tokens_in",
        "tokens_out",
        "trips",
    )

    def __init__(self, pool_id: str, replica_id: str, engine: str) -> None:
        self.id = (pool_id, replica_id, engine)
        self.labels = tuple(map(one_line, self.id))
        self.generation = 0
        self.first_token = Spans()
        self.decode = Spans()
        self.tokens_in = 0
        self.tokens_out = 0
        self.trips = 0
        self.adapter_faults = 0
        self.retries: Counter[tuple[str, str]] = Counter()
        self.set_up: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self.health: dict[int, str] = {}
        self.breaker: dict[int, str] = {}

    def counts_one(self, what: str) -> None:
        """Count what an adapter counts, by its name for it, of which it might have any number."""
        known = what in self.counts or (len(self.counts) < MOST_COUNTED and _WORD.fullmatch(what))
        self.counts[what if known else OTHER] += 1

    def serves(self, generation: int) -> None:
        """A generation takes tasks; what older ones told of themselves is forgotten."""
        self.generation = max(self.generation, generation)
        for states in (self.health, self.breaker):
            for old in [each for each in states if each < self.generation]:
                del states[old]


class PoolSeries:
    """A pool's. In flight is the size of a set of tasks: a number that goes up and down might drift."""

    __slots__ = ("cancels", "errors", "id", "label", "live", "replicas", "submit", "tasks")

    def __init__(self, pool_id: str) -> None:
        self.id = pool_id
        self.label = one_line(pool_id)
        self.replicas: dict[str, ReplicaSeries] = {}
        self.live: set[str] = set()
        self.submit = {ending: Spans() for ending in ENDINGS}
        self.tasks = dict.fromkeys(ENDINGS, 0)
        self.errors: Counter[tuple[str, str]] = Counter()
        self.cancels: Counter[str] = Counter()


def of_pools(pools: Iterable[PoolSeries]) -> Iterator[Metric]:
    """What Prometheus is told of pools."""
    submit = _histogram("submit_seconds", "From submit to first token, or end where none came", "pool", "outcome")
    tasks = _counter("tasks", "Tasks that ended", "pool", "outcome")
    errors = _counter("errors", "Tasks that failed", "pool", "code", "detail")
    cancels = _counter("cancels", "Tasks that were cancelled", "pool", "phase")
    in_flight = _gauge("in_flight", "Tasks that run or wait for a replica", "pool")
    for pool in pools:
        for ending in ENDINGS:
            pool.submit[ending].add_to(submit, (pool.label, ending))
            tasks.add_metric((pool.label, ending), pool.tasks[ending])
        for error, count in tuple(pool.errors.items()):
            errors.add_metric((pool.label, *error), count)
        for phase, count in tuple(pool.cancels.items()):
            cancels.add_metric((pool.label, phase), count)
        in_flight.add_metric((pool.label,), len(pool.live))
    yield from (submit, tasks, errors, cancels, in_flight)


def of_replicas(replicas: Iterable[ReplicaSeries]) -> Iterator[Metric]:
    """What Prometheus is told of replicas."""
    first_token = _histogram("first_token_seconds", "From an attempt's begin to its first token", *_REPLICA)
    decode = _histogram("decode_seconds", "From a task's first token to its end", *_REPLICA)
    tokens_in = _counter("tokens_in", "Tokens of prompts, as the engine counts", *_REPLICA)
    tokens_out = _counter("tokens_out", "Tokens of answers, as the engine counts", *_REPLICA)
    retries = _counter("retries", "Attempts that another one followed", *_REPLICA, "code", "detail")
    trips = _counter("breaker_trips", "Times that a breaker opened", *_REPLICA)
    set_up = _counter("set_up_faults", "Times that a replica began to fail by its set-up", *_REPLICA, "detail")
    counts = _counter("adapter_counts", "What an adapter counts, by its name for it", *_REPLICA, "what")
    broke = _counter("adapter_faults", "Times that an adapter broke where no task fails of it", *_REPLICA)
    breaker = _gauge("breaker_state", "1 for the state that a breaker is in, else 0", *_REPLICA, "state")
    health = _gauge("health_state", "1 for the state that a replica is in, else 0", *_REPLICA, "state")
    for replica in replicas:
        labels = replica.labels
        replica.first_token.add_to(first_token, labels)
        replica.decode.add_to(decode, labels)
        tokens_in.add_metric(labels, replica.tokens_in)
        tokens_out.add_metric(labels, replica.tokens_out)
        trips.add_metric(labels, replica.trips)
        broke.add_metric(labels, replica.adapter_faults)
        for error, count in tuple(replica.retries.items()):
            retries.add_metric((*labels, *error), count)
        for detail, count in tuple(replica.set_up.items()):
            set_up.add_metric((*labels, detail), count)
        for what, count in tuple(replica.counts.items()):
            counts.add_metric((*labels, what), count)
        for gauge, states, told in ((breaker, BREAKER, replica.breaker), (health, HEALTH, replica.health)):
            now = told.get(replica.generation)
            if now is not None:
                for state in states:
                    gauge.add_metric((*labels, state), state == now)
    yield from (first_token, decode, tokens_in, tokens_out, retries, trips, set_up, counts, broke, breaker, health)


def of_host(reloads: dict[str, int], quarantines: int) -> Iterator[Metric]:
    """What Prometheus is told of the host; `reloads` by outcome."""
    reloaded = _counter("reloads", "Reloads of the configuration", "outcome")
    for outcome, count in reloads.items():
        reloaded.add_metric((outcome,), count)
    quarantined = _counter("plugin_quarantines", "Times that a plugin was quarantined")
    quarantined.add_metric((), quarantines)
    yield from (reloaded, quarantined)


def _counter(name: str, words: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"llama_orch_{name}", words, labels=labels)


def _gauge(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"llama_orch_{name}", words, labels=labels)


def _histogram(name: str, words: str, *labels: str) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"llama_orch_{name}", words, labels=labels)
