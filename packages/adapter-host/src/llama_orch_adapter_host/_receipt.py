"""What a cancel found, and when its engine was idle again."""

import asyncio
from typing import Literal

import msgspec


class CancelReceipt(msgspec.Struct, frozen=True):
    """What a cancel found. `phase` is where the task was, None unless it was cancelled now."""

    outcome: Literal["cancelled", "already_done", "unknown"]
    phase: str | None = None
    confirmation: asyncio.Task[float | None] | None = None

    async def idle(self) -> float | None:
        """Milliseconds from the cancel until the engine's slot was idle, once that is so.

        None where nobody can tell: the adapter does not confirm cancels, it took longer than 2 s, or the host stopped.
        """
        if self.confirmation is None:
            return None
        await asyncio.wait([self.confirmation])  # whoever stops waiting stops nothing else
        return None if self.confirmation.cancelled() else self.confirmation.result()
