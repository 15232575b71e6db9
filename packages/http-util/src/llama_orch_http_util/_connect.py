"""The way to an https origin: its addresses, a TCP connection to one of them, TLS with ALPN.

aiohttp's connector does the same, and gives nothing away of it: what fails here is told with its exceptions, so that
one table knows both.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import aiohappyeyeballs
import aiohttp
from aiohttp.client_reqrep import ConnectionKey

from ._resolver import allowed

P = TypeVar("P", bound=asyncio.Protocol)

Address = tuple[int | socket.AddressFamily, int | socket.SocketKind, int, str, tuple[Any, ...]]

_HEAD_START = 0.25
"""Seconds that an address is given before the next one is tried beside it (RFC 8305); aiohttp's."""


class Place(NamedTuple):
    """Where to connect to, and whom to believe there; two with one context trust alike."""

    host: str
    port: int
    context: ssl.SSLContext
    allow_link_local: bool


async def connect(place: Place, protocol: Callable[[], P], limit: float) -> P:
    """A protocol whose transport is connected, within `limit` seconds. Raises what aiohttp would raise."""
    try:
        async with asyncio.timeout(limit):
            addresses = admitted(await _resolve(place), place)
            opened = await _reach(addresses, place)
            return await _secure(opened, place, protocol)
    except TimeoutError:
        raise aiohttp.ConnectionTimeoutError from None


def admitted(addresses: Sequence[Address], place: Place) -> Sequence[Address]:
    """Those of a name's addresses that may be connected to. Raises `ForbiddenAddress` if none is left."""
    if place.allow_link_local:
        return addresses
    return allowed(addresses, lambda each: str(each[4][0]))


async def _resolve(place: Place) -> Sequence[Address]:
    try:
        return await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise aiohttp.ClientConnectorDNSError(_key(place), error) from None


async def _reach(addresses: Sequence[Address], place: Place) -> socket.socket:
    try:
        return await aiohappyeyeballs.start_connection(addresses, happy_eyeballs_delay=_HEAD_START, interleave=1)
    except OSError as error:
        raise aiohttp.ClientConnectorError(_key(place), error) from None


async def _secure(opened: socket.socket, place: Place, protocol: Callable[[], P]) -> P:
    loop = asyncio.get_running_loop()
    try:
        _, made = await loop.create_connection(
            protocol, ssl=place.context, sock=opened, server_hostname=place.host.rstrip(".")
        )
    except ssl.CertificateError as error:
        raise aiohttp.ClientConnectorCertificateError(_key(place), error) from None
    except ssl.SSLError as error:
        raise aiohttp.ClientConnectorSSLError(_key(place), error) from None
    except OSError as error:
        raise aiohttp.ClientConnectorError(_key(place), error) from None
    return made


def _key(place: Place) -> ConnectionKey:
    return ConnectionKey(
        place.host, place.port, is_ssl=True, ssl=place.context, proxy=None, proxy_auth=None, proxy_headers_hash=None
    )
