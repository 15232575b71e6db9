"""When the client of a web server goes away. Servers are known by their shape alone; none is imported."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

_LOOK = 0.1
"""Seconds between two looks at a client that does not tell by itself."""

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
"""ASGI's `receive`; the request's body must have been read."""


class HasTransport(Protocol):
    """A request of an aiohttp server: its transport is None, or closing, once the client is gone."""

    @property
    def transport(self) -> asyncio.BaseTransport | None:
        """The connection it came over."""


class Asks(Protocol):
    """A request of Starlette or FastAPI."""

    def is_disconnected(self) -> Awaitable[bool]:
        """Whether the client is gone."""


Client = Receive | HasTransport | Asks


async def gone(client: Client) -> None:
    """Return as soon as the client is gone. Raises `TypeError` for what is none of these."""
    if hasattr(client, "is_disconnected"):
        while not await client.is_disconnected():  # noqa: ASYNC110  # it tells nobody by itself
            await asyncio.sleep(_LOOK)
    elif hasattr(client, "transport"):
        while (transport := client.transport) is not None and not transport.is_closing():  # noqa: ASYNC110  # as above
            await asyncio.sleep(_LOOK)
    elif callable(client):
        while (await client())["type"] != "http.disconnect":
            pass
    else:
        raise TypeError(f"a {type(client).__name__} is no client; give an aiohttp request, or ASGI's receive")
