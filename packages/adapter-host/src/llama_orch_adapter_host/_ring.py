"""Consistent hashing: to which replica a session belongs, so that few move when replicas come and go."""

import bisect
import hashlib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

T = TypeVar("T")

_POINTS = 32
"""Places of each replica on the ring: with so many the shares differ by about a fifth."""


class Ring(Generic[T]):
    """Names on a circle of hashes, the same in every process."""

    def __init__(self, members: Mapping[str, T]) -> None:
        places = sorted((_hash(f"{name}#{point}"), name) for name in members for point in range(_POINTS))
        self._hashes = [place for place, _ in places]
        self._members = [members[name] for _, name in places]

    def walk(self, key: str) -> Iterator[T]:
        """The members in the order in which they are to take `key`, each once."""
        start = bisect.bisect_right(self._hashes, _hash(key))
        seen: set[int] = set()
        for place in range(start - len(self._members), start):  # from there, once around
            member = self._members[place]
            if id(member) not in seen:
                seen.add(id(member))
                yield member


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())
