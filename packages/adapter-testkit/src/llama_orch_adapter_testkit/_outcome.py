"""What a task comes to at an adapter, without a host."""

from dataclasses import dataclass

from llama_orch_adapter_api import End, Started, TaskRequest, Token, TokenEvent, WorkerAdapter, WorkerError


@dataclass(frozen=True)
class Outcome:
    """What a task came to: its events, and the error that they ended in."""

    events: tuple[TokenEvent, ...]
    error: WorkerError | None = None

    @property
    def tokens(self) -> tuple[Token, ...]:
        """The tokens of all channels."""
        return tuple(event for event in self.events if isinstance(event, Token))

    @property
    def text(self) -> str:
        """What they say."""
        return "".join(self.pieces)

    @property
    def pieces(self) -> list[str]:
        """The same, token by token."""
        return [token.t for token in self.tokens]

    @property
    def started(self) -> Started | None:
        """The first event, if it is what it is to be."""
        first = self.events[0] if self.events else None
        return first if isinstance(first, Started) else None

    @property
    def end(self) -> End | None:
        """The last event, if it is what it is to be."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, End) else None

    @property
    def failure(self) -> str:
        """The error's code and detail; empty without one."""
        return f"{self.error.code} {self.error.detail}" if self.error else ""

    def __str__(self) -> str:
        error = self.error
        how = f"{type(error).__name__} {error.detail}: {error}" if error else f"{self.end}"
        return f"{len(self.tokens)} tokens, {self.text[:80]!r}, then {how}"


async def outcome(adapter: WorkerAdapter, task: TaskRequest) -> Outcome:
    """What the task comes to. What is no `WorkerError` goes on."""
    events: list[TokenEvent] = []
    try:
        async for event in adapter.submit(task):
            events.append(event)  # noqa: PERF401  # they are kept where it raises
    except WorkerError as error:
        return Outcome(tuple(events), error)
    return Outcome(tuple(events))
