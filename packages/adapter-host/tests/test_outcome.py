"""The one table of what an ending means (ORCH-3602)."""

import pytest
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
from llama_orch_adapter_host._outcome import EFFECTS, MEANINGS, Again, Outcome, Readiness, Verdict, meaning_of

from .replicas import TAXONOMY  # type: ignore[import-not-found]  # test folders are no packages

FOUR_XX = ("bad_request", "context_length", "auth", "not_found", "unsupported", "redirect", "duplicate_task")

ROWS: list[tuple[type[WorkerError], str, Again, Verdict, Readiness]] = [
    # DNS, refused, connect timeout, TLS handshake I/O
    (PoolUnavailable, "unreachable", "other_first", "fault", "as_it_was"),
    # certificate or hostname wrong
    (AdapterError, "tls", "never", "neutral", "as_it_was"),
    # 429; 503: queue full, "Loading model"
    (PoolUnavailable, "overloaded", "other_now", "neutral", "paused"),
    (PoolUnavailable, "loading", "other_now", "neutral", "loading"),
    # 500, 502 and any other 5xx
    (InternalError, "engine", "other_once", "fault", "as_it_was"),
    # 504, first-token limit
    (DecodeTimeout, "first_token", "other_in_time", "fault", "as_it_was"),
    # reset after headers, before the first token
    *((WorkerReset, detail, "other_once", "fault", "as_it_was") for detail in ("reset", "truncated", "aborted")),
    # 3xx, 400, 401, 403, 404, 413, 422, 501 and any other 4xx
    *((AdapterError, detail, "never", "neutral", "as_it_was") for detail in FOUR_XX),
    # adapter code raised something else
    (AdapterError, "plugin", "never", "fault", "as_it_was"),
    # undecodable response
    *((AdapterError, detail, "never", "fault", "as_it_was") for detail in ("decode", "too_large", "encoding")),
    # own deadline
    *((DeadlineUnmet, detail, "never", "neutral", "as_it_was") for detail in DeadlineUnmet.verdicts),
]
"""semantics.md, section 1, row by row."""


@pytest.mark.parametrize(("kind", "detail", "again", "verdict", "readiness"), ROWS)
def test_the_table_of_failures(
    kind: type[WorkerError], detail: str, again: Again, verdict: Verdict, readiness: Readiness
):
    """ORCH-3602: each row of the table of failures before the commit, as the contract has it."""
    meaning = meaning_of(kind("it failed", detail=detail))
    effect = EFFECTS[meaning.outcome]

    assert (meaning.again, effect.breaker, effect.readiness) == (again, verdict, readiness)


def test_every_failure_of_the_taxonomy_has_a_meaning():
    """ORCH-3602: the table knows each (kind, detail) by name, and nothing that the taxonomy does not."""
    assert set(MEANINGS) == set(TAXONOMY)


@pytest.mark.parametrize(("kind", "detail"), TAXONOMY)
def test_the_table_agrees_with_the_boundary(kind: type[WorkerError], detail: str):
    """ORCH-3602: what the boundary calls retriable is sent again, and what it calls an engine's fault is one."""
    error = kind("it failed", detail=detail)
    meaning = meaning_of(error)

    assert (meaning.again != "never") == error.retriable
    assert (EFFECTS[meaning.outcome].breaker == "fault") == error.engine_fault


@pytest.mark.parametrize(("kind", "detail"), TAXONOMY)
def test_a_stale_connection_is_free(kind: type[WorkerError], detail: str):
    """ORCH-3602: a request that never began is sent again at once and proves nothing, whatever error it came as.

    Here alone the table differs from the boundary, whose two questions know the kind and the detail and not this fact.
    """
    meaning = meaning_of(kind("it failed", detail=detail, stale_connection=True))

    assert (meaning.outcome, meaning.again, meaning.resets) == ("stale", "same_once", False)
    assert EFFECTS["stale"] == ("neutral", "as_it_was")


def test_a_connection_stale_twice_is_a_fault():
    """ORCH-3602: if the repeat meets a stale connection too, the replica is charged, and the task is over."""
    meaning = meaning_of(WorkerReset("reset", detail="reset", stale_connection=True), stale_before=True)

    assert (meaning.outcome, meaning.again, meaning.resets) == ("fault", "never", False)


def test_what_counts_against_a_task():
    """Battery 17: an engine that went away under a task counts against it; one that its own host drained does not."""
    counted = [(kind, detail) for kind, detail in TAXONOMY if MEANINGS[kind, detail].resets]

    assert counted == [(WorkerReset, "reset"), (WorkerReset, "truncated"), (WorkerReset, "aborted")]


@pytest.mark.parametrize(
    ("reason", "outcome"),
    [("stop", "ok"), ("length", "ok"), ("tool_calls", "ok"), ("content_filter", "ok"), ("cancelled", "cancelled")],
)
def test_an_end(reason: str, outcome: Outcome):
    """ORCH-3602: whatever the engine ended with went well, but what was cancelled says nothing of it."""
    meaning = meaning_of(End(1, 1, reason))  # type: ignore[arg-type]

    assert (meaning.outcome, meaning.again) == (outcome, "never")
    assert EFFECTS[outcome].breaker == ("ok" if outcome == "ok" else "neutral")


def test_subclasses_mean_what_their_kind_means():
    """ORCH-3602: an adapter's own subclass means what its kind does; a kind nobody knows is a fault for good."""

    class Gone(WorkerReset):
        """An adapter's own."""

    class Odd(WorkerError):
        """Of no kind."""

        verdicts = {"odd": WorkerReset.verdicts["reset"]}

    assert meaning_of(Gone("gone", detail="reset")) == meaning_of(WorkerReset("gone", detail="reset"))
    assert meaning_of(Odd("odd", detail="odd"))[:2] == ("fault", "never")


@pytest.mark.parametrize(
    "error",
    [
        AdapterError("no event stream", detail="decode"),
        AdapterError("too much", detail="too_large"),
        AdapterError("zipped", detail="encoding"),
        WorkerReset("no finish", detail="truncated"),
    ],
)
def test_an_answer_that_a_task_made_unreadable_is_no_fault_of_the_replica(error: WorkerError):
    """`extra` may ask the engine for anything; how the task goes on stays the same."""
    plain, made = meaning_of(error), meaning_of(error, extra=True)

    assert EFFECTS[plain.outcome].breaker == "fault"
    assert EFFECTS[made.outcome].breaker == "neutral"
    assert made[1:] == plain[1:]


def test_what_no_request_can_ask_for_is_the_replicas_fault():
    """A reset connection counts, whatever the task put into the request."""
    assert meaning_of(WorkerReset("gone", detail="reset"), extra=True).outcome == "fault"
