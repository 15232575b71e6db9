"""What a request may bring: a body of so many bytes, as it is, and in good time."""

import asyncio

from aiohttp import HttpVersion11, web
from aiohttp.typedefs import Handler

from ._connection import heard
from ._refusal import Refusal, invalid

BODY_PATIENCE = 30.0
"""Seconds in which a body must have come."""


@web.middleware
async def bounded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Reads the body, so that handlers find it read. Encoded ones are refused: a small one may hold a huge one."""
    heard(request)
    if request.body_exists:
        encoding = request.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise invalid(
                "the body is encoded, which is not understood · send it as it is, without Content-Encoding",
                status=415,
                detail="encoding",
            )
        await _read(request)
    return await handler(request)


async def _read(request: web.Request) -> None:
    if (request.content_length or 0) > request.client_max_size:
        raise _too_large(request)
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            await _ask_for_it(request)
            await request.read()
    except TimeoutError:
        raise invalid(f"the body did not come within {BODY_PATIENCE:g} s · send it at once", status=408) from None
    except web.HTTPRequestEntityTooLarge:
        raise _too_large(request) from None


async def _ask_for_it(request: web.Request) -> None:
    """Tell a client that waits with its body to send it (RFC 9110, 10.1.1)."""
    if request.headers.get("Expect", "").lower() == "100-continue" and request.version >= HttpVersion11:
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0  # the answer has not begun


def _too_large(request: web.Request) -> Refusal:
    return invalid(
        f"the body has more than {request.client_max_size} bytes · send less, or set server.max_body",
        status=413,
        detail="too_large",
    )
