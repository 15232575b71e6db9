"""What an ending means: one table, read by retry, breaker, health and capacity.

An ending is an `End` or a `WorkerError`. It means one of seven outcomes and says how a task may go on that had no token
yet; each outcome says what the breaker counts and what becomes of the replica's readiness. Nobody else decides these.
"""

from typing import Literal, NamedTuple

from llama_orch_adapter_api import (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    End,
    InternalError,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
)

Outcome = Literal["ok", "fault", "backpressure", "client_fault", "warming", "cancelled", "stale"]

Again = Literal["never", "other_first", "other_now", "other_once", "other_in_time", "same_once"]
"""How a task may go on before its first token.

- other_first: on another replica, else on the same one, after a back-off.
- other_now: at once on another replica; on the same one only after the time it asked for.
- other_once: on another replica alone, once, after a back-off.
- other_in_time: on another replica alone, if the rest of the deadline is enough for a usual first token.
- same_once: at once, once, and it costs nothing: the request never began.
"""

Verdict = Literal["ok", "fault", "neutral"]
"""What a breaker counts."""

Readiness = Literal["as_it_was", "paused", "loading"]
"""What becomes of a replica: `paused` ends by itself, `loading` when its health says so."""


class Meaning(NamedTuple):
    """Of one ending. `resets`: it counts against a task that may be killing its engines."""

    outcome: Outcome
    again: Again = "never"
    resets: bool = False


class Effect(NamedTuple):
    """Of one outcome, on the replica."""

    breaker: Verdict
    readiness: Readiness = "as_it_was"


EFFECTS: dict[Outcome, Effect] = {
    "ok": Effect("ok"),
    "fault": Effect("fault"),
    "backpressure": Effect("neutral", "paused"),
    "client_fault": Effect("neutral"),
    "warming": Effect("neutral", "loading"),
    "cancelled": Effect("neutral"),
    "stale": Effect("neutral"),
}

SET_UP = frozenset({"tls", "auth", "address", "not_found", "plugin"})
"""Details of an `AdapterError` that speak of how a replica is set up: told loudly, whatever the breaker counts."""

_OK = Meaning("ok")
_CANCELLED = Meaning("cancelled")
_STALE = Meaning("stale", "same_once")
_STALE_AGAIN = Meaning("fault")
_CLIENT_FAULT = Meaning("client_fault")
_FINAL_FAULT = Meaning("fault")
_RESET = Meaning("fault", "other_once", resets=True)

MEANINGS: dict[tuple[type[WorkerError], str], Meaning] = {
    **dict.fromkeys(((DeadlineUnmet, detail) for detail in DeadlineUnmet.verdicts), _CANCELLED),
    (PoolUnavailable, "unknown_pool"): _CLIENT_FAULT,
    (PoolUnavailable, "unreachable"): Meaning("fault", "other_first"),
    (PoolUnavailable, "overloaded"): Meaning("backpressure", "other_now"),
    (PoolUnavailable, "loading"): Meaning("warming", "other_now"),
    (PoolUnavailable, "at_capacity"): Meaning("backpressure", "other_now"),
    (PoolUnavailable, "all_open"): Meaning("backpressure", "other_now"),
    (PoolUnavailable, "draining"): Meaning("backpressure", "other_now"),
    (DecodeTimeout, "first_token"): Meaning("fault", "other_in_time"),
    (DecodeTimeout, "idle"): _FINAL_FAULT,
    (WorkerReset, "reset"): _RESET,
    (WorkerReset, "truncated"): _RESET,
    (WorkerReset, "aborted"): _RESET,
    (WorkerReset, "drained"): Meaning("cancelled", "other_first"),
    (InternalError, "engine"): Meaning("fault", "other_once"),
    (InternalError, "host"): _CLIENT_FAULT,
    **dict.fromkeys(((AdapterError, detail) for detail in AdapterError.verdicts), _CLIENT_FAULT),
    (AdapterError, "decode"): _FINAL_FAULT,
    (AdapterError, "too_large"): _FINAL_FAULT,
    (AdapterError, "encoding"): _FINAL_FAULT,
    (AdapterError, "plugin"): _FINAL_FAULT,
}


_UNREADABLE = frozenset(
    {(AdapterError, "decode"), (AdapterError, "too_large"), (AdapterError, "encoding"), (WorkerReset, "truncated")}
)
"""Endings by an answer that is none. A task whose `extra` asks for another one gets it from an engine that is well."""


def meaning_of(ending: End | WorkerError, *, stale_before: bool = False, extra: bool = False) -> Meaning:
    """What an ending means. Subclasses of a kind mean what it means.

    `stale_before`: an earlier attempt of the task met a stale connection. Meeting one again is the replica's fault.
    `extra`: the task put words of its own into the engine's request.
    """
    if isinstance(ending, End):
        return _CANCELLED if ending.finish_reason == "cancelled" else _OK
    if ending.stale_connection:
        return _STALE_AGAIN if stale_before else _STALE
    for kind in type(ending).__mro__:
        meaning = MEANINGS.get((kind, ending.detail))
        if meaning is not None:
            asked_for = extra and (kind, ending.detail) in _UNREADABLE
            return meaning._replace(outcome="client_fault") if asked_for else meaning
    return _FINAL_FAULT
