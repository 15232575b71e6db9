"""What a scripted engine answers: the pieces it writes and what it does after the last one."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from http.client import responses
from typing import Literal

from ._capture import Capture
from ._cuts import splits
from ._message import layout

Ending = Literal["keep", "close", "reset", "hang"]
"""After the last piece: keep the connection for the next request, close it, reset it, or say nothing more."""

Gate = Callable[[int], Awaitable[object]]
"""Awaited before the event of that 0-based number is written."""

Payload = str | bytes | Mapping[str, object]

_LAST_CHUNK = b"0\r\n\r\n"


@dataclass(frozen=True)
class Reply:
    """One answer of a scripted engine, made by one of the class methods.

    Each piece is written by itself, when the one before is on its way. `gate`, where given, is awaited
    before each piece but the first, which is the head.
    """

    pieces: tuple[bytes, ...]
    then: Ending = "keep"
    gate: Gate | None = None

    @classmethod
    def capture(
        cls,
        capture: Capture,
        *,
        cuts: Iterable[int] = (),
        stop_after: int | None = None,
        reset: bool = False,
        hang: bool = False,
    ) -> "Reply":
        """A captured answer, byte for byte, in pieces cut at the offsets.

        `stop_after` ends it after that many bytes by closing the connection. `reset` ends it with a TCP reset instead
        (what the client's buffers cannot take at that moment is lost), `hang` leaves the connection open and silent.
        A capture that was itself cut ends by closing.
        """
        return cls.raw(capture.response, cuts=cuts, stop_after=stop_after, reset=reset, hang=hang)

    @classmethod
    def raw(
        cls,
        data: bytes,
        *,
        cuts: Iterable[int] = (),
        stop_after: int | None = None,
        reset: bool = False,
        hang: bool = False,
    ) -> "Reply":
        """These bytes, whatever they are; the rest as in `capture`."""
        sent = data[:stop_after]
        cut_short = stop_after is not None or not _lets_go_on(data)
        return cls(tuple(splits(sent, cuts)), _ending("close" if cut_short else "keep", reset=reset, hang=hang))

    @classmethod
    def json(cls, status: int, value: object, *, headers: Mapping[str, str] | None = None) -> "Reply":
        """A JSON document; `headers` come after its content type and length."""
        body = _json(value)
        fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **(headers or {})}
        return cls.raw(_head(status, fields) + body)

    @classmethod
    def sse(
        cls,
        payloads: Iterable[Payload],
        *,
        gate: Gate | asyncio.Event | None = None,
        terminated: bool = True,
        reset: bool = False,
        hang: bool = False,
    ) -> "Reply":
        """An event stream, one chunk an event, the head at once.

        A mapping becomes a `data:` line of JSON, text a `data:` line as it is, and bytes are the event's own, its
        blank line included. An event as `gate` lets one payload out each time it is set. Without `terminated` the
        connection is closed and the last chunk left out; `reset` and `hang` leave it out as well.
        """
        head = _head(200, {"Content-Type": "text/event-stream", "Transfer-Encoding": "chunked"})
        pieces = [head, *(_chunk(_event(payload)) for payload in payloads)]
        then = _ending("keep" if terminated else "close", reset=reset, hang=hang)
        if then == "keep":
            pieces[-1] += _LAST_CHUNK
        return cls(tuple(pieces), then, _turnstile(gate) if isinstance(gate, asyncio.Event) else gate)

    @classmethod
    def silence(cls) -> "Reply":
        """No answer at all, on a connection that stays open."""
        return cls((), "hang")

    @classmethod
    def redirect(cls, location: str, *, status: int = 307) -> "Reply":
        """A redirect without a body."""
        return cls.raw(_head(status, {"Location": location, "Content-Length": "0"}))


def _ending(otherwise: Ending, *, reset: bool, hang: bool) -> Ending:
    if reset and hang:
        raise ValueError("a reply cannot both reset and hang; give one of them")
    if reset:
        return "reset"
    return "hang" if hang else otherwise


def _lets_go_on(response: bytes) -> bool:
    """Whether another request may follow: the client can tell where this answer ends, and is not sent off."""
    message = layout(response)
    return (
        message is not None
        and message.end == len(response)
        and message.headers.get("connection", "").lower() != "close"
    )


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {responses.get(status, 'Scripted')}",
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _event(payload: Payload) -> bytes:
    if isinstance(payload, bytes):
        return payload
    line = payload.encode() if isinstance(payload, str) else _json(payload)
    return b"data: " + line + b"\n\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _turnstile(event: asyncio.Event) -> Gate:
    async def passed(_: int) -> None:
        await event.wait()
        event.clear()

    return passed
