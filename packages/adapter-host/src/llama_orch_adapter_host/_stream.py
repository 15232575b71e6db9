"""What a caller holds: the stream of one task, and the submission that becomes it."""

import warnings
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Self

import msgspec
from llama_orch_adapter_api import End, Started, TaskRequest, Token, TokenEvent

from ._call import Call
from ._flight import Flight, cancelled
from ._hint import BatchHint, hint_for
from ._record import FlightRecord


class Result(msgspec.Struct, frozen=True):
    """A whole answer: its content, its reasoning, what the engine said of itself, how it ended, and the way there."""

    text: str
    reasoning: str
    started: Started | None
    end: End
    record: FlightRecord


class TokenStream:
    """The events of one task, in order.

    It ends, exactly once, in one of these ways:

    - the engine finishes: the last event is its `End`;
    - it is cancelled, by `host.cancel`: the last event is `End(finish_reason="cancelled")`;
    - it fails: iteration raises a `WorkerError`; where a stop of the host ended it, that is `WorkerReset` (drained);
    - the caller leaves `async with`, calls `aclose()`, drops the stream or is cancelled itself: the engine stops.
    """

    __slots__ = ("__weakref__", "_call", "_flight")

    def __init__(self, call: Call, flight: "Flight | Grounded") -> None:
        self._call = call
        self._flight = flight

    @property
    def task_id(self) -> str:
        """The id to cancel it by."""
        return self._call.task.task_id

    @property
    def replica(self) -> str:
        """`pool_id/replica_id` that serves it, "" where it was cancelled before one did."""
        return "" if self._call.binding is None else self._call.binding.replica

    @property
    def attempts(self) -> int:
        """How many times an engine was asked."""
        return len(self.record.attempts)

    @property
    def record(self) -> FlightRecord:
        """Which replicas it was sent to, why, and what became of it; it grows while the task runs."""
        return self._call.record

    @property
    def batch_hint(self) -> BatchHint:
        """How a server may join this stream's events into larger writes, for as many streams as its pool has now."""
        return hint_for(len(self._call.pool.live))

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
        return Result("".join(text), "".join(reasoning), started, end, self.record)

    async def aclose(self) -> None:
        """Stop the engine if it still works on this, and let go; a second call does nothing."""
        if not self._flight.gone:
            await self._flight.leave()

    async def __aenter__(self) -> Self:
        return self

    def __aexit__(self, kind: object, error: object, trace: object) -> Coroutine[Any, Any, None]:
        return self.aclose()

    def __del__(self) -> None:
        if not self._flight.gone and not self._call.loop.is_closed():
            self._call.loop.call_soon_threadsafe(self._flight.abandon)


class Grounded:
    """In the place of a flight: a task that was cancelled between two replicas. It has its end and nothing else."""

    gone = True
    untouched = True
    _told = False

    async def pull(self) -> TokenEvent:
        """The end, once."""
        self.untouched = False
        if self._told:
            raise StopAsyncIteration
        self._told = True
        return cancelled()

    async def leave(self) -> None:
        """Nothing runs."""

    def abandon(self) -> None:
        """Nothing runs."""


Send = Callable[[str, TaskRequest], Coroutine[Any, Any, TokenStream]]
"""Sends a task to a pool and gives its stream."""


class Submission:
    """A task about to be sent: `await` it for its stream, or enter it, which also closes the stream on leaving.

    Either returns at the first token (or the end), so that everything that can be retried is raised there. One that
    is dropped before was sent to nobody, and warns of it as a coroutine does that was never awaited.
    """

    __slots__ = ("_pool_id", "_send", "_stream", "_task", "_used")

    def __init__(self, send: Send, pool_id: str, task: TaskRequest) -> None:
        self._send = send
        self._pool_id = pool_id
        self._task = task
        self._used = False
        self._stream: TokenStream | None = None

    def __await__(self) -> Generator[Any, None, TokenStream]:
        self._used = True
        return self._send(self._pool_id, self._task).__await__()

    async def __aenter__(self) -> TokenStream:
        self._used = True
        self._stream = stream = await self._send(self._pool_id, self._task)
        return stream

    def __aexit__(self, kind: object, error: object, trace: object) -> Coroutine[Any, Any, None]:
        return Grounded().leave() if self._stream is None else self._stream.aclose()

    def __del__(self) -> None:
        if not self._used:
            warnings.warn(
                f"task {self._task.task_id} was never sent to pool {self._pool_id!r} · await the submit, or enter it",
                RuntimeWarning,
                stacklevel=2,
                source=self,
            )
