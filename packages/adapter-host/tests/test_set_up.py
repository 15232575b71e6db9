"""A replica that is set up wrong: no breaker's matter, and told loudly (ORCH-3602)."""

import logging

import pytest
from llama_orch_adapter_api import AdapterError, PoolUnavailable, WorkerError
from llama_orch_adapter_host._events import HostEvent, SetUpFailed
from llama_orch_adapter_host.observe import captured, level

from .adapters import host_of, task, virtual  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import ANSWER, Replica, outcome_of  # type: ignore[import-not-found]  # as above


def wrong(detail: str) -> WorkerError:
    return AdapterError(f"it is wrong\n· pool/0 · mend {detail}", detail=detail)


def told(events: list[HostEvent]) -> list[str]:
    return [event.detail for event in events if isinstance(event, SetUpFailed)]


@pytest.mark.parametrize("detail", ["tls", "auth", "address", "not_found", "plugin"])
@virtual
async def test_it_is_told_once_until_it_works_again(detail: str):
    """ORCH-3602: a key, certificate, address, path or adapter that is wrong is told once, with the mend."""
    script = [(wrong(detail),), (wrong(detail),), ANSWER, (wrong(detail),)]
    async with host_of(Replica(*script)) as host:
        with captured(host) as events:
            for _ in script:
                await outcome_of(host)

    assert told(events) == [detail, detail]
    assert (
        events.story(logging.WARNING)[0]
        == f"pool/0 fails by its set-up, {detail}: it is wrong\\n· pool/0 · mend {detail}"
    )
    assert level(events.of(SetUpFailed)[0]) == logging.WARNING
    assert events.of(SetUpFailed)[0].error_kind == "ADAPTER"


@virtual
async def test_each_detail_and_each_replica():
    """Another detail of the same replica, and the same of another replica, are news of their own."""
    one, other = Replica((wrong("auth"),), (wrong("tls"),), (wrong("auth"),)), Replica((wrong("auth"),))
    async with host_of(one, other) as host:
        with captured(host) as events:
            for replica_id in ("0", "0", "0", "1"):
                await outcome_of(host, task(replica_id=replica_id))

    assert [(event.replica_id, event.detail) for event in events.of(SetUpFailed)] == [
        ("0", "auth"),
        ("0", "tls"),
        ("1", "auth"),
    ]


@virtual
async def test_what_is_the_tasks_own_matter():
    """A model that the task itself names, a bad request or push-back says nothing of how a replica is set up."""
    mild = (AdapterError("400", detail="bad_request"), PoolUnavailable("429", detail="overloaded"))
    async with host_of(Replica((wrong("not_found"),), *((error,) for error in mild))) as host:
        with captured(host) as events:
            await outcome_of(host, task(model_ref="none"))
            for _ in mild:
                await outcome_of(host, task(max_attempts=1))

    assert told(events) == []
