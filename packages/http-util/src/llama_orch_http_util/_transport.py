"""What a client asks of a version of HTTP. `_http1` speaks the one there is; another stands behind the same face."""

from collections.abc import Iterable, Mapping
from typing import Protocol


class Answer(Protocol):
    """An answer whose head has come; whoever has it closes it."""

    @property
    def status(self) -> int:
        """As sent: 200, 404."""

    @property
    def headers(self) -> Mapping[str, str]:
        """By lower-case name, as `headers_of` gives them."""

    @property
    def http_version(self) -> str:
        """What the peer speaks: "1.0", "1.1" or "2"."""

    @property
    def ended(self) -> bool:
        """Whether the body was read to its end; it is, once `read` gave nothing."""

    async def read(self) -> bytes:
        """What came next of the body, as it was received; empty at its end.

        When the transport breaks, all that had come is given first; then, and from then on, a `WorkerError` is raised.
        """

    def close(self) -> None:
        """Give the connection back if the body was read to its end; else drop it, at once. May be called again."""


class Transport(Protocol):
    """One engine, reached over one version of HTTP; for use on any event loop."""

    async def send(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, *, stream: bool = False
    ) -> Answer:
        """Send a request and wait for the head of its answer. Raises `WorkerError`, for a missing answer alone.

        `stream`: the body is a stream of events, and its failures are told as such.
        """

    async def aclose(self) -> None:
        """Let go of what is held on the running loop; a second call does nothing."""


_LISTS = frozenset({"content-encoding", "transfer-encoding"})


def headers_of(fields: Iterable[tuple[str, str]]) -> dict[str, str]:
    """By lower-case name. Of one that came several times the first counts; encodings are one list of them all.

    A proxy may add its own coding in a field of its own (RFC 9110 §5.3).
    """
    headers: dict[str, str] = {}
    for name, value in fields:
        key = name.lower()
        if key not in headers:
            headers[key] = value
        elif key in _LISTS:
            headers[key] += f", {value}"
    return headers
