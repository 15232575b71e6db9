"""An answer that is made while it is sent: paced, endless, or spoilt on its way."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from ._reply import Ending

Pieces = AsyncGenerator[bytes, None]
"""What is written, piece by piece, as it comes; it is closed when the client has left."""


class Cut(Exception):  # no error: it says what happened
    """Raised by pieces: the answer ends here, in this way."""

    def __init__(self, then: Ending) -> None:
        super().__init__(then)
        self.then: Ending = then


@dataclass(frozen=True)
class LiveReply:
    """Pieces for one request, and what the engine does after the last one."""

    pieces: Pieces
    then: Ending = "keep"
