"""The one event union: all that the host tells of itself. Narration, logs, metrics, spans and hooks are made of it.

An event holds names, counts and spans (seconds), never a prompt, an answer or a header; words of others are one line.
Nothing is told per token.
"""

from typing import Literal

import msgspec

Ending = Literal["ok", "cancelled", "failed"]


class Event(msgspec.Struct, frozen=True, kw_only=True, tag_field="action"):
    """What all have: the pool it happened in, "" where it concerns the whole host."""

    pool_id: str = ""


# --- a task


class TaskEvent(Event, frozen=True, kw_only=True):
    """Whose it is. `pool_id` is the pool it was sent to, `stand_in` the fallback pool that took it, "" if none did."""

    task_id: str
    session_id: str | None = None
    correlation_id: str | None = None
    stand_in: str = ""


class TaskAdmitted(TaskEvent, frozen=True, kw_only=True, tag="submit"):
    """A task was taken in; nothing was sent yet. `traceparent` is what its caller gave (W3C Trace Context).

    `chat`: its input are messages. `model_ref` is the model it asks for, None where it takes the pool's.
    """

    workload: str
    traceparent: str | None = None
    chat: bool = False
    model_ref: str | None = None


class TaskAdvised(TaskEvent, frozen=True, kw_only=True, tag="advise"):
    """The engine's adapter has advice on a task, which runs nevertheless."""

    replica_id: str
    advice: str


class AttemptBegun(TaskEvent, frozen=True, kw_only=True, tag="attempt"):
    """A replica was picked, for `reason`. `attempt` counts from 1; `waited` is since the task was taken in."""

    replica_id: str
    engine: str
    generation: int
    attempt: int
    reason: str
    waited: float


class AttemptFailed(TaskEvent, frozen=True, kw_only=True, tag="retry"):
    """A replica failed before the first token, and another attempt follows after `backoff` seconds."""

    replica_id: str
    engine: str
    attempt: int
    error_kind: str
    detail: str
    message: str
    backoff: float
    duration: float
    retry_after: float | None = None


class FirstToken(TaskEvent, frozen=True, kw_only=True, tag="first_token"):
    """The task is committed: `duration` is since the attempt began, `total` since it was taken in."""

    replica_id: str
    engine: str
    attempt: int
    duration: float
    total: float


class TaskEnded(TaskEvent, frozen=True, kw_only=True, tag="end"):
    """A task has its outcome. `replica_id` and `engine` are of the last attempt, None where there was none.

    `phase` is where it was when it ended. `error_kind` and `detail` are set where it failed. `first_token` is since the
    last attempt began. One that was `refused` was never taken in; where its id runs, that task runs on.
    """

    ending: Ending
    attempts: int
    duration: float
    phase: str
    workload: str
    replica_id: str | None = None
    engine: str | None = None
    finish_reason: str | None = None
    tokens_in: int | None = None
    tokens_out: int | None = None
    cached_tokens: int | None = None
    decode_time_ms: float | None = None
    first_token: float | None = None
    error_kind: str | None = None
    detail: str | None = None
    message: str | None = None
    retry_after: float | None = None
    refused: bool = False


class EngineIdle(TaskEvent, frozen=True, kw_only=True, tag="idle"):
    """The adapter confirmed that a cancelled task's slot is idle, `duration` after the cancel."""

    replica_id: str
    engine: str
    duration: float


# --- a replica


class ReplicaEvent(Event, frozen=True, kw_only=True):
    """Which one. `generation` counts from 1."""

    replica_id: str
    engine: str
    generation: int = 1


class ReplicaPreloading(ReplicaEvent, frozen=True, kw_only=True, tag="preload"):
    """A replica is being built; it serves nothing yet."""


class ReplicaBound(ReplicaEvent, frozen=True, kw_only=True, tag="bind"):
    """A replica takes tasks from now on."""


class ReplicaRebound(ReplicaEvent, frozen=True, kw_only=True, tag="rebind"):
    """A new generation took over; `leases` streams still run on the one before."""

    leases: int


class ReplicaDraining(ReplicaEvent, frozen=True, kw_only=True, tag="drain"):
    """A replica takes no more tasks; `leases` streams run on, for `limit` seconds at most."""

    leases: int
    limit: float


class ReplicaDrained(ReplicaEvent, frozen=True, kw_only=True, tag="drained"):
    """No stream runs on a replica any more; `cut` were ended at the limit. `stopping`: as the host itself stops."""

    cut: int
    duration: float
    stopping: bool = False


class ReplicaUnbound(ReplicaEvent, frozen=True, kw_only=True, tag="unbind"):
    """A replica is closed and gone."""


class HealthChanged(ReplicaEvent, frozen=True, kw_only=True, tag="health"):
    """A replica's health is another one, after hysteresis: ready, busy, loading or down; "unknown" before the first."""

    was: str
    now: str
    detail: str = ""


class BreakerChanged(ReplicaEvent, frozen=True, kw_only=True, tag="breaker"):
    """A breaker is closed, open (for `open_for` seconds) or half_open."""

    state: Literal["closed", "open", "half_open"]
    open_for: float = 0.0


class SetUpFailed(ReplicaEvent, frozen=True, kw_only=True, tag="set_up"):
    """A replica fails tasks by how it is set up: key, certificate, address, path or adapter. No retry mends that.

    Told once for each detail, until a task ends well there again.
    """

    error_kind: str
    detail: str
    message: str


class CapabilitiesChanged(ReplicaEvent, frozen=True, kw_only=True, tag="capabilities"):
    """A replica can do something else than before; one sentence a change, as "context shrank 32768 → 8192"."""

    changes: tuple[str, ...]


class AdapterSpoke(ReplicaEvent, frozen=True, kw_only=True, tag="adapter"):
    """An adapter has something to say to people."""

    words: str


class AdapterCounted(ReplicaEvent, frozen=True, kw_only=True, tag="count"):
    """Something happened once more that an adapter counts, such as a request's `fallback_refused` to HTTP/1.1."""

    what: str


class AdapterBroke(ReplicaEvent, frozen=True, kw_only=True, tag="adapter_fault"):
    """An adapter raised, took too long, or said what cannot be, where no task fails of it."""

    what: str
    error: str
    mend: str = "report it to its author"


# --- the host


class ReloadBegun(Event, frozen=True, kw_only=True, tag="reload"):
    """A new configuration is being built beside the running one."""

    replicas: int


class ReloadDone(Event, frozen=True, kw_only=True, tag="reloaded"):
    """The new configuration is in force."""

    added: int
    rebound: int
    removed: int
    unchanged: int
    duration: float


class ReloadFailed(Event, frozen=True, kw_only=True, tag="reload_failed"):
    """A new configuration could not be put in force; nothing was changed. One sentence a problem."""

    problems: tuple[str, ...]


class PluginChanged(Event, frozen=True, kw_only=True, tag="plugin"):
    """A plugin was loaded, refused or quarantined."""

    name: str
    version: str
    origin: str
    state: str
    mend: str = ""


class RouteFailed(Event, frozen=True, kw_only=True, tag="route_fault"):
    """A plugin's routing policy failed, or was slow; the default decided, `dropped`: and does so from now on."""

    policy: str
    error: str
    dropped: bool = False


class HostStopping(Event, frozen=True, kw_only=True, tag="stop"):
    """The host takes no more tasks; `flights` still run."""

    flights: int


class HostStopped(Event, frozen=True, kw_only=True, tag="stopped"):
    """Every stream is over and every adapter closed."""

    duration: float


HostEvent = (
    TaskAdmitted
    | TaskAdvised
    | AttemptBegun
    | AttemptFailed
    | FirstToken
    | TaskEnded
    | EngineIdle
    | ReplicaPreloading
    | ReplicaBound
    | ReplicaRebound
    | ReplicaDraining
    | ReplicaDrained
    | ReplicaUnbound
    | HealthChanged
    | BreakerChanged
    | SetUpFailed
    | CapabilitiesChanged
    | AdapterSpoke
    | AdapterCounted
    | AdapterBroke
    | ReloadBegun
    | ReloadDone
    | ReloadFailed
    | PluginChanged
    | RouteFailed
    | HostStopping
    | HostStopped
)
"""The union; each is told apart by its `action`."""
