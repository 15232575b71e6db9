"""Adapters that break their contract (ORCH-3601)."""

from typing import Any

import pytest
from llama_orch_adapter_api import (
    AdapterError,
    Token,
    WorkerAdapter,
    WorkerReset,
)
from llama_orch_adapter_host._events import AdapterBroke
from llama_orch_adapter_host.observe import captured

from .adapters import (  # type: ignore[import-not-found]  # test folders are no packages
    STARTED,
    Bare,
    Fussy,
    Iterating,
    Mistaken,
    Scripted,
    Swallowing,
    Words,
    drained,
    end,
    host_of,
    task,
    tokens,
    virtual,
)
from .streams import CANCELLED, failure_of  # type: ignore[import-not-found]  # as above


@pytest.mark.parametrize(
    ("adapter", "told"),
    [
        (Scripted(KeyError("secret")), "raised KeyError, which is no WorkerError"),
        (Scripted(STARTED, KeyError("secret")), "raised KeyError, which is no WorkerError"),
        (Scripted(STARTED, TimeoutError()), "raised TimeoutError, which is no WorkerError"),
        (Scripted(), "ended its stream without an End"),
        (Scripted(STARTED), "ended its stream without an End"),
        (Mistaken(), "gave a coroutine from submit(), not an async iterator"),
    ],
    ids=["at once", "after started", "its own timeout", "yields nothing", "only started", "async def submit"],
)
@virtual
async def test_a_broken_adapter_is_told_before_the_commit(adapter: WorkerAdapter, told: str):
    """Whatever an adapter raises but a WorkerError is its own defect: AdapterError (plugin), a fault, never retried."""
    async with host_of(adapter) as host:
        with pytest.raises(AdapterError) as caught:
            await host.submit("pool", task())

    error = caught.value
    assert error.message == f"the adapter for words {told} · pool/0 · report it to the adapter's author"
    assert (error.detail, error.engine_fault, error.retriable) == ("plugin", True, False)


@pytest.mark.parametrize(
    ("ending", "told"), [(KeyError("secret"), "raised KeyError"), (0, "ended its stream without an End")]
)
@virtual
async def test_a_broken_adapter_is_told_after_the_commit(ending: Any, told: str):
    """In mid-stream too: the tokens, then AdapterError (plugin) with its cause; an end without End is no success."""
    async with host_of(Scripted(STARTED, Token("a", 0), ending)) as host:
        events, error = await failure_of(await host.submit("pool", task()))

    assert tokens(events) == ["a"]
    assert error.detail == "plugin"
    assert told in error.message
    assert error.__cause__ is (ending or None)


class Refusing(Words):
    """`submit` raises before there is any iterator."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def submit(self, task: object) -> Any:
        raise self.error


class Listing(Words):
    """`submit` gives a list."""

    def submit(self, task: object) -> Any:
        return [STARTED]


@virtual
async def test_a_submit_that_raises():
    """A WorkerError out of `submit` itself is raised with its place; all else, or a list, is the adapter's defect."""
    reset = WorkerReset("gone", detail="reset")
    async with host_of(Refusing(reset), Refusing(OSError("x")), Listing()) as host:
        with pytest.raises(WorkerReset) as known:
            await host.submit("pool", task(replica_id="0"))
        with pytest.raises(AdapterError, match=r"words raised OSError in submit\(\) · pool/1") as foreign:
            await host.submit("pool", task(replica_id="1"))
        with pytest.raises(AdapterError, match=r"gave a list from submit\(\), not an async iterator"):
            await host.submit("pool", task(replica_id="2"))
        leases = [len(binding.leases) for binding in host._registry.all()]

    assert known.value is reset
    assert (reset.engine, reset.pool, reset.replica) == ("words", "pool", "0")
    assert isinstance(foreign.value.__cause__, OSError)
    assert leases == [0, 0, 0]


@pytest.mark.parametrize("adapter_type", [Words, Iterating, Bare, Swallowing])
@virtual
async def test_an_iterator_of_any_make(adapter_type: type[Words]):
    """An async generator, an iterator of a class, one without `aclose`, one that swallows cancellations: all serve."""
    adapter = adapter_type()
    async with host_of(adapter) as host:
        whole = await drained(await host.submit("pool", task()))
        stream = await host.submit("pool", task())
        await host.cancel("pool", stream.task_id)
        ended = await drained(stream)

    assert len(tokens(whole)) == 3
    assert whole[-1] == end(3)
    assert ended == [CANCELLED]
    assert adapter.freed == (0 if adapter_type is Bare else 2)


@virtual
async def test_a_fault_in_the_clean_up_is_no_fault_of_the_task(caplog: pytest.LogCaptureFixture):
    """What an adapter raises when it is closed is an event with its class alone and the mend, and changes no ending."""
    async with host_of(Fussy(words=1)) as host:
        with captured(host) as told:
            stream = await host.submit("pool", task())
            await host.cancel("pool", stream.task_id)
            events = await drained(stream)

    assert events == [CANCELLED]
    assert caplog.messages == [
        "pool/0 has a fault in its adapter, in closing a stream: OSError · report it to its author"
    ]
    assert "stuck" not in caplog.text
    assert [(e.replica_id, e.what, e.error, e.mend) for e in told.of(AdapterBroke)] == [
        ("0", "closing a stream", "OSError", "report it to its author")
    ]
