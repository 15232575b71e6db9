"""The taxonomy: what each failure means for retry and breaker, and that an error keeps its facts on any way."""

import copy
import pickle
from collections.abc import Callable
from typing import NamedTuple

import pytest
from llama_orch_adapter_api import (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    InternalError,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
)

KINDS = [AdapterError, DeadlineUnmet, DecodeTimeout, InternalError, PoolUnavailable, WorkerReset]


class Row(NamedTuple):
    """Whether the host may try again, and whether the replica's breaker counts it."""

    kind: type[WorkerError]
    detail: str
    retriable: bool
    engine_fault: bool


YES, NO = True, False
TABLE = [
    # the task's own deadline: neither is anybody's fault, and there is no time left
    Row(DeadlineUnmet, "queue", NO, NO),
    Row(DeadlineUnmet, "connect", NO, NO),
    Row(DeadlineUnmet, "first_token", NO, NO),
    Row(DeadlineUnmet, "decode", NO, NO),
    # DNS, refused, connect timeout, TLS handshake
    Row(PoolUnavailable, "unreachable", YES, YES),
    # 429, 503, and the host's own reasons not to call: back pressure
    Row(PoolUnavailable, "overloaded", YES, NO),
    Row(PoolUnavailable, "loading", YES, NO),
    Row(PoolUnavailable, "at_capacity", YES, NO),
    Row(PoolUnavailable, "all_open", YES, NO),
    Row(PoolUnavailable, "draining", YES, NO),
    Row(PoolUnavailable, "unknown_pool", NO, NO),
    # 504 or the first-token limit; the idle limit comes after a token, so it is final
    Row(DecodeTimeout, "first_token", YES, YES),
    Row(DecodeTimeout, "idle", NO, YES),
    # the connection or the stream ended too early; the drain limit is our own doing
    Row(WorkerReset, "reset", YES, YES),
    Row(WorkerReset, "truncated", YES, YES),
    Row(WorkerReset, "aborted", YES, YES),
    Row(WorkerReset, "drained", YES, NO),
    # the request or the set-up is wrong
    Row(AdapterError, "bad_request", NO, NO),
    Row(AdapterError, "context_length", NO, NO),
    Row(AdapterError, "auth", NO, NO),
    Row(AdapterError, "not_found", NO, NO),
    Row(AdapterError, "unsupported", NO, NO),
    Row(AdapterError, "redirect", NO, NO),
    Row(AdapterError, "tls", NO, NO),
    Row(AdapterError, "address", NO, NO),
    Row(AdapterError, "duplicate_task", NO, NO),
    # an answer that makes no sense, an adapter that broke
    Row(AdapterError, "decode", NO, YES),
    Row(AdapterError, "too_large", NO, YES),
    Row(AdapterError, "encoding", NO, YES),
    Row(AdapterError, "plugin", NO, YES),
    # 500, 502 and the like; and our own defects
    Row(InternalError, "engine", YES, YES),
    Row(InternalError, "host", NO, NO),
]

each_row = pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.kind.__name__}-{row.detail}")


@each_row
def test_verdicts(row: Row) -> None:
    """Each (kind, detail) answers both questions as the semantics say."""
    error = row.kind("broke", detail=row.detail)

    assert error.retriable is row.retriable
    assert error.engine_fault is row.engine_fault


def test_the_table_is_whole() -> None:
    """No kind and no detail exists beside those that the semantics name."""
    known = {(kind, detail) for kind in WorkerError.__subclasses__() for detail in kind.verdicts}

    assert known == {(row.kind, row.detail) for row in TABLE}


def test_codes() -> None:
    """Each kind has its wire code."""
    assert {kind: kind.code for kind in KINDS} == {
        DeadlineUnmet: "DEADLINE_UNMET",
        PoolUnavailable: "POOL_UNAVAILABLE",
        DecodeTimeout: "DECODE_TIMEOUT",
        WorkerReset: "WORKER_RESET",
        AdapterError: "ADAPTER",
        InternalError: "INTERNAL",
    }


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_details_are_refused(kind: type[WorkerError]) -> None:
    """A detail that the kind does not have is a mistake of the writer, told with those that it has."""
    with pytest.raises(ValueError, match=f"^{kind.__name__} has no detail 'odd'; known: {', '.join(kind.verdicts)}$"):
        kind("broke", detail="odd")


def test_the_base_is_not_raised() -> None:
    """A failure is always one of the six kinds."""
    with pytest.raises(ValueError, match=r"^WorkerError has no detail 'x'; known: none: raise one of its subclasses$"):
        WorkerError("broke", detail="x")


def told() -> WorkerReset:
    return WorkerReset(
        "it broke",
        detail="reset",
        phase="decode",
        retry_after=1.5,
        engine="llamacpp",
        pool="chat",
        replica="r0",
        attempts=2,
    )


def test_facts() -> None:
    """An error carries what was told about it; its text is the message alone."""
    error = told()

    assert str(error) == error.message == "it broke"
    assert (error.detail, error.phase, error.retry_after) == ("reset", "decode", 1.5)
    assert (error.engine, error.pool, error.replica, error.attempts) == ("llamacpp", "chat", "r0", 2)


def pickled(error: WorkerError) -> WorkerError:
    revived = pickle.loads(pickle.dumps(error))
    assert isinstance(revived, WorkerError)
    return revived


@pytest.mark.parametrize("again", [pickled, copy.copy, copy.deepcopy])
@each_row
def test_copies_keep_the_facts(again: Callable[[WorkerError], WorkerError], row: Row) -> None:
    """Pickled or copied, an error is of its kind and has all its facts, notes included."""
    error = row.kind("it broke", detail=row.detail, phase="connect", retry_after=2.0, pool="chat", attempts=3)
    error.add_note("seen in a test")
    other = again(error)

    assert other is not error
    assert type(other) is row.kind
    assert vars(other) == vars(error)
    assert other.args == error.args == ("it broke",)
    assert (other.retriable, other.engine_fault) == (row.retriable, row.engine_fault)


def test_placed_fills_what_is_missing() -> None:
    """The places that were not known where the error was raised are filled in, on the error itself."""
    error = InternalError("broke", detail="engine")

    assert error.placed(engine="vllm", pool="chat", replica="r1") is error
    assert (error.engine, error.pool, error.replica) == ("vllm", "chat", "r1")


def test_placed_overwrites_nothing() -> None:
    """A place that is known stays, and what nobody tells stays unknown."""
    error = told().placed(engine="other", pool="other", replica="other")
    unplaced = InternalError("broke", detail="engine").placed(pool="chat")

    assert (error.engine, error.pool, error.replica) == ("llamacpp", "chat", "r0")
    assert (unplaced.engine, unplaced.pool, unplaced.replica) == (None, "chat", None)
