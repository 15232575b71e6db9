"""Events as OpenTelemetry spans: one for each task, and one for each attempt within it. Needs the extra `[otel]`.

Names are of the semantic conventions for generative AI; what these have no name for begins with `llama_orch.`.
"""

from collections.abc import Callable, Mapping
from typing import Any

from llama_orch_adapter_api import one_line, redact
from opentelemetry import trace
from opentelemetry.context import Context, get_current
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from .._events import (
    AttemptBegun,
    AttemptFailed,
    FirstToken,
    HostEvent,
    TaskAdmitted,
    TaskAdvised,
    TaskEnded,
)
from .narration import pool_of

MOST = 65_536
"""Tasks that are followed at once; beyond it the oldest one's spans are ended as lost."""

_PROPAGATOR = TraceContextTextMapPropagator()
_OPERATIONS = {"completion": "text_completion", "embedding": "embeddings"}

Attributes = Mapping[str, str | bool | int | float | tuple[str, ...] | None]


class Tracing:
    """An observer that makes spans with `tracer`, of the program's own tracer provider where left out.

    A task's `traceparent` is its span's parent; without one, the span that is current where the task is submitted.
    Several hosts may share one, as long as no two of them run a task of the same id at a time, such as one that a
    caller sends to both: the second ends the first one's spans as lost. Give each host its own there. A host tells the
    end of every task of its own before it has stopped.
    """

    def __init__(self, tracer: Tracer | None = None, *, most: int = MOST) -> None:
        self._tracer = tracer or trace.get_tracer("llama_orch_adapter_host")
        self._most = most
        self._open: dict[str, _Open] = {}
        self._kinds: dict[type[HostEvent], Callable[[Any], None]] = {
            TaskAdmitted: self._admitted,
            TaskAdvised: self._advised,
            AttemptBegun: self._begun,
            AttemptFailed: self._failed,
            FirstToken: self._first_token,
            TaskEnded: self._ended,
        }

    def __call__(self, event: HostEvent) -> None:
        """Begin, write on or end the spans that it is about."""
        follow = self._kinds.get(type(event))
        if follow is not None:
            follow(event)

    def traceparent(self, task_id: str) -> str | None:
        """What the engine is to be told (W3C Trace Context): the running attempt's span; None where none runs.

        Where the program records no spans it is what the caller told.
        """
        spans = self._open.get(task_id)
        if spans is None or spans.attempt is None:
            return None
        carrier: dict[str, str] = {}
        recorded = spans.attempt.get_span_context().is_valid
        _PROPAGATOR.inject(carrier, spans.within(spans.attempt) if recorded else spans.around)
        return carrier.get("traceparent")

    def _admitted(self, event: TaskAdmitted) -> None:
        self._lose(event.task_id)
        while len(self._open) >= self._most:
            self._lose(next(iter(self._open)))
        operation = "chat" if event.chat else _OPERATIONS.get(event.workload, event.workload)
        model = None if event.model_ref is None else _safe(event.model_ref)
        context = get_current()
        if event.traceparent is not None:
            context = _PROPAGATOR.extract({"traceparent": event.traceparent}, context)
        span = self._tracer.start_span(
            _safe(operation) if model is None else f"{_safe(operation)} {model}", context, SpanKind.CLIENT
        )
        _write(
            span,
            {
                "gen_ai.operation.name": operation,
                "gen_ai.request.model": model,
                "gen_ai.request.stream": True,
                "gen_ai.conversation.id": event.session_id,
                "llama_orch.pool_id": event.pool_id,
                "llama_orch.task_id": event.task_id,
                "llama_orch.correlation_id": event.correlation_id,
            },
        )
        self._open[event.task_id] = _Open(span, context)

    def _advised(self, event: TaskAdvised) -> None:
        spans = self._open.get(event.task_id)
        if spans is not None:
            place = {"llama_orch.pool_id": pool_of(event), "llama_orch.replica_id": event.replica_id}
            spans.task.add_event("llama_orch.advice", _given({**place, "llama_orch.advice": event.advice}))

    def _begun(self, event: AttemptBegun) -> None:
        spans = self._open.get(event.task_id)
        if spans is None:
            return
        spans.end_attempt({"llama_orch.outcome": "lost"})
        spans.attempt = self._tracer.start_span("attempt", spans.within(spans.task), SpanKind.CLIENT)
        _write(
            spans.attempt,
            {
                "gen_ai.provider.name": event.engine,
                "llama_orch.pool_id": pool_of(event),
                "llama_orch.replica_id": event.replica_id,
                "llama_orch.generation": event.generation,
                "llama_orch.attempt": event.attempt,
                "llama_orch.reason": event.reason,
            },
        )

    def _failed(self, event: AttemptFailed) -> None:
        spans = self._open.get(event.task_id)
        if spans is not None:
            spans.end_attempt({"llama_orch.outcome": "failed", "llama_orch.backoff": event.backoff}, event)

    def _first_token(self, event: FirstToken) -> None:
        spans = self._open.get(event.task_id)
        if spans is not None:
            _write(spans.task, {"gen_ai.response.time_to_first_chunk": event.total})
            if spans.attempt is not None:
                _write(spans.attempt, {"gen_ai.response.time_to_first_chunk": event.duration})

    def _ended(self, event: TaskEnded) -> None:
        spans = None if event.refused else self._open.pop(event.task_id, None)
        if spans is None:
            return
        outcome: Attributes = {
            "gen_ai.response.finish_reasons": None if event.finish_reason is None else (_safe(event.finish_reason),),
            "llama_orch.outcome": event.ending,
        }
        used: Attributes = {
            "gen_ai.provider.name": event.engine,
            "gen_ai.usage.input_tokens": event.tokens_in,
            "gen_ai.usage.output_tokens": event.tokens_out,
            "gen_ai.usage.cache_read.input_tokens": event.cached_tokens,
            "llama_orch.replica_id": event.replica_id,
            "llama_orch.stand_in": event.stand_in or None,
            "llama_orch.attempts": event.attempts,
            "llama_orch.phase": event.phase,
        }
        error = event if event.ending == "failed" else None
        spans.end_attempt(outcome, error)
        _end(spans.task, {**outcome, **used}, error)

    def _lose(self, task_id: str) -> None:
        """End the spans of a task whose end was never told."""
        spans = self._open.pop(task_id, None)
        if spans is not None:
            lost: Attributes = {"llama_orch.outcome": "lost"}
            spans.end_attempt(lost)
            _end(spans.task, lost)


class _Open:
    """A task's spans, and the context around them."""

    __slots__ = ("around", "attempt", "task")

    def __init__(self, task: Span, around: Context) -> None:
        self.task = task
        self.attempt: Span | None = None
        self.around = around

    def within(self, span: Span) -> Context:
        """Where `span` is the current one."""
        return trace.set_span_in_context(span, self.around)

    def end_attempt(self, attributes: Attributes, error: AttemptFailed | TaskEnded | None = None) -> None:
        """End the attempt's span, if one runs."""
        if self.attempt is not None:
            _end(self.attempt, attributes, error)
            self.attempt = None


def _end(span: Span, attributes: Attributes, error: AttemptFailed | TaskEnded | None = None) -> None:
    _write(span, attributes)
    if error is not None:
        _write(span, {"error.type": error.error_kind, "llama_orch.error_detail": error.detail})
        span.set_status(Status(StatusCode.ERROR, _safe(error.message or "")))
    span.end()


def _write(span: Span, attributes: Attributes) -> None:
    span.set_attributes(_given(attributes))


def _given(attributes: Attributes) -> dict[str, Any]:
    """Those that are known, without secrets."""
    return {
        name: _safe(value) if isinstance(value, str) else value
        for name, value in attributes.items()
        if value is not None
    }


def _safe(text: str) -> str:
    return one_line(redact(text))
