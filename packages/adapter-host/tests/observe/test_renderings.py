"""Narration, logs, metrics and spans beside each other: they cannot disagree, and none tells a secret."""

import base64
import io
import json
import logging
import random
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_api import Secret
from llama_orch_adapter_host._events import BreakerChanged, HostEvent, ReplicaBound, TaskEvent
from llama_orch_adapter_host.observe import JsonFormatter, Metrics, Narrator, Tracing, fields, human
from llama_orch_adapter_host.observe.narrator import LOGGER
from llama_orch_adapter_host.observe.series import ERRORS
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from .events import (  # type: ignore[import-not-found]  # test folders are no packages
    KINDS,
    TASK,
    begun,
    drawn,
    ended,
    failed_attempt,
    failure,
    first_token,
    random_text,
    texts_of,
    with_text,
)


@dataclass
class Sinks:
    """Everything that renders events, listening."""

    plain: io.StringIO
    as_json: io.StringIO
    registry: CollectorRegistry
    exporter: InMemorySpanExporter
    observers: tuple[Narrator | Metrics | Tracing, ...]

    def tell(self, *events: HostEvent) -> None:
        for event in events:
            for observer in self.observers:
                observer(event)

    def spans(self) -> tuple[ReadableSpan, ...]:
        """The ended ones."""
        return self.exporter.get_finished_spans()

    def everything(self) -> str:
        """All that was told."""
        spans = "\n".join(span.to_json() for span in self.spans())
        return "\n".join(
            (self.plain.getvalue(), self.as_json.getvalue(), spans, generate_latest(self.registry).decode())
        )


@contextmanager
def listening() -> Iterator[Sinks]:
    plain, as_json = io.StringIO(), io.StringIO()
    handlers = [logging.StreamHandler(plain), logging.StreamHandler(as_json)]
    handlers[0].setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handlers[1].setFormatter(JsonFormatter())
    registry, exporter, provider = CollectorRegistry(), InMemorySpanExporter(), TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    logger = logging.getLogger(LOGGER)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        observers = (Narrator(), Metrics(registry), Tracing(provider.get_tracer("test")))
        yield Sinks(plain, as_json, registry, exporter, observers)
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
        logger.setLevel(logging.NOTSET)
        logger.propagate = True
        provider.shutdown()


names = st.text("abcdefghijklmnopqrstuvwxyz", min_size=3, max_size=8)


errors = st.sampled_from(sorted(ERRORS))


@given(st.tuples(names, names, names), errors, errors, st.booleans())
def test_they_cannot_disagree(
    place: tuple[str, str, str], first: tuple[str, str], last: tuple[str, str], stands_in: bool
):
    """One task told by all: the same pool, replica, task, engine and errors in each of them (ORCH-3604)."""
    pool, replica, engine = place
    facts: dict[str, Any] = {"pool_id": "asked" if stands_in else pool, "stand_in": pool if stands_in else ""}
    facts |= {"replica_id": replica, "engine": engine}
    told_first = {"error_kind": first[0], "detail": first[1]}
    told_last = {"error_kind": last[0], "detail": last[1]}
    admitted, attempt = begun(**facts)
    events = [attempt, failed_attempt(**facts, **told_first), first_token(**facts), failure(**facts, **told_last)]
    with listening() as sinks:
        sinks.tell(ReplicaBound(pool_id=pool, replica_id=replica, engine=engine))
        sinks.tell(admitted, *events)
        records = [json.loads(line) for line in sinks.as_json.getvalue().splitlines()][2:]
        lines = sinks.plain.getvalue().splitlines()[2:]
        attempt_span, task_span = (dict(span.attributes or {}) for span in sinks.spans())
        labels = [sample.labels for family in sinks.registry.collect() for sample in family.samples]

    for record, line in zip(records, lines, strict=True):
        assert {record[name] for name in ("pool_id", "replica_id", "target", "task_id")} == {
            pool,
            replica,
            engine,
            TASK,
        }
        assert f"{pool}/{replica}" in line
        assert f"task {TASK[:8]}" in line
        assert line.endswith(record["human"])
    assert [record.get("error_kind") for record in records] == [None, first[0], None, last[0]]
    assert f"{first[0]} {first[1]}" in lines[1]
    assert f"{last[0]} {last[1]}" in lines[3]
    assert {label["replica"] for label in labels if "replica" in label} == {replica}
    told = {"pool": pool, "replica": replica, "engine": engine, "code": first[0], "detail": first[1]}
    assert told in labels
    assert (last[0], last[1]) in {(each.get("code"), each.get("detail")) for each in labels if "replica" not in each}
    spoken = (attempt_span["llama_orch.pool_id"], attempt_span["llama_orch.replica_id"])
    assert (*spoken, attempt_span["gen_ai.provider.name"]) == (pool, replica, engine)
    assert (attempt_span["error.type"], attempt_span["llama_orch.error_detail"]) == first
    assert (task_span["error.type"], task_span["llama_orch.error_detail"]) == last
    assert (task_span["llama_orch.task_id"], task_span["llama_orch.replica_id"]) == (TASK, replica)
    assert task_span.get("llama_orch.stand_in") == (pool if stands_in else None)


@given(drawn(st.text(st.characters(codec="utf-8"), max_size=200)))
def test_any_event_is_rendered_by_all(event: HostEvent):
    """Whatever is in an event, each of them takes it: a line, a JSON object of the taxonomy, metrics (ORCH-3604)."""
    with listening() as sinks:
        sinks.tell(event)
        written, scraped = sinks.as_json.getvalue(), generate_latest(sinks.registry).decode()

    assert len(written.splitlines()) == (human(event) is not None)
    for line in written.splitlines():
        assert json.loads(line).keys() == {"timestamp", "level", "logger", *fields(event)}
    assert list(text_string_to_metric_families(scraped))


HALVES = (secrets.token_hex(8), secrets.token_hex(8))
KEY = Secret(f"{HALVES[0]}/+ {HALVES[1]}")
FORMS = (
    KEY.reveal(),
    quote(KEY.reveal(), safe=""),
    base64.b64encode(KEY.reveal().encode()).decode(),
    json.dumps(KEY.reveal()),
    "x" * 60 + KEY.reveal(),
    "x" * (100 - len(HALVES[0])) + KEY.reveal(),
)
"""As it is, as others write it, and where a cut would go through it."""

LABELS = frozenset({"pool_id", "replica_id", "engine", "stand_in"})
"""Names that the configuration gave, and labels as they are."""


def leaks(text: str) -> bool:
    """Whether one of the halves can be read, or more than half of one."""
    runs = [run[at:] for run in re.findall(r"[\w+/-]{12,}", text, re.ASCII) for at in range(4)]
    decoded = b" ".join(base64.b64decode(run[: len(run) // 4 * 4].translate(str.maketrans("-_", "+/"))) for run in runs)
    parts = [half[at : at + 9] for half in HALVES for at in range(len(half) - 8)]  # shorter ones are in any trace id
    return any(part in text for part in parts) or any(half.encode() in decoded for half in HALVES)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_canaries(kind: type[HostEvent]):
    """No secret is found in any sink, in whichever text of an event it stands and however written (battery 32)."""
    found, told, redacted = [], 0, 0
    for name in texts_of(kind):
        for form in FORMS:
            event = with_text(kind, name, form)
            with listening() as sinks:
                if name in LABELS:
                    sinks.observers = tuple(each for each in sinks.observers if not isinstance(each, Metrics))
                followed = isinstance(event, TaskEvent) and name != "task_id"
                sinks.tell(*(begun(event.task_id) if followed else ()), event)
                sinks.tell(*([ended(task_id=event.task_id)] if followed else ()))
                everything = sinks.everything()
            told += 1
            redacted += "[redacted" in everything
            if leaks(everything):
                found.append((name, form))

    print(f"{told} events of {kind.__name__} with a canary, {redacted} of them shown as redacted")
    assert found == []
    assert redacted > 0


def test_there_are_enough_canaries():
    """Battery 32: over all kinds of events they are at least 500."""
    canaries = sum(len(texts_of(kind)) for kind in KINDS) * len(FORMS)
    print(f"{canaries} canaries in the texts of {len(KINDS)} kinds of events")

    assert canaries >= 500


CONTROLS = [*map(chr, range(32)), "\x7f", *"\x85\xa0\u061c\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff"]
ALPHABET = [*CONTROLS, "\r\n", "\x1b[2J", "\ud800", "a", "%", "\\", '"', "ERROR forged line", "é", "日"]


@pytest.mark.timeout(120)
def test_log_injection():
    """10^4 random control strings, in every field and every sink: one record is one line (battery 36)."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    places = [(kind, name) for kind in KINDS for name in texts_of(kind)]
    made = 0
    with listening() as sinks:
        for number in range(10_000):
            kind, name = places[number % len(places)]
            event = with_text(kind, name, random_text(rng, ALPHABET))
            sinks.tell(event)
            made += human(event) is not None
        for sink in (sinks.plain, sinks.as_json):
            lines = sink.getvalue().removesuffix("\n").split("\n")
            assert len(lines) == made
            assert [line for line in lines if not line.isprintable()] == []
        sinks.tell(*begun("last"), ended(task_id="last"))
        texts = [str(value) for span in sinks.spans() for value in (span.name, *(span.attributes or {}).values())]
        scraped = generate_latest(sinks.registry).decode()

    assert [text for text in texts if not text.isprintable()] == []
    assert all(line.isprintable() for line in scraped.split("\n"))
    assert sum(len(family.samples) for family in text_string_to_metric_families(scraped)) == sum(
        not line.startswith("#") for line in scraped.splitlines()
    )


def test_a_label_is_one_line():
    """A pool that is named over two lines is one line of what Prometheus reads."""
    with listening() as sinks:
        sinks.tell(BreakerChanged(pool_id="a\nb\ud800", replica_id="0", engine="e", state="open"))
        scraped = generate_latest(sinks.registry).decode()

    assert "a\\\\nb\\\\ud800" in scraped
