"""What a host's name leads to, without the addresses that are refused."""

import socket
from collections.abc import Callable, Sequence
from typing import TypeVar

import aiohttp
from aiohttp.abc import ResolveResult

from ._addresses import address_of, why_refused
from ._errors import ForbiddenAddress

T = TypeVar("T")


class CheckedResolver(aiohttp.ThreadedResolver):
    """Looks names up as the system does and leaves out what is refused; raises `ForbiddenAddress` if nothing is left.

    aiohttp connects to the very addresses that it is given here: no name is looked up a second time after the check.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses that may be connected to."""
        return allowed(await super().resolve(host, port, family), lambda each: each["host"])


def allowed(found: Sequence[T], host_of: Callable[[T], str]) -> list[T]:
    """What may be connected to of all that a name leads to. Raises `ForbiddenAddress` if nothing is left of it."""
    refused = {host: why for each in found if (why := _why_refused(host := host_of(each))) is not None}
    left = [each for each in found if host_of(each) not in refused]
    if refused and not left:
        address, why = next(iter(refused.items()))
        raise ForbiddenAddress(f"{address} is {why}")
    return left


def _why_refused(host: str) -> str | None:
    address = address_of(host)
    return None if address is None else why_refused(address)
