"""What a request may bring: a body of so many bytes, as it is, and in good time."""

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler

from ._connection import heard
from ._refusal import invalid

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
    try:
        async with asyncio.timeout(BODY_PATIENCE):
            await request.read()
    except TimeoutError:
        raise invalid(f"the body did not come within {BODY_PATIENCE:g} s · send it at once", status=408) from None
    except web.HTTPRequestEntityTooLarge:
        raise invalid(
            f"the body has more than {request.client_max_size} bytes · send less, or set server.max_body",
            status=413,
            detail="too_large",
        ) from None
