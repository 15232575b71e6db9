"""What a caller holds: the stream of one task, and the submission that becomes it."""

import asyncio
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Self

import msgspec
from llama_orch_adapter_api import End, Started, Token, TokenEvent

from ._flight import Flight, cancelled


class Result(msgspec.Struct, frozen=True):
    """A whole answer: its content, its reasoning, what the engine said of itself, and how it ended."""

    text: str
    reasoning: str
    started: Started | None
    end: End


class TokenStream:
    """The events of one task, in order.

    It ends, exactly once, in one of these ways:

    - the engine finishes: the last event is its `End`;
    - it is cancelled, by `host.cancel` or a stop of the host: the last event is `End(finish_reason="cancelled")`;
    - it fails: iteration raises a `WorkerError`;
    - the caller leaves `async with`, calls `aclose()`, drops the stream or is cancelled itself: the engine stops.
    """

    def __init__(self, flight: Flight) -> None:
        self._flight = flight
        self._loop = asyncio.get_running_loop()

    @property
    def task_id(self) -> str:
        """The id to cancel it by."""
        return self._flight.task.task_id

    @property
    def replica(self) -> str:
        """`pool_id/replica_id` that serves it."""
        return self._flight.binding.replica

    @property
    def attempts(self) -> int:
        """How many times an engine was asked."""
        return self._flight.attempt

    def __aiter__(self) -> Self:
        return self

    def __anext__(self) -> Coroutine[Any, Any, TokenEvent]:
        return self._flight.pull()

    async def collect(self) -> Result:
        """Read to the end and give the whole. Raises as iteration does, `RuntimeError` if a part was read already."""
        if not self._flight.untouched:
            raise RuntimeError("a part of this stream has been read already; collect() reads it from its beginning")
        text: list[str] = []
        reasoning: list[str] = []
        started: Started | None = None
        end = cancelled()
        async for event in self:
            match event:
                case Token(t=t, channel="content"):
                    text.append(t)
                case Token(t=t, channel="reasoning"):
                    reasoning.append(t)
                case Started():
                    started = event
                case End():
                    end = event
        return Result("".join(text), "".join(reasoning), started, end)

    async def aclose(self) -> None:
        """Stop the engine if it still works on this, and let go; a second call does nothing."""
        await self._flight.stop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        await self.aclose()

    def __del__(self) -> None:
        if not self._flight.gone and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._flight.abandon)


class Submission:
    """A task about to be sent: `await` it for its stream, or enter it, which also closes the stream on leaving.

    Either returns at the first token (or the end), so that everything that can be retried is raised there.
    """

    def __init__(self, run: Callable[[], Coroutine[Any, Any, TokenStream]]) -> None:
        self._run = run
        self._stream: TokenStream | None = None

    def __await__(self) -> Generator[Any, None, TokenStream]:
        return self._run().__await__()

    async def __aenter__(self) -> TokenStream:
        self._stream = await self._run()
        return self._stream

    async def __aexit__(self, kind: object, error: object, trace: object) -> None:
        if self._stream is not None:
            await self._stream.aclose()
