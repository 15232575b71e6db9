"""When the client of a web server goes away. Servers are known by their shape alone; none is imported."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping
from functools import partial
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


def leaving(client: Client) -> Callable[[], Coroutine[Any, Any, None]]:
    """What returns, called and awaited, as soon as the client is gone. Raises `TypeError` for what is none of these."""
    if hasattr(client, "is_disconnected"):
        return partial(_asked, client.is_disconnected)
    if hasattr(client, "transport"):
        return partial(_looked_at, client)
    if callable(client):
        return partial(_heard, client)
    raise TypeError(f"a {type(client).__name__} is no client; give an aiohttp request, or ASGI's receive")


async def _asked(is_disconnected: Callable[[], Awaitable[bool]]) -> None:
    while not await is_disconnected():  # noqa: ASYNC110  # it tells nobody by itself
        await asyncio.sleep(_LOOK)


async def _looked_at(client: HasTransport) -> None:
    while (transport := client.transport) is not None and not transport.is_closing():  # noqa: ASYNC110  # as above
        await asyncio.sleep(_LOOK)


async def _heard(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
