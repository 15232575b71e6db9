"""A client of bare sockets, for engines under test."""

import asyncio
import json
from contextlib import suppress
from typing import Any


def post(path: str, body: dict[str, Any], *, close: bool = True) -> bytes:
    """A POST as it goes over the wire."""
    data = json.dumps(body).encode()
    last = "Connection: close\r\n" if close else ""
    return f"POST {path} HTTP/1.1\r\nHost: x\r\n{last}Content-Length: {len(data)}\r\n\r\n".encode() + data


def get(path: str, *, close: bool = True) -> bytes:
    """A GET as it goes over the wire."""
    last = "Connection: close\r\n" if close else ""
    return f"GET {path} HTTP/1.1\r\nHost: x\r\n{last}\r\n".encode()


async def connect(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection to the engine of that URL."""
    host, port = url.removeprefix("http://").split(":")
    return await asyncio.open_connection(host, int(port))


async def ask(url: str, request: bytes, *, at_most: int = -1) -> bytes:
    """What comes for a request until the engine closes, or so many bytes of it; then the client leaves."""
    reader, writer = await connect(url)
    try:
        writer.write(request)
        return await (reader.read() if at_most < 0 else reader.readexactly(at_most))
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


def events(response: bytes) -> list[Any]:
    """The documents of an event stream's `data:` lines."""
    lines = [line.removeprefix(b"data: ") for line in response.split(b"\n") if line.startswith(b"data: ")]
    return [json.loads(line) if line != b"[DONE]" else "[DONE]" for line in lines]
