from collections.abc import Callable
from typing import Any

import pytest
from llama_orch_adapter_host._events import (
    AdapterBroke,
    AdapterCounted,
    BreakerChanged,
    HealthChanged,
    HostEvent,
    PluginChanged,
    ReloadDone,
    ReloadFailed,
    ReplicaBound,
    ReplicaPreloading,
    ReplicaRebound,
    ReplicaUnbound,
    SetUpFailed,
    TaskAdmitted,
)
from llama_orch_adapter_host.observe import Metrics
from prometheus_client import CollectorRegistry, generate_latest

from .events import (  # type: ignore[import-not-found]  # test folders are no packages
    ONE,
    WHOSE,
    begun,
    ended,
    failed_attempt,
    failure,
    first_token,
)

BOUND = ReplicaBound(**ONE)
REPLICA = {"pool": "chat", "replica": "0", "engine": "llamacpp"}

Value = Callable[..., float | None]


def counted(*events: HostEvent) -> Value:
    """What Prometheus reads after the events, by a metric's name without its first word, and labels."""
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for event in events:
        metrics(event)
    return lambda name, **labels: registry.get_sample_value(f"llama_orch_{name}", labels)


def test_a_task_that_ends_well():
    """A task counts once as ended, with its times and its tokens (ORCH-3604)."""
    value = counted(BOUND, *begun(), first_token(duration=0.18, total=0.2), ended(duration=1.2))

    assert value("tasks_total", pool="chat", outcome="ok") == 1
    assert value("submit_seconds_sum", pool="chat", outcome="ok") == 0.2
    assert value("first_token_seconds_sum", **REPLICA) == 0.18
    assert value("decode_seconds_sum", **REPLICA) == 1.0
    assert value("decode_seconds_count", **REPLICA) == 1
    assert value("tokens_in_total", **REPLICA) == 12
    assert value("tokens_out_total", **REPLICA) == 41
    assert value("in_flight", pool="chat") == 0


def test_a_set_up_that_fails():
    """Each time that a replica begins to fail by its set-up counts, by its detail, from a closed set (ORCH-3604)."""
    auth = SetUpFailed(**ONE, error_kind="ADAPTER", detail="auth", message="401")
    odd = SetUpFailed(**ONE, error_kind="ADAPTER", detail="whatever", message="x")
    value = counted(BOUND, auth, auth, odd)

    assert value("set_up_faults_total", **REPLICA, detail="auth") == 2
    assert value("set_up_faults_total", **REPLICA, detail="other") == 1


def test_what_an_adapter_counts():
    """What an adapter counts is told by its name for it, of which so many are kept (ORCH-3604)."""
    refused = AdapterCounted(**ONE, what="fallback_refused")
    odd = AdapterCounted(**ONE, what="No name")
    value = counted(BOUND, refused, refused, *(AdapterCounted(**ONE, what=f"w{n}") for n in range(100)), odd, refused)

    assert value("adapter_counts_total", **REPLICA, what="fallback_refused") == 3
    assert value("adapter_counts_total", **REPLICA, what="w30") == 1
    assert value("adapter_counts_total", **REPLICA, what="w31") is None
    assert value("adapter_counts_total", **REPLICA, what="other") == 70


def test_an_adapter_that_breaks():
    """Faults of an adapter count for its replica, of one that takes no tasks for "other" (ORCH-3604)."""
    broke = AdapterBroke(**ONE, what="closing a stream", error="OSError")
    value = counted(broke, BOUND, broke, broke)

    assert value("adapter_faults_total", **REPLICA) == 2
    assert value("adapter_faults_total", pool="other", replica="other", engine="other") == 1


def test_a_retry_and_a_failure():
    """Attempts that another one follows, and tasks that fail, are counted by code and detail (ORCH-3604)."""
    value = counted(BOUND, *begun(), failed_attempt(detail="truncated"), failure(duration=0.7))
    reset = {"code": "WORKER_RESET", "detail": "reset"}

    assert value("retries_total", **REPLICA, code="WORKER_RESET", detail="truncated") == 1
    assert value("errors_total", pool="chat", **reset) == 1
    assert value("tasks_total", pool="chat", outcome="failed") == 1
    assert value("submit_seconds_sum", pool="chat", outcome="failed") == 0.7
    assert value("decode_seconds_count", **REPLICA) == 0


def test_a_cancel():
    """Cancels are counted by the phase that the task was in (ORCH-3604)."""
    value = counted(BOUND, *begun(), ended(ending="cancelled", phase="connect", tokens_in=None, tokens_out=None))

    assert value("cancels_total", pool="chat", phase="connect") == 1
    assert value("tasks_total", pool="chat", outcome="cancelled") == 1


def test_in_flight_is_a_set():
    """What runs is counted by task: an end that is told twice, or of a task that nobody saw begin, changes nothing."""
    tasks = [event for task_id in ("a", "b", "c") for event in begun(task_id)]
    value = counted(BOUND, *tasks, ended(task_id="b"), ended(task_id="b"), ended(task_id="z"))

    assert value("in_flight", pool="chat") == 2


def test_a_refused_task_ends_no_other():
    """ORCH-3604: a task that is refused since its id runs counts as failed, and the one that runs as running."""
    refused = ended(
        ending="failed",
        refused=True,
        attempts=0,
        phase="queue",
        replica_id=None,
        engine=None,
        error_kind="ADAPTER",
        detail="duplicate_task",
    )
    value = counted(BOUND, *begun(), refused)

    assert value("in_flight", pool="chat") == 1
    assert value("tasks_total", pool="chat", outcome="failed") == 1
    assert value("errors_total", pool="chat", code="ADAPTER", detail="duplicate_task") == 1
    assert value("tokens_in_total", **REPLICA) in {None, 0}


@pytest.mark.parametrize("now", ["ready", "busy", "loading", "down", "on fire"])
def test_health(now: str):
    """Of a replica's states the one it is in is 1 and the others are 0; an unknown one is "other" (ORCH-3604)."""
    value = counted(BOUND, HealthChanged(**ONE, was="unknown", now="ready"), HealthChanged(**ONE, was="ready", now=now))
    states = {
        state: value("health_state", **REPLICA, state=state) for state in ("ready", "busy", "loading", "down", "other")
    }

    assert states == {state: float(state == now or (state == "other" and now == "on fire")) for state in states}


def test_a_breaker():
    """A breaker's state is told, and how often it opened (ORCH-3604)."""
    value = counted(BOUND, *(BreakerChanged(**ONE, state=s) for s in ("open", "half_open", "open")))  # type: ignore[arg-type]

    assert value("breaker_trips_total", **REPLICA) == 2
    assert [value("breaker_state", **REPLICA, state=s) for s in ("closed", "open", "half_open")] == [0, 1, 0]


def test_the_host():
    """Reloads are counted by how they went, and plugins that were quarantined (ORCH-3604)."""
    plugin = {"name": "p", "version": "1", "origin": "o"}
    done = ReloadDone(added=1, rebound=0, removed=0, unchanged=0, duration=0.1)
    value = counted(
        *(done, done, ReloadFailed(problems=("x",))),
        *(PluginChanged(**plugin, state=state) for state in ("ready", "hooks off")),
    )

    assert value("reloads_total", outcome="ok") == 2
    assert value("reloads_total", outcome="failed") == 1
    assert value("plugin_quarantines_total") == 1


def text_after(*events: HostEvent) -> str:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    for event in events:
        metrics(event)
    return generate_latest(registry).decode()


ALL_OF_A_REPLICA: list[HostEvent] = [
    BOUND,
    HealthChanged(**ONE, was="unknown", now="ready"),
    BreakerChanged(**ONE, state="open"),
    *begun(),
    failed_attempt(),
    first_token(),
    ended(),
]


def test_a_replicas_series_go_with_it():
    """When a replica is unbound nothing tells of it any more, nor of its pool when it was the last one (ORCH-3604)."""
    other = ReplicaBound(**{**ONE, "replica_id": "1"})
    unbound = ReplicaUnbound(**ONE)

    assert 'replica="0"' in text_after(*ALL_OF_A_REPLICA)
    assert 'replica="0"' not in text_after(*ALL_OF_A_REPLICA, other, unbound)
    assert 'outcome="ok",pool="chat"' in text_after(*ALL_OF_A_REPLICA, other, unbound)
    assert '"chat"' not in text_after(*ALL_OF_A_REPLICA, unbound)


def test_what_ends_after_its_pool_makes_no_series_again():
    """A task that outlives its pool brings none of the pool's series back (ORCH-3604)."""
    assert '"chat"' not in text_after(BOUND, *begun(), ReplicaUnbound(**ONE), failure())


def test_a_generation_that_was_replaced_takes_nothing_with_it():
    """The end of the generation before leaves the series, whose counts go on (ORCH-3604)."""
    value = counted(
        *(*ALL_OF_A_REPLICA, ReplicaPreloading(**ONE, generation=2)),
        *(
            HealthChanged(**ONE, generation=2, was="unknown", now="loading"),
            ReplicaRebound(**ONE, generation=2, leases=0),
        ),
        *(HealthChanged(**ONE, generation=1, was="ready", now="down"), ReplicaUnbound(**ONE)),
        *(*begun(), first_token(), ended()),
    )

    assert value("tokens_out_total", **REPLICA) == 82
    assert value("health_state", **REPLICA, state="loading") == 1
    assert value("breaker_state", **REPLICA, state="open") is None


def test_what_was_built_for_nothing():
    """A replica that is being built is told of by its health; when its reload fails it goes (ORCH-3604)."""
    built = (ReplicaPreloading(**ONE), HealthChanged(**ONE, was="unknown", now="loading"))

    assert 'replica="0"' in text_after(*built)
    assert 'replica="0"' not in text_after(*built, ReloadFailed(problems=("x",)))
    assert 'replica="0"' in text_after(BOUND, ReloadFailed(problems=("x",)))


def test_another_engine_in_its_place():
    """A replica that is given another engine has series of its own."""
    text = text_after(*ALL_OF_A_REPLICA, ReplicaRebound(**{**ONE, "engine": "vllm"}, generation=2, leases=0))

    assert 'engine="vllm"' in text
    assert 'engine="llamacpp"' not in text


def test_labels_are_from_closed_sets():
    """What callers and engines name freely makes no series: it is "other" (ORCH-3604)."""
    strangers: list[HostEvent] = []
    for n in range(100):
        facts: dict[str, Any] = {"pool_id": f"p{n}", "task_id": f"t{n}"}
        strangers += [
            TaskAdmitted(**{**WHOSE, **facts}, workload="completion"),
            failed_attempt(**facts, error_kind=f"KIND{n}"),
            first_token(**facts, replica_id=f"r{n}"),
            failure(**facts, error_kind="WORKER_RESET", detail=f"d{n}"),
            ended(**facts, ending="cancelled", phase=f"phase{n}"),
        ]
    text = text_after(*strangers)

    assert 'llama_orch_errors_total{code="other",detail="other",pool="other"} 100.0' in text
    assert 'llama_orch_cancels_total{phase="other",pool="other"} 100.0' in text
    assert not [n for n in range(100) if any(f'"{word}{n}"' in text for word in ("p", "r", "d", "KIND", "phase"))]


def test_a_pool_named_other():
    """A pool that has the name of what is in no set is told once."""
    other = {**ONE, "pool_id": "other"}
    text = text_after(failure(pool_id="stranger"), ReplicaBound(**other), failure(pool_id="other"))

    assert text.count('llama_orch_in_flight{pool="other"}') == 1


def test_metrics_that_come_late():
    """A replica that is first heard of in an attempt is known from then on (ORCH-3604)."""
    value = counted(ended(), *begun(), first_token(), ended())

    assert value("tokens_out_total", **REPLICA) == 41
    assert value("tasks_total", pool="other", outcome="ok") == 2


def test_a_fallback_pool():
    """A replica's series are under its own pool, the task's under the pool that it was sent to (ORCH-3604)."""
    spare = {**ONE, "pool_id": "spare"}
    facts = {"stand_in": "spare"}
    value = counted(BOUND, ReplicaBound(**spare), *begun(**facts), first_token(**facts), ended(**facts))

    assert value("tokens_out_total", pool="spare", replica="0", engine="llamacpp") == 41
    assert value("tasks_total", pool="chat", outcome="ok") == 1
    assert value("tasks_total", pool="spare", outcome="ok") == 0


def test_two_in_one_registry_are_refused():
    """A registry takes one `Metrics`; a second would count everything twice."""
    registry = CollectorRegistry()
    Metrics(registry)

    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics(registry)
