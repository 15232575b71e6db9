"""What tests do with streams."""

import asyncio

import pytest
from llama_orch_adapter_api import End, TokenEvent, WorkerError
from llama_orch_adapter_host import TokenStream

from .adapters import drained  # type: ignore[import-not-found]  # test folders are no packages

CANCELLED = End(None, None, "cancelled")

STOPPED = "WORKER_RESET drained"
"""As `told_by` has it: what a stop of the host does not wait for."""


async def failure_of(stream: TokenStream) -> tuple[list[TokenEvent], WorkerError]:
    """What a stream gave, and the error it ended in; after that it must have nothing more to tell."""
    events: list[TokenEvent] = []
    with pytest.raises(WorkerError) as caught:  # what came before it counts
        async for event in stream:
            events.append(event)  # noqa: PERF401  # as above

    assert await drained(stream) == []
    return events, caught.value


async def told_by(stream: TokenStream) -> list[TokenEvent | str]:
    """What a stream gave, and as the last what it failed of: the code and the detail of its error."""
    told: list[TokenEvent | str] = []
    try:
        async for event in stream:
            told.append(event)  # noqa: PERF401  # what came before an error counts
    except WorkerError as error:
        told.append(f"{error.code} {error.detail}")
    return told


async def drained_up_to(stream: TokenStream, count: int) -> list[TokenEvent]:
    """The next so many events of a stream."""
    return [await anext(stream) for _ in range(count)]


async def turns(count: int) -> None:
    """Let the loop go round so often, in no time."""
    for _ in range(count):
        await asyncio.sleep(0)
