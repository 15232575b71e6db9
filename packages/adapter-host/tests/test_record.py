"""The flight record: attempt by attempt what became of a task, and why (ORCH-3602)."""

import asyncio
import re

import msgspec
import pytest
from llama_orch_adapter_api import DeadlineUnmet, PoolUnavailable, Token, WorkerError
from llama_orch_adapter_host import FlightRecord, PoolPolicy
from llama_orch_adapter_host._record import AttemptRecord
from llama_orch_adapter_host._retry import RetryPolicy

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    end,
    host_of,
    moment,
    task,
    virtual,
)
from .replicas import (  # type: ignore[import-not-found]  # as above
    CANCELLED,
    Replica,
    broke,
    loading,
    outcome_of,
    overloaded,
    record_of,
    refused,
    reset,
)

FIRST_LINE = (
    "  1. chat/r0 (generation 1): least in flight, 2 in flight · fault (POOL_UNAVAILABLE unreachable) after 0.003 s"
)
SECOND_LINE = (
    "  2. chat/r1 (generation 3) after a back-off of 0.042 s: session affinity, 0 in flight"
    " · first token after 0.210 s · ok after 1.500 s"
)
TASK_ID = "0f1e2d3c-4b5a-4978-8695-a4b3c2d1e0f0"


def attempt(**facts: object) -> AttemptRecord:
    told = {"replica": "chat/r0", "engine": "words", "generation": 1, "why": "least in flight", "in_flight": 0}
    return msgspec.convert({**told, "began_after": 0.0, **facts}, AttemptRecord)


def record(*attempts: AttemptRecord) -> FlightRecord:
    return FlightRecord(task_id=TASK_ID, pool_id="chat", admitted_at=1.75e9, attempts=list(attempts))


# --- for people


def test_how_a_record_reads():
    """ORCH-3602: a record reads as a story: where it was sent and why, what it waited, what became of it."""
    first = attempt(in_flight=2)
    first.ended(refused(), "fault", 0.0031)
    second = attempt(
        replica="chat/r1", generation=3, why="session affinity", backoff=0.0417, began_after=0.045, first_token=0.2104
    )
    second.ended(end(12), "ok", 1.5)
    told = record(first, second)
    told.ended(end(12), "decode", 1.5449)

    assert told.lines() == [
        f"task {TASK_ID} in pool chat",
        FIRST_LINE,
        SECOND_LINE,
        "  ok after 1.545 s · 12 tokens · stop",
    ]


def test_how_other_endings_read():
    """ORCH-3602: a record that runs, was cancelled, failed or never was sent anywhere reads as such."""
    running = record(attempt(first_token=0.1))
    running.advice = ("words r0: the prompt fills most of the context",)
    dropped = record()
    dropped.ended(CANCELLED, "queue", 0.25)
    failed = record()
    failed.ended(DeadlineUnmet("too late · allow more", detail="queue", phase="queue"), "queue", 0.25)

    assert running.lines()[1:] == [
        "  words r0: the prompt fills most of the context",
        "  1. chat/r0 (generation 1): least in flight, 0 in flight · first token after 0.100 s · runs",
        "  it runs",
    ]
    assert dropped.lines()[1:] == ["  cancelled after 0.250 s · cancelled"]
    assert failed.lines()[1:] == ["  failed after 0.250 s: DEADLINE_UNMET queue · too late · allow more"]


def test_what_an_engine_said_is_one_line():
    """Battery 36: a message with line breaks or control characters does not break the lines of a record."""
    error = PoolUnavailable("a\nb\x1b[2Jc\u202e", detail="overloaded")
    first = attempt()
    first.ended(error, "backpressure", 0.1)
    told = record(first)
    told.ended(error, "first_token", 0.1)

    for text in (*told.lines(), first.message, told.message):
        assert text is not None
        assert text.isprintable()


def test_a_record_is_small_and_travels():
    """ORCH-3602: a record goes through JSON and back, and leaves out what it has nothing to say of."""
    told = record(attempt())
    told.ended(end(1), "decode", 1.0)
    raw = msgspec.json.encode(told)

    assert msgspec.json.decode(raw, type=FlightRecord) == told
    assert b"null" not in raw
    assert b"retry_after" not in raw


# --- on every result and every error


async def of_result(replica: Replica) -> FlightRecord:
    async with host_of(replica) as host:
        result = await (await host.submit("pool", task())).collect()
        return result.record


@virtual
async def test_every_result_has_its_record():
    """ORCH-3602: a result tells which replica gave it, why that was picked, and when its first token came."""
    told = await of_result(Replica((STARTED, 0.25, Token("a", 0), 0.5, end(1))))
    (only,) = told.attempts

    assert (told.ending, told.finish_reason, told.tokens_in, told.tokens_out) == ("ok", "stop", 3, 1)
    assert (told.phase, told.duration) == ("decode", moment(0.75))
    assert (only.replica, only.engine, only.generation, only.why) == ("pool/0", "words", 1, "the only replica")
    assert (only.outcome, only.first_token, only.duration) == ("ok", moment(0.25), moment(0.75))
    assert (only.in_flight, only.backoff, only.began_after, only.error_kind) == (0, 0.0, 0.0, None)


@pytest.mark.parametrize(
    ("script", "attempts", "phase"),
    [
        ((refused(),), 3, "connect"),
        ((STARTED, 0.1, broke()), 1, "first_token"),
        ((STARTED, Token("a", 0), reset()), 1, "decode"),
        ((99,), 1, "connect"),
    ],
)
@virtual
async def test_every_error_has_its_record(script: tuple[object, ...], attempts: int, phase: str):
    """ORCH-3602: an error of any phase carries the record that `explain` gives, and agrees with it."""
    async with host_of(Replica(script)) as host:  # type: ignore[arg-type]
        request = task(deadline_ms=5000)
        error = await outcome_of(host, request)

        assert isinstance(error, WorkerError)
        told = error.record
        assert isinstance(told, FlightRecord)
        assert told is host.explain(request.task_id)
    assert (told.ending, told.error_kind, told.detail) == ("failed", error.code, error.detail)
    assert (told.phase, error.phase) == (phase, phase)
    assert (len(told.attempts), error.attempts) == (attempts, attempts)
    last = told.attempts[-1]
    assert (last.error_kind, last.detail, last.message) == (error.code, error.detail, error.message)


@virtual
async def test_a_task_that_reached_nobody():
    """ORCH-3602: a task that no replica took has a record without attempts, with what forbade it."""
    async with host_of(Replica(), policy=PoolPolicy(max_in_flight=1)) as host:
        running = await host.submit("pool", task())
        request = task()
        error = await outcome_of(host, request)
        told = record_of(host, request)
        await running.aclose()

        assert isinstance(error, WorkerError)
        assert error.record is told
        assert (told.attempts, told.ending, told.detail, told.phase) == ([], "failed", "at_capacity", "queue")
        assert error.attempts == 0


@virtual
async def test_the_attempts_in_their_order():
    """ORCH-3602: the record of a task that went a long way tells each stop, its reason, back-off and outcome."""
    policy = PoolPolicy(retry=RetryPolicy(base=1, cap=1))
    replicas = [Replica((overloaded(),)), Replica((loading(),)), Replica((0.5, reset()))]
    async with host_of(*replicas, policy=policy) as host:
        request = task()
        error = await outcome_of(host, request)
        told = record_of(host, request)

    assert [(each.replica, each.outcome, each.detail) for each in told.attempts] == [
        ("pool/1", "warming", "loading"),
        ("pool/2", "fault", "reset"),
        ("pool/0", "backpressure", "overloaded"),
    ]
    assert isinstance(error, WorkerError)
    assert told.detail == error.detail == "overloaded"
    first, second, third = told.attempts
    assert (first.backoff, second.backoff) == (0.0, 0.0)
    assert 0 < third.backoff <= 1
    assert third.began_after == moment(second.began_after + 0.5 + third.backoff)
    assert {each.why for each in told.attempts} == {"least in flight"}
    assert told.resets == 1


@virtual
async def test_a_record_grows_while_the_task_runs():
    """ORCH-3602: `explain` and `stream.record` show a running task as far as it has come, back-offs included."""
    async with host_of(Replica((overloaded(2.0),), (STARTED, Token("a", 0), 1, end(1)))) as host:
        request = task()
        submitting = asyncio.ensure_future(_of(host.submit("pool", request)))
        await asyncio.sleep(1)
        resting = record_of(host, request)
        assert [each.outcome for each in resting.attempts] == ["backpressure"]
        assert resting.lines()[-1] == "  it runs"
        stream = await submitting

        assert stream.record is resting
        assert [each.outcome for each in resting.attempts] == ["backpressure", None]
        assert 2.0 <= resting.attempts[1].backoff <= 2.2
        assert resting.attempts[1].began_after == moment(resting.attempts[1].backoff)
        assert re.search(r"after a back-off of 2\.\d{3} s: the only replica", resting.lines()[2])
        await stream.collect()
        assert resting.ending == "ok"


async def _of(submission):  # type: ignore[no-untyped-def]  # noqa: ANN001
    return await submission


def test_nothing_of_what_was_asked_is_kept():
    """ORCH-3602: a record has no place for a prompt or an answer."""
    fields = set(FlightRecord.__struct_fields__) | set(AttemptRecord.__struct_fields__)

    assert not fields & {"prompt", "messages", "inputs", "text", "tokens", "request", "task"}
