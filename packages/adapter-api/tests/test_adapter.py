"""An adapter is one class; an async generator is all that `submit` takes."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest
from llama_orch_adapter_api import (
    Capabilities,
    End,
    Started,
    TaskRequest,
    Token,
    TokenEvent,
    WorkerAdapter,
    WorkerHealth,
    WorkerProps,
)


class Echo(WorkerAdapter):
    """A whole adapter: it answers with the prompt's words."""

    async def health(self) -> WorkerHealth:
        return WorkerHealth(live=True, ready=True, state="ready")

    async def props(self) -> WorkerProps:
        return WorkerProps(1, 1, Capabilities("echo", "1", "none", datetime.now(UTC)))

    async def submit(self, task: TaskRequest) -> AsyncIterator[TokenEvent]:
        yield Started("echo", "1", "none", "pool/r0")
        for i, word in enumerate((task.prompt or "").split()):
            yield Token(word, i)
        yield End(tokens_in=None, tokens_out=None, finish_reason="stop")

    async def engine_version(self) -> str:
        return "1"


async def test_a_minimal_adapter() -> None:
    """Four methods make an adapter: its events come in order, and it can be asked for health, props and version."""
    adapter = Echo()
    events = [event async for event in adapter.submit(TaskRequest(prompt="one two"))]

    assert [type(event) for event in events] == [Started, Token, Token, End]
    assert [event.t for event in events if isinstance(event, Token)] == ["one", "two"]
    assert (await adapter.health()).ready
    assert (await adapter.props()).capabilities.engine == "echo"
    assert await adapter.engine_version() == "1"


async def test_cancel_and_aclose_need_not_be_written() -> None:
    """An adapter that holds nothing inherits a `cancel` and an `aclose` that do nothing, however often called."""
    adapter = Echo()
    await adapter.cancel("no such task")
    await adapter.aclose()
    await adapter.aclose()

    assert (await adapter.health()).live


@pytest.mark.parametrize("missing", ["health", "props", "submit", "engine_version"])
def test_the_four_must_be_written(missing: str) -> None:
    """A class without one of the four methods cannot be constructed, and the message names the method."""
    methods = {name: method for name, method in vars(Echo).items() if not name.startswith("_") and name != missing}
    partial = type("Partial", (WorkerAdapter,), methods)

    with pytest.raises(TypeError, match=missing):
        partial()
