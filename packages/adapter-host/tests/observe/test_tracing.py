import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from llama_orch_adapter_host._events import AttemptBegun, HostEvent, TaskAdmitted, TaskAdvised
from llama_orch_adapter_host.observe import Tracing
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from ..adapters import Words, drained, host_of, task, virtual  # type: ignore[import-not-found]  # no packages
from .events import (  # type: ignore[import-not-found]  # test folders are no packages
    AT,
    ONE,
    TASK,
    WHOSE,
    begun,
    ended,
    failed_attempt,
    failure,
    first_token,
)

CALLER = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass
class Traced:
    """A tracer whose spans stay in memory."""

    provider: TracerProvider
    exporter: InMemorySpanExporter
    tracing: Tracing

    def tell(self, *events: HostEvent) -> None:
        for event in events:
            self.tracing(event)

    def spans(self) -> dict[str, ReadableSpan]:
        """The spans that were ended, by name; the attempts numbered."""
        found = {}
        for span in self.exporter.get_finished_spans():
            attributes = span.attributes or {}
            found[f"{span.name} {attributes.get('llama_orch.attempt', '')}".strip()] = span
        return found


@pytest.fixture
def traced() -> Iterator[Traced]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield Traced(provider, exporter, Tracing(provider.get_tracer("test")))
    provider.shutdown()


def second_attempt() -> AttemptBegun:
    return AttemptBegun(**{**AT, "replica_id": "1"}, generation=3, attempt=2, reason="least in flight", waited=0.6)


def test_a_task_and_its_attempts(traced: Traced):
    """A task is one span, its attempts are its children, under the gen_ai names and ours (ORCH-3604)."""
    traced.tell(*begun(), failed_attempt(), second_attempt())
    traced.tell(first_token(replica_id="1", attempt=2), ended(replica_id="1", attempts=2))
    spans = traced.spans()
    task, first, second = (spans[name] for name in ("chat smollm2", "attempt 1", "attempt 2"))

    assert len(spans) == 3
    assert task.parent is None
    assert all(span.parent and span.parent.span_id == task.get_span_context().span_id for span in (first, second))
    assert {span.kind for span in spans.values()} == {SpanKind.CLIENT}
    assert dict(task.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "smollm2",
        "gen_ai.request.stream": True,
        "gen_ai.conversation.id": "s1",
        "gen_ai.provider.name": "llamacpp",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.response.time_to_first_chunk": 0.2,
        "gen_ai.usage.input_tokens": 12,
        "gen_ai.usage.output_tokens": 41,
        "gen_ai.usage.cache_read.input_tokens": 8,
        "llama_orch.task_id": TASK,
        "llama_orch.correlation_id": "c1",
        "llama_orch.pool_id": "chat",
        "llama_orch.replica_id": "1",
        "llama_orch.attempts": 2,
        "llama_orch.phase": "decode",
        "llama_orch.outcome": "ok",
    }
    assert dict(first.attributes or {}) == {
        "gen_ai.provider.name": "llamacpp",
        "llama_orch.pool_id": "chat",
        "llama_orch.replica_id": "0",
        "llama_orch.generation": 1,
        "llama_orch.attempt": 1,
        "llama_orch.reason": "least in flight",
        "llama_orch.outcome": "failed",
        "llama_orch.backoff": 0.04,
        "error.type": "WORKER_RESET",
        "llama_orch.error_detail": "reset",
    }
    assert (first.status.status_code, first.status.description) == (
        StatusCode.ERROR,
        "the engine closed the connection",
    )
    assert (second.attributes or {})["gen_ai.response.time_to_first_chunk"] == 0.18
    assert {task.status.status_code, second.status.status_code} == {StatusCode.UNSET}


def test_a_failed_task(traced: Traced):
    """A task that fails is an error with the taxonomy's code, and so is its last attempt (ORCH-3604)."""
    traced.tell(*begun(), failure())

    for span in traced.spans().values():
        assert (span.attributes or {})["error.type"] == "WORKER_RESET"
        assert (span.attributes or {})["llama_orch.outcome"] == "failed"
        assert span.status.status_code is StatusCode.ERROR


def test_a_cancelled_task_is_no_error(traced: Traced):
    """A cancel is an outcome, and no error of anybody's (ORCH-3604)."""
    traced.tell(*begun(), ended(ending="cancelled", finish_reason="cancelled"))

    for span in traced.spans().values():
        assert span.status.status_code is StatusCode.UNSET
        assert (span.attributes or {})["llama_orch.outcome"] == "cancelled"


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        ({"workload": "completion", "chat": True}, "chat"),
        ({"workload": "completion"}, "text_completion"),
        ({"workload": "embedding", "model_ref": "m"}, "embeddings m"),
        ({"workload": "rerank"}, "rerank"),
    ],
)
def test_names(traced: Traced, facts: dict[str, str], name: str):
    """A task's span is named by what is done, and by the model where one is asked for (ORCH-3604)."""
    traced.tell(TaskAdmitted(**WHOSE, **facts), failure(replica_id=None, attempts=0))  # type: ignore[arg-type]

    assert list(traced.spans()) == [name]


def test_the_callers_traceparent_is_the_parent(traced: Traced):
    """A task that carries a traceparent continues that trace; the engine is told the attempt's (ORCH-3604)."""
    traced.tell(TaskAdmitted(**WHOSE, workload="completion", traceparent=CALLER), begun()[1])
    handed_on = traced.tracing.traceparent(TASK)
    traced.tell(ended())
    task, attempt = traced.spans()["text_completion"], traced.spans()["attempt 1"]

    assert task.parent is not None
    assert (task.parent.trace_id, task.parent.span_id) == (int(CALLER[3:35], 16), int(CALLER[36:52], 16))
    assert handed_on == f"00-{CALLER[3:35]}-{attempt.get_span_context().span_id:016x}-01"


def test_else_the_current_span_is_the_parent(traced: Traced):
    """Without a traceparent, or with one that is none, the span around the submit is the parent (ORCH-3604)."""
    for given in (None, "00-00000000000000000000000000000000-0000000000000000-00"):
        with traced.provider.get_tracer("test").start_as_current_span("request") as around:
            traced.tell(TaskAdmitted(**WHOSE, workload="completion", traceparent=given))
        traced.tell(ended())

        parent = traced.spans()["text_completion"].parent
        assert parent is not None
        assert parent.span_id == around.get_span_context().span_id


def test_traceparent_of_what_does_not_run(traced: Traced):
    """Before an attempt, between two, after the end and of unknown tasks there is no traceparent (ORCH-3604)."""
    found = [traced.tracing.traceparent(TASK)]
    for event in (begun()[0], begun()[1], failed_attempt(), second_attempt(), ended()):
        traced.tell(event)
        found.append(traced.tracing.traceparent(TASK))

    assert [each is None for each in found] == [True, True, False, True, False, True]


def test_without_an_sdk_the_callers_traceparent_is_handed_on():
    """Where the program records no spans the engine is told what the caller told (ORCH-3604)."""
    tracing = Tracing(trace.NoOpTracer())
    for traceparent in (CALLER, None):
        tracing(TaskAdmitted(**WHOSE, workload="completion", traceparent=traceparent))
        tracing(begun()[1])

        assert tracing.traceparent(TASK) == traceparent


def test_the_default_tracer():
    """Without a tracer the program's own provider makes the spans."""
    tracing = Tracing()
    for event in (*begun(), ended()):
        tracing(event)

    assert tracing.traceparent(TASK) is None


def test_no_span_stays_open(traced: Traced):
    """Whatever is told in whichever order, each span is ended with its task, or as its id begins anew (ORCH-3604)."""
    again = second_attempt()
    traced.tell(*begun("a"), again, *begun("a"), ended(task_id="a"))
    spans = traced.exporter.get_finished_spans()

    assert len(spans) == 4
    assert all(span.end_time for span in spans)
    assert {(span.attributes or {})["llama_orch.outcome"] for span in spans} == {"lost", "ok"}
    assert not traced.tracing._open


@virtual
async def test_hosts_that_share_one(traced: Traced):
    """ORCH-3604: a host that stops ends the spans of its own tasks alone, each with how its task ended."""
    async with host_of(Words()) as stays:
        stays.observe(traced.tracing)
        stream = await stays.submit("pool", task())
        async with host_of(Words()) as stops:
            stops.observe(traced.tracing)
            await stops.submit("pool", task())
        outcomes = [(span.attributes or {})["llama_orch.outcome"] for span in traced.exporter.get_finished_spans()]
        await drained(stream)
    outcomes += [(span.attributes or {})["llama_orch.outcome"] for span in traced.exporter.get_finished_spans()[2:]]

    assert outcomes == ["cancelled", "cancelled", "ok", "ok"]


def test_a_refused_task_ends_no_others_span(traced: Traced):
    """ORCH-3604: a task that is refused since its id runs leaves the spans of the one that runs open."""
    traced.tell(*begun(), ended(ending="failed", refused=True, attempts=0))
    assert traced.exporter.get_finished_spans() == ()
    traced.tell(ended())

    assert {(span.attributes or {})["llama_orch.outcome"] for span in traced.exporter.get_finished_spans()} == {"ok"}


def test_an_attempt_that_was_not_ended_is(traced: Traced):
    """A new attempt ends the one before it."""
    traced.tell(*begun(), second_attempt(), ended())

    assert (traced.spans()["attempt 1"].attributes or {})["llama_orch.outcome"] == "lost"
    assert (traced.spans()["attempt 2"].attributes or {})["llama_orch.outcome"] == "ok"


def test_it_is_bounded(traced: Traced):
    """Of tasks whose end nobody tells only so many are followed; the oldest is given up (ORCH-3604)."""
    tracing = Tracing(traced.provider.get_tracer("test"), most=10)
    for n in range(100):
        tracing(begun(str(n))[0])

    assert len(tracing._open) == 10
    assert len(traced.exporter.get_finished_spans()) == 90
    assert {(span.attributes or {})["llama_orch.outcome"] for span in traced.exporter.get_finished_spans()} == {"lost"}


def test_tasks_that_began_before(traced: Traced, caplog: pytest.LogCaptureFixture):
    """What is told of a task that nobody saw begin makes no span, and no complaint."""
    advice = TaskAdvised(**WHOSE, replica_id="0", advice="x")
    with caplog.at_level(logging.WARNING):
        traced.tell(begun()[1], advice, failed_attempt(), first_token(), ended())

    assert traced.spans() == {}
    assert caplog.records == []


def test_advice_is_an_event_of_the_span(traced: Traced):
    """What an adapter advises stands in the task's span (ORCH-3604)."""
    traced.tell(*begun(), TaskAdvised(**WHOSE, replica_id="0", advice="ask for less"), first_token(), ended())
    [event] = traced.spans()["chat smollm2"].events

    assert event.name == "llama_orch.advice"
    assert dict(event.attributes or {}) == {
        "llama_orch.pool_id": ONE["pool_id"],
        "llama_orch.replica_id": "0",
        "llama_orch.advice": "ask for less",
    }


def test_a_first_token_between_attempts(traced: Traced):
    """A first token that is told where no attempt runs is the task's alone."""
    traced.tell(begun()[0], first_token(), ended())

    assert list(traced.spans()) == ["chat smollm2"]
    assert (traced.spans()["chat smollm2"].attributes or {})["gen_ai.response.time_to_first_chunk"] == 0.2
