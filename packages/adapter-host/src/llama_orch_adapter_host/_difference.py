"""What is to be done so that what is bound becomes what is wanted: a function over values."""

from collections.abc import Mapping
from typing import NamedTuple

Place = tuple[str, str]
"""Pool and replica."""


class Difference(NamedTuple):
    """Places to bind anew, to rebind, to take out and to leave alone. Those wanted are in the order they are wanted."""

    added: tuple[Place, ...] = ()
    changed: tuple[Place, ...] = ()
    removed: tuple[Place, ...] = ()
    unchanged: tuple[Place, ...] = ()


def difference(bound: Mapping[Place, str], wanted: Mapping[Place, str]) -> Difference:
    """From what is bound to what is wanted; each maps a place to the fingerprint of what it is built from."""
    return Difference(
        added=tuple(place for place in wanted if place not in bound),
        changed=tuple(place for place in wanted if bound.get(place, wanted[place]) != wanted[place]),
        removed=tuple(place for place in bound if place not in wanted),
        unchanged=tuple(place for place in wanted if bound.get(place) == wanted[place]),
    )
