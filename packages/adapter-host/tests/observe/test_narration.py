import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_host._events import (
    AttemptBegun,
    BreakerChanged,
    CapabilitiesChanged,
    Event,
    HealthChanged,
    HostEvent,
    HostStopped,
    PluginChanged,
    ReloadFailed,
    ReplicaDrained,
    ReplicaRebound,
)
from llama_orch_adapter_host.observe import human, level
from llama_orch_adapter_host.observe.narration import LONGEST, pool_of

from .events import (  # type: ignore[import-not-found]  # test folders are no packages
    AT,
    KINDS,
    ONE,
    STORY,
    TASK,
    drawn,
    ended,
    failed_attempt,
    failure,
    filled,
    first_token,
)


@given(drawn())
def test_a_sentence_is_one_short_line(event: HostEvent):
    """Whatever is in an event, its narration is one line of at most 100 printable characters (ORCH-3604)."""
    line = human(event)

    assert line is None or (0 < len(line) <= LONGEST and line.isprintable())


@given(drawn())
def test_every_event_has_a_level(event: HostEvent):
    """Each event is told at DEBUG, INFO or WARNING (ORCH-3604)."""
    assert level(event) in {logging.DEBUG, logging.INFO, logging.WARNING}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_is_narrated(kind: type[HostEvent]):
    """There is a sentence for every kind of the union (ORCH-3604)."""
    assert human(filled(kind, "word"))


def test_the_story_of_a_replica():
    """Read one after the other, the lines tell what happened, in the present tense (ORCH-3604)."""
    lines = [human(event) for event in STORY]

    print(*lines, sep="\n")
    assert lines == [
        "chat/0 builds generation 1 (llamacpp); it takes no tasks yet",
        "chat/0 is loading its model; waiting, this is not a failure",
        "chat/0 is ready, no longer loading: smollm2, context 2048, 4 slots",
        "chat/0 takes tasks from now on (llamacpp, generation 1)",
        "chat takes in task 7f3a9c12 (completion)",
        "task 7f3a9c12 goes to chat/0: least in flight",
        "chat/0 fails task 7f3a9c12, next try in 40 ms: WORKER_RESET reset, the engine closed the connection",
        "chat/0 opens its breaker and gets no tasks; next try in 5 s",
        "chat/0 half-opens its breaker: one task may try it",
        "chat/0 closes its breaker and gets tasks again",
        "task 7f3a9c12 gets its first token from chat/0 after 0.2 s",
        "task 7f3a9c12 ends on chat/0 after 41 tokens, in 1.2 s",
        "chat/0 takes tasks on generation 2; 1 stream still runs on the one before",
        "chat/0 takes no more tasks on generation 1; 1 stream may go on for 60 s",
        "chat/0 is drained of generation 1 in 2.5 s; nothing was dropped",
        "chat/0 lets go of generation 1; its adapter is closed",
    ]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (failure(), "task 7f3a9c12 fails on chat/0, attempt 1: WORKER_RESET reset, the engine closed the connection"),
        (
            failure(replica_id=None, engine=None, attempts=0, error_kind="POOL_UNAVAILABLE", detail="all_open"),
            "task 7f3a9c12 fails on chat before any attempt: POOL_UNAVAILABLE all_open, the engine closed the co…",
        ),
        (ended(ending="cancelled", tokens_out=212), "task 7f3a9c12 is cancelled on chat/0 after 212 tokens, in decode"),
        (ended(tokens_out=None), "task 7f3a9c12 ends on chat/0, in 1.2 s"),
        (ended(tokens_out=1, duration=0.03), "task 7f3a9c12 ends on chat/0 after 1 token, in 30 ms"),
        (first_token(stand_in="spare"), "task 7f3a9c12 gets its first token from spare/0 after 0.2 s"),
        (
            failed_attempt(backoff=0.0),
            "chat/0 fails task 7f3a9c12, next try at once: WORKER_RESET reset, the engine closed the connection",
        ),
        (
            AttemptBegun(**AT, generation=1, attempt=2, reason="", waited=0.0),
            "task 7f3a9c12 goes to chat/0, attempt 2",
        ),
        (HealthChanged(**ONE, was="ready", now="down", detail="refused"), "chat/0 is down, no longer ready: refused"),
        (HealthChanged(**ONE, was="ready", now="busy"), "chat/0 is busy, and answers its health checks"),
        (HealthChanged(**ONE, was="unknown", now="ready"), "chat/0 is ready"),
        (HealthChanged(**ONE, was="ready", now="ready"), None),
        (CapabilitiesChanged(**ONE, changes=()), None),
        (
            CapabilitiesChanged(**ONE, changes=("context shrank 32768 → 8192",)),
            "chat/0 changes: context shrank 32768 → 8192",
        ),
        (
            ReplicaDrained(**ONE, cut=2, duration=60.0),
            "chat/0 is drained of generation 1 in 60 s; 2 streams cut at the limit",
        ),
        (
            ReplicaRebound(**ONE, generation=2, leases=0),
            "chat/0 takes tasks on generation 2; 0 streams still run on the one before",
        ),
        (
            ReloadFailed(problems=("pools.a: x", "pools.b: y")),
            "the host keeps its configuration; 2 problems in the new one: pools.a: x; pools.b: y",
        ),
        (HostStopped(duration=1800.0), "the host is stopped in 30 min; every adapter is closed"),
    ],
)
def test_sentences(event: HostEvent, line: str | None):
    """Each sentence says who, what happened and what follows, as far as it is known (ORCH-3604)."""
    assert human(event) == line


@given(st.text(min_size=25, max_size=200))
def test_long_names_leave_room(name: str):
    """However long a pool's and a replica's names are, what happened to it stands on the line (ORCH-3604)."""
    line = human(BreakerChanged(pool_id=name, replica_id=name, engine="e", state="open", open_for=5.0))

    assert line is not None
    assert "opens its breaker" in line


@pytest.mark.parametrize(
    ("event", "loudness"),
    [
        (ended(), logging.DEBUG),
        (ended(ending="cancelled"), logging.DEBUG),
        (failure(), logging.INFO),
        (BreakerChanged(**ONE, state="open"), logging.WARNING),
        (BreakerChanged(**ONE, state="closed"), logging.INFO),
        (HealthChanged(**ONE, was="ready", now="down"), logging.WARNING),
        (HealthChanged(**ONE, was="down", now="ready"), logging.INFO),
        (ReplicaDrained(**ONE, cut=0, duration=1.0), logging.INFO),
        (ReplicaDrained(**ONE, cut=1, duration=1.0), logging.WARNING),
        (ReplicaDrained(**ONE, cut=1, duration=1.0, stopping=True), logging.INFO),
        (PluginChanged(name="p", version="1", origin="o", state="ready"), logging.INFO),
        (PluginChanged(name="p", version="1", origin="o", state="hangs"), logging.WARNING),
    ],
)
def test_trouble_is_louder(event: HostEvent, loudness: int):
    """What may be trouble is a warning where it is, and no louder than the rest where it is not (ORCH-3604)."""
    assert level(event) == loudness


def test_a_task_that_went_elsewhere_is_told_where_it_is():
    """A replica is named by its own pool, also where that stood in for the task's (ORCH-3604)."""
    assert (pool_of(first_token()), pool_of(first_token(stand_in="spare"))) == ("chat", "spare")
    assert pool_of(BreakerChanged(**ONE, state="open")) == "chat"


class Unheard(Event, frozen=True, kw_only=True, tag="unheard"):
    """A kind that is not of the union."""


def test_an_unknown_kind_is_refused():
    """A kind without a sentence is told to whoever added it, with the place where it goes."""
    with pytest.raises(TypeError, match="no sentence tells a Unheard; give it one in .*narration"):
        human(Unheard())  # type: ignore[arg-type]  # which is what is wrong


def test_task_ids_are_short():
    """Of a task's id the first eight characters are told (ORCH-3604)."""
    assert TASK[:9] not in str(human(ended()))
