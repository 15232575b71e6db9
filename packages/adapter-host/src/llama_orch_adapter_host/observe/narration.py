"""Events in a person's words: one line each, in the present tense, of at most 100 characters."""

import logging
from collections.abc import Callable
from functools import singledispatch
from typing import Any

from llama_orch_adapter_api import one_line, redact

from .._events import (
    AdapterBroke,
    AdapterCounted,
    AdapterSpoke,
    AttemptBegun,
    AttemptFailed,
    BreakerChanged,
    CapabilitiesChanged,
    EngineIdle,
    Event,
    FirstToken,
    HealthChanged,
    HostEvent,
    HostStopped,
    HostStopping,
    PluginChanged,
    ReloadBegun,
    ReloadDone,
    ReloadFailed,
    ReplicaBound,
    ReplicaDrained,
    ReplicaDraining,
    ReplicaEvent,
    ReplicaPreloading,
    ReplicaRebound,
    ReplicaUnbound,
    RouteFailed,
    SetUpFailed,
    TaskAdmitted,
    TaskAdvised,
    TaskEnded,
    TaskEvent,
)
from .._scan import AS_WANTED

LONGEST = 100
"""Characters of a line."""

_NAME = 24
"""Characters of a name that are shown; what happened to it is to stand on the line too."""

_TASK = 8


def human(event: HostEvent) -> str | None:
    """What happened, for people; None where there is nothing to tell. No secret, no control character."""
    sentence = _sentence(event)
    return None if sentence is None else _cut(safe(sentence), LONGEST)


def level(event: HostEvent) -> int:
    """How loud it is told: DEBUG for what every task does, WARNING for a replica's trouble, INFO for the rest.

    A task that fails is INFO: its caller is told, and in an outage there are thousands, where the breaker is told once.
    """
    return LEVELS.get(type(event)) or VARYING[type(event)](event)


LEVELS: dict[type[Event], int] = {
    **dict.fromkeys((TaskAdmitted, TaskAdvised, AttemptBegun, FirstToken, EngineIdle, AdapterCounted), logging.DEBUG),
    **dict.fromkeys((ReplicaPreloading, ReplicaBound, ReplicaRebound, ReplicaDraining, ReplicaUnbound), logging.INFO),
    **dict.fromkeys(
        (CapabilitiesChanged, AdapterSpoke, ReloadBegun, ReloadDone, HostStopping, HostStopped, AttemptFailed),
        logging.INFO,
    ),
    **dict.fromkeys((AdapterBroke, SetUpFailed, ReloadFailed, RouteFailed), logging.WARNING),
}
"""Those that are always told equally loud."""

VARYING: dict[type[Event], Callable[[Any], int]] = {
    TaskEnded: lambda event: logging.INFO if event.ending == "failed" else logging.DEBUG,
    ReplicaDrained: lambda event: logging.WARNING if event.cut and not event.stopping else logging.INFO,
    HealthChanged: lambda event: logging.WARNING if event.now == "down" else logging.INFO,
    BreakerChanged: lambda event: logging.WARNING if event.state == "open" else logging.INFO,
    PluginChanged: lambda event: logging.INFO if event.state in AS_WANTED else logging.WARNING,
}
"""Those that may be trouble."""

LOUDEST: dict[type[Event], int] = {kind: logging.INFO if kind is TaskEnded else logging.WARNING for kind in VARYING}
"""How loud each of those may be."""


def pool_of(event: HostEvent) -> str:
    """The pool of the replica that it is about, else that of the task, "" where there is neither."""
    return (event.stand_in or event.pool_id) if isinstance(event, TaskEvent) else event.pool_id


# --- words


def safe(text: str) -> str:
    """Somebody's text in one line, without secrets."""
    return one_line(redact(text))


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _name(text: str) -> str:
    return text if len(text) <= _NAME else _cut(safe(text), _NAME)  # made safe first: nobody knows half a secret


def _place(event: HostEvent, replica_id: str) -> str:
    return f"{_name(pool_of(event))}/{_name(replica_id)}"


def _task(event: TaskEvent) -> str:
    return f"task {safe(event.task_id)[:_TASK]}"


def _span(seconds: float) -> str:
    if seconds < 0.1:
        return f"{seconds * 1000:.3g} ms"
    return f"{seconds:.3g} s" if seconds < 1000 else f"{seconds / 60:.3g} min"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _after(sentence: str, words: str) -> str:
    """The sentence, then what somebody else says, if anything."""
    return f"{sentence}: {words}" if words else sentence


# --- a sentence for each


@singledispatch
def _sentence(event: HostEvent) -> str | None:
    raise TypeError(f"no sentence tells a {type(event).__name__}; give it one in {__name__}")


@_sentence.register
def _(event: TaskAdmitted) -> str:
    return f"{_name(event.pool_id)} takes in {_task(event)} ({_name(event.workload)})"


@_sentence.register
def _(event: TaskAdvised) -> str:
    return _after(f"{_place(event, event.replica_id)} has advice on {_task(event)}", event.advice)


@_sentence.register
def _(event: AttemptBegun) -> str:
    nth = f", attempt {event.attempt}" if event.attempt > 1 else ""
    return _after(f"{_task(event)} goes to {_place(event, event.replica_id)}{nth}", event.reason)


@_sentence.register
def _(event: AttemptFailed) -> str:
    again = f"next try in {_span(event.backoff)}" if event.backoff else "next try at once"
    error = f"{_name(event.error_kind)} {_name(event.detail)}"
    return f"{_place(event, event.replica_id)} fails {_task(event)}, {again}: {error}, {event.message}"


@_sentence.register
def _(event: FirstToken) -> str:
    return f"{_task(event)} gets its first token from {_place(event, event.replica_id)} after {_span(event.total)}"


@_sentence.register
def _(event: TaskEnded) -> str:
    replica_id = event.replica_id
    place = _name(event.pool_id) if replica_id is None else _place(event, replica_id)
    words = "" if event.tokens_out is None else f" after {_count(event.tokens_out, 'token')}"
    match event.ending:
        case "ok":
            return f"{_task(event)} ends on {place}{words}, in {_span(event.duration)}"
        case "cancelled":
            return f"{_task(event)} is cancelled on {place}{words}, in {_name(event.phase)}"
    attempt = f", attempt {event.attempts}" if event.attempts else " before any attempt"
    error = f"{_name(event.error_kind or '')} {_name(event.detail or '')}, {event.message or ''}"
    return f"{_task(event)} fails on {place}{attempt}: {error}"


@_sentence.register
def _(event: EngineIdle) -> str:
    place = _place(event, event.replica_id)
    return f"{place} is idle {_span(event.duration)} after the cancel of {_task(event)}"


@_sentence.register
def _(event: ReplicaPreloading) -> str:
    return f"{_of_replica(event)} builds generation {event.generation} ({_name(event.engine)}); it takes no tasks yet"


@_sentence.register
def _(event: ReplicaBound) -> str:
    return f"{_of_replica(event)} takes tasks from now on ({_name(event.engine)}, generation {event.generation})"


@_sentence.register
def _(event: ReplicaRebound) -> str:
    runs = "runs" if event.leases == 1 else "run"
    left = f"{_count(event.leases, 'stream')} still {runs} on the one before"
    return f"{_of_replica(event)} takes tasks on generation {event.generation}; {left}"


@_sentence.register
def _(event: ReplicaDraining) -> str:
    left = f"{_count(event.leases, 'stream')} may go on for {_span(event.limit)}"
    return f"{_of_replica(event)} takes no more tasks on generation {event.generation}; {left}"


@_sentence.register
def _(event: ReplicaDrained) -> str:
    what = f"{_count(event.cut, 'stream')} cut at the limit" if event.cut else "nothing was dropped"
    return f"{_of_replica(event)} is drained of generation {event.generation} in {_span(event.duration)}; {what}"


@_sentence.register
def _(event: ReplicaUnbound) -> str:
    return f"{_of_replica(event)} lets go of generation {event.generation}; its adapter is closed"


@_sentence.register
def _(event: HealthChanged) -> str | None:
    place = _of_replica(event)
    if event.now == event.was:
        return None
    match event.now:
        case "loading":
            return _after(f"{place} is loading its model; waiting, this is not a failure", event.detail)
        case "busy":
            return _after(f"{place} is busy, and answers its health checks", event.detail)
    was = "" if event.was == "unknown" else f", no longer {_name(event.was)}"
    return _after(f"{place} is {_name(event.now)}{was}", event.detail)


@_sentence.register
def _(event: BreakerChanged) -> str:
    place = _of_replica(event)
    match event.state:
        case "open":
            return f"{place} opens its breaker and gets no tasks; next try in {_span(event.open_for)}"
        case "half_open":
            return f"{place} half-opens its breaker: one task may try it"
    return f"{place} closes its breaker and gets tasks again"


@_sentence.register
def _(event: SetUpFailed) -> str:
    return _after(f"{_of_replica(event)} fails by its set-up, {_name(event.detail)}", event.message)


@_sentence.register
def _(event: CapabilitiesChanged) -> str | None:
    return f"{_of_replica(event)} changes: {'; '.join(event.changes)}" if event.changes else None


@_sentence.register
def _(event: AdapterSpoke) -> str:
    return _after(f"{_of_replica(event)} says", event.words)


@_sentence.register
def _(event: AdapterCounted) -> str:
    return f"{_of_replica(event)} counts one {_name(event.what)} more"


@_sentence.register
def _(event: AdapterBroke) -> str:
    fault = _after(f"{_of_replica(event)} has a fault in its adapter, in {_name(event.what)}", event.error)
    return f"{fault} · {event.mend}" if event.mend else fault


@_sentence.register
def _(event: ReloadBegun) -> str:
    return f"the host builds a new configuration of {_count(event.replicas, 'replica')} beside the running one"


@_sentence.register
def _(event: ReloadDone) -> str:
    changes = (f"{event.added} added", f"{event.rebound} rebound", f"{event.removed} removed")
    unchanged = f"{event.unchanged} unchanged"
    return f"the host is reloaded in {_span(event.duration)}: {', '.join((*changes, unchanged))}"


@_sentence.register
def _(event: ReloadFailed) -> str:
    sentence = f"the host keeps its configuration; {_count(len(event.problems), 'problem')} in the new one"
    return _after(sentence, "; ".join(event.problems))


@_sentence.register
def _(event: PluginChanged) -> str:
    what = f"plugin {_name(event.name)} {_name(event.version)} of {_name(event.origin)} is {_name(event.state)}"
    return _after(what, event.mend)


@_sentence.register
def _(event: RouteFailed) -> str:
    decides = "decides from now on" if event.dropped else "decides"
    return _after(f"routing policy {_name(event.policy)} fails, the default {decides}", event.error)


@_sentence.register
def _(event: HostStopping) -> str:
    runs = "runs" if event.flights == 1 else "run"
    return f"the host takes no more tasks; {_count(event.flights, 'stream')} still {runs}"


@_sentence.register
def _(event: HostStopped) -> str:
    return f"the host is stopped in {_span(event.duration)}; every adapter is closed"


def _of_replica(event: ReplicaEvent) -> str:
    return f"{_name(event.pool_id)}/{_name(event.replica_id)}"
