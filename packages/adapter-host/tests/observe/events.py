"""Every kind of event: as hypothesis draws it, as it is most often, and a story of them."""

import random
from types import UnionType
from typing import Any, Literal, TypeVar, get_args, get_origin

import msgspec
from hypothesis import strategies as st
from llama_orch_adapter_host._events import (
    AttemptBegun,
    AttemptFailed,
    BreakerChanged,
    FirstToken,
    HealthChanged,
    HostEvent,
    ReplicaBound,
    ReplicaDrained,
    ReplicaDraining,
    ReplicaPreloading,
    ReplicaRebound,
    ReplicaUnbound,
    TaskAdmitted,
    TaskEnded,
)

E = TypeVar("E", bound=msgspec.Struct)

KINDS: tuple[type[HostEvent], ...] = get_args(HostEvent)
TASK = "7f3a9c12-0000-4000-8000-000000000000"
WHOSE: dict[str, Any] = {"pool_id": "chat", "task_id": TASK, "session_id": "s1", "correlation_id": "c1"}
ONE: dict[str, Any] = {"pool_id": "chat", "replica_id": "0", "engine": "llamacpp"}
AT: dict[str, Any] = {**WHOSE, "replica_id": "0", "engine": "llamacpp"}


def drawn(texts: st.SearchStrategy[str] | None = None) -> st.SearchStrategy[HostEvent]:
    """Any event, with any values that its types allow: times and counts that a clock and an engine can give."""
    texts = st.text(max_size=200) if texts is None else texts
    return st.one_of(*(st.builds(kind, **_fields(kind, texts)) for kind in KINDS))


def _fields(kind: type[HostEvent], texts: st.SearchStrategy[str]) -> dict[str, st.SearchStrategy[Any]]:
    return {field.name: _of_type(field.type, texts) for field in msgspec.structs.fields(kind)}


def _of_type(of: Any, texts: st.SearchStrategy[str]) -> st.SearchStrategy[Any]:
    plain = {
        str: texts,
        int: st.integers(0, 2**53),
        float: st.floats(0, allow_nan=False, allow_infinity=False),
        bool: st.booleans(),
        type(None): st.none(),
    }
    if of in plain:
        return plain[of]
    if get_origin(of) is Literal:
        return st.sampled_from(get_args(of))
    if get_origin(of) is tuple:
        return st.lists(texts, max_size=3).map(tuple)
    assert isinstance(of, UnionType)
    return st.one_of(*(_of_type(each, texts) for each in get_args(of)))


def filled(kind: type[E], text: str, **facts: Any) -> E:
    """An event that has something to tell, whose texts are all this one but for the facts given."""
    values: dict[type, Any] = {str: text, int: 3, float: 0.25, bool: True, tuple[str, ...]: (text, text)}
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(kind):
        kinds = get_args(field.type) if isinstance(field.type, UnionType) else (field.type,)
        found[field.name] = get_args(kinds[0])[-1] if get_origin(kinds[0]) is Literal else values[kinds[0]]
    changed = {"was": "ready"} if kind is HealthChanged else {}  # which else would be no change
    return kind(**(found | changed | facts))


def texts_of(kind: type[HostEvent]) -> list[str]:
    """The names of the fields that hold somebody's text."""
    return [f.name for f in msgspec.structs.fields(kind) if f.type in {str, str | None, tuple[str, ...]}]


def with_text(kind: type[E], name: str, text: str) -> E:
    """An event that has the text in one field alone."""
    of_many = {f.name for f in msgspec.structs.fields(kind) if f.type == tuple[str, ...]}
    return filled(kind, "word", **{name: (text,) if name in of_many else text})


def random_text(rng: random.Random, alphabet: list[str]) -> str:
    return "".join(rng.choices(alphabet, k=rng.randint(1, 12)))


def begun(task_id: str = TASK, **facts: Any) -> list[HostEvent]:
    """A task is taken in and goes to a replica."""
    return [
        TaskAdmitted(**{**WHOSE, "task_id": task_id}, workload="completion", chat=True, model_ref="smollm2"),
        AttemptBegun(
            **{**AT, "task_id": task_id, **facts}, generation=1, attempt=1, reason="least in flight", waited=0.0
        ),
    ]


def first_token(**facts: Any) -> FirstToken:
    return FirstToken(**{**AT, "attempt": 1, "duration": 0.18, "total": 0.2, **facts})


def ended(**facts: Any) -> TaskEnded:
    """It ends well, unless the facts say otherwise."""
    usual = {
        "ending": "ok",
        "attempts": 1,
        "duration": 1.2,
        "phase": "decode",
        "workload": "completion",
        "finish_reason": "stop",
        "tokens_in": 12,
        "tokens_out": 41,
        "cached_tokens": 8,
        "decode_time_ms": 990.0,
        "first_token": 0.18,
    }
    return TaskEnded(**{**AT, **usual, **facts})


def failed_attempt(**facts: Any) -> AttemptFailed:
    usual = {
        "attempt": 1,
        "error_kind": "WORKER_RESET",
        "detail": "reset",
        "message": "the engine closed the connection",
        "backoff": 0.04,
        "duration": 0.5,
    }
    return AttemptFailed(**{**AT, **usual, **facts})


def failure(**facts: Any) -> TaskEnded:
    """It fails for good."""
    error = {"error_kind": "WORKER_RESET", "detail": "reset", "message": "the engine closed the connection"}
    nothing = {"finish_reason": None, "tokens_in": None, "tokens_out": None, "first_token": None}
    return ended(**{"ending": "failed", "phase": "first_token", **nothing, **error, **facts})


STORY: list[HostEvent] = [
    ReplicaPreloading(**ONE),
    HealthChanged(**ONE, was="unknown", now="loading"),
    HealthChanged(**ONE, was="loading", now="ready", detail="smollm2, context 2048, 4 slots"),
    ReplicaBound(**ONE),
    *begun(),
    failed_attempt(),
    BreakerChanged(**ONE, state="open", open_for=5.0),
    BreakerChanged(**ONE, state="half_open"),
    BreakerChanged(**ONE, state="closed"),
    first_token(attempt=2),
    ended(attempts=2),
    ReplicaRebound(**ONE, generation=2, leases=1),
    ReplicaDraining(**ONE, generation=1, leases=1, limit=60.0),
    ReplicaDrained(**ONE, generation=1, cut=0, duration=2.5),
    ReplicaUnbound(**ONE, generation=1),
]
