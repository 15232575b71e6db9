"""What many streams have to send, sent together: one tick for all of them, at the end of the loop's turn."""

import asyncio
from typing import Protocol


class Batch(Protocol):
    """A stream with something to send."""

    async def send(self) -> None:
        """Send what is there by now. It waits for nothing: others are to be sent in the same turn."""


class Batches:
    """Streams that came to have something in this turn of the loop; each is sent once, in the next.

    So frames that come without a pause between them share one write: those of an engine that speaks in bursts, or those
    that were there when a busy loop came to look. None waits for one that is not there yet.
    """

    def __init__(self) -> None:
        self._due: set[Batch] = set()
        self._sending: asyncio.Task[None] | None = None  # kept, that it is not collected

    def add(self, batch: Batch) -> None:
        """Send it in the loop's next turn. A second time before that is nothing."""
        if not self._due:
            self._sending = asyncio.create_task(self._send())
        self._due.add(batch)

    async def _send(self) -> None:
        due, self._due = self._due, set()
        for batch in due:
            await batch.send()
