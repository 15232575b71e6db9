"""An ASGI application for a real HTTP/2 server; it knows nothing of the client under test."""

import asyncio
from typing import Any

left: list[str] = []
SSE = [(b"content-type", b"text/event-stream")]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """/tasks and /flood stream to their end, /long has none, /breaks fails in between; /left tells how many left."""
    if scope["type"] != "http":
        return
    path: str = scope["path"]
    while (await receive()).get("more_body"):
        pass
    if path in ("/health", "/left"):
        await whole(send, str(len(left)).encode())
        return
    await send({"type": "http.response.start", "status": 200, "headers": SSE})
    if path == "/flood":
        for _ in range(64):
            await send({"type": "http.response.body", "body": b'data: "%b"\n\n' % (b"7" * 16_384), "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})
        return
    await send({"type": "http.response.body", "body": b'data: {"n":1}\n\n', "more_body": True})
    if path == "/long":
        while (await receive())["type"] != "http.disconnect":
            pass
        left.append(path)
        return
    await asyncio.sleep(0.2)
    if path == "/breaks":
        raise RuntimeError("as asked")
    await send({"type": "http.response.body", "body": b'data: {"n":2}\n\ndata: [DONE]\n\n'})


async def whole(send: Any, body: bytes) -> None:
    """A whole answer."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})
