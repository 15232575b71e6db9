"""The process as Prometheus metrics."""

import asyncio
import re
from collections.abc import Mapping

import pytest
from llama_orch_adapter_host import PoolPolicy
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from .serving import Client, Engine, forever, serving, until, words  # type: ignore[import-not-found]  # no packages

HASTY = "[server]\nshutdown = 0\n"
"""A stop waits for no stream."""

Samples = Mapping[str, float]


async def samples(client: Client) -> Samples:
    """Every sample by its name and labels, as they are written."""
    status, text = await client.get("/metrics")
    assert status == 200
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{name}={value}" for name, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def of(found: Samples, name: str) -> dict[str, float]:
    """Those of one metric that are not 0, by their labels."""
    return {
        key.removeprefix(f"orchestratord_{name}"): value
        for key, value in found.items()
        if value and re.match(rf"orchestratord_{name}\{{", key)
    }


async def test_tasks_are_counted_from_admission_to_their_end() -> None:
    """What runs, waits by priority, is read and unread, is told as it is at the scrape."""
    engine = Engine(forever(0.01), slots=2)
    async with serving(engine, toml=HASTY) as client:
        first, _ = await client.send(), await client.send()
        await client.send()
        await client.send(priority="batch")
        async with client.open(first) as reading:
            await reading.content.readline()
            found = await samples(client)
        await until(lambda: engine.freed == 1)
        later = await samples(client)

    assert of(found, "queue_depth") == {"{pool=chat,priority=interactive}": 1, "{pool=chat,priority=batch}": 1}
    assert of(found, "tasks_running") == {"{pool=chat}": 2}
    assert of(found, "tasks_unread") == {"{pool=chat}": 1}
    assert of(found, "stream_readers") == {"{pool=chat}": 1}
    assert of(found, "tasks_known") == {"{}": 4}
    assert of(found, "admitted_total") == {"{pool=chat,priority=interactive}": 3, "{pool=chat,priority=batch}": 1}
    assert of(found, "disconnects_total") == {}
    assert of(later, "disconnects_total") == {"{pool=chat}": 1}
    assert of(later, "stream_readers") == {}
    assert of(later, "queue_depth") == {"{pool=chat,priority=batch}": 1}


async def test_waits_are_a_histogram() -> None:
    """Seconds from admission to a slot, of every task that an engine took."""
    async with serving(Engine(words(2, 0.05), slots=1)) as client:
        ids = [await client.send() for _ in range(3)]
        for task_id in ids:
            await client.read(task_id)
        found = await samples(client)

    assert of(found, "queue_wait_seconds_count") == {"{pool=chat}": 3}
    assert 0.2 <= of(found, "queue_wait_seconds_sum")["{pool=chat}"] < 5
    assert found["orchestratord_queue_wait_seconds_bucket{le=0.01,pool=chat}"] == 1


async def test_refusals_are_counted_by_reason() -> None:
    """Whatever a client makes up as a pool is one and the same label."""
    task = {"pool_id": "chat", "prompt": "hello"}
    async with serving(Engine(forever(), slots=1), toml=HASTY + "[tasks]\nlimit = 2") as client:
        known = await client.send()
        await client.post({**task, "task_id": known})
        await client.send()
        await client.post(task)
        await client.post({**task, "pool_id": "nope"})
        await client.post({**task, "pool_id": "nope too"})
        await client.post({**task, "max_tokens": 0})
        await client.order("/v1/tasks")
        await client.order("/v1/pools/chat/drain")
        await client.post(task)
        found = await samples(client)

    assert of(found, "refused_total") == {
        "{pool=chat,reason=duplicate}": 1,
        "{pool=chat,reason=table_full}": 1,
        "{pool=chat,reason=draining}": 1,
        "{pool=other,reason=unknown_pool}": 2,
        "{pool=other,reason=invalid}": 2,
    }


async def test_a_full_queue_is_a_reason() -> None:
    """The pool's queue, not the table of all tasks."""
    async with serving(Engine(forever(), slots=1), toml=HASTY + "[admission]\nqueue = 1") as client:
        for _ in range(3):
            await client.post({"pool_id": "chat", "prompt": "hello"})
        found = await samples(client)

    assert of(found, "refused_total") == {"{pool=chat,reason=queue_full}": 1}


async def test_what_is_lost_is_counted_by_reason() -> None:
    """A newer task, its own deadline, nobody who reads it: each is told apart."""
    toml = '[admission]\nqueue = 1\npolicy = "drop-lru"\n[stream]\nunread_expiry = 0.3'
    async with serving(Engine(forever(), slots=1), toml=toml) as client:
        await client.send()
        await client.send(priority="batch")
        await client.send(deadline_ms=100)
        await until(lambda: client.census().running == 0)
        found = await samples(client)

    reasons = ("lru", "deadline", "unread")
    assert of(found, "dropped_total") == {f"{{pool=chat,reason={reason}}}": 1 for reason in reasons}


async def test_the_hosts_metrics_are_there() -> None:
    """A replica that was bound before anybody listened is none of `other`; the process tells its memory, too."""
    async with serving(Engine(words()), policy=PoolPolicy()) as client:
        first = await samples(client)
        await client.read(await client.send())
        found = await samples(client)

    assert first["llama_orch_in_flight{pool=chat}"] == 0
    assert found["llama_orch_tasks_total{outcome=ok,pool=chat}"] == 1
    assert found["llama_orch_tokens_out_total{engine=words,pool=chat,replica=0}"] == 3
    assert found["process_resident_memory_bytes{}"] > 1e6
    assert not [key for key in found if "pool=other" in key]


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0", "*/*", "nonsense;;=", ";"])
async def test_it_has_the_form_that_is_asked_for(accept: str) -> None:
    """OpenMetrics where that is wanted, else Prometheus's own text."""
    headers = {"Accept": accept}
    async with serving(Engine(words())) as client:
        async with client.session.get(f"{client.url}/metrics", headers=headers) as response:
            text = await response.text()

    assert response.status == 200
    if accept.startswith("application/openmetrics"):
        assert response.content_type == "application/openmetrics-text"
        assert list(read_openmetrics(text))
    else:
        assert response.content_type == "text/plain"
        assert "orchestratord_tasks_known 0.0" in text


async def test_scrapes_share_one_thread() -> None:
    """Many at once are answered, one after the other."""
    async with serving(Engine(words())) as client:
        answers = await asyncio.gather(*(client.get("/metrics") for _ in range(20)))

    assert {status for status, _ in answers} == {200}
