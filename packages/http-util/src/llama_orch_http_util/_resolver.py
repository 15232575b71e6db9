"""What a host's name leads to, without the addresses that are refused."""

import socket

import aiohttp
from aiohttp.abc import ResolveResult

from ._addresses import address_of, why_refused
from ._errors import ForbiddenAddress


class CheckedResolver(aiohttp.ThreadedResolver):
    """Looks names up as the system does and leaves out what is refused; raises `ForbiddenAddress` if nothing is left.

    aiohttp connects to the very addresses that it is given here: no name is looked up a second time after the check.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses that may be connected to."""
        found = await super().resolve(host, port, family)
        refused = {each["host"]: why for each in found if (why := _why_refused(each["host"])) is not None}
        if found and len(refused) == len({each["host"] for each in found}):
            address, why = next(iter(refused.items()))
            raise ForbiddenAddress(f"{address} is {why}")
        return [each for each in found if each["host"] not in refused]


def _why_refused(host: str) -> str | None:
    address = address_of(host)
    return None if address is None else why_refused(address)
