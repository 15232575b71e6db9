"""What msgspec does not say of a value that does not fit: what would. Pure."""

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from msgspec import inspect

_PLACE = re.compile(r" - at (?:`key` in )?`\$([^`]*)`$")
_STEP = re.compile(r"\.(\w+)|\[[^\]]*\]")
_GOT = re.compile(r"Expected `([^`]+)`, got ")
_FIELD = re.compile(r"(?:unknown|required) field `(\w+)`")

_WORDS = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "array": "a list",
    "object": "named fields",
}
"""By what msgspec calls it; null is nobody's mend."""


def with_mend(why: str, kind: type) -> str:
    """What msgspec says of something that is no `kind`, with what is allowed in that place."""
    return why + mend_of(why, kind)


def mend_of(why: str, kind: type) -> str:
    """What is allowed in the place that is told of, to be put behind it; "" where that was said."""
    place = _PLACE.search(why)
    steps = [step[1] for step in _STEP.finditer(place[1])] if place else []
    if field := _FIELD.search(why):
        if "unknown field" in why:
            return _one_of("it may have:", _fields(_at(kind, steps)))
        steps.append(field[1])
    there = [each for each in _at(kind, steps) if not isinstance(each, inspect.NoneType)]
    closed = bool(there) and all(isinstance(each, inspect.LiteralType) for each in there)
    if (got := _GOT.match(why)) and not closed:
        return _one_of("give", [" or ".join(_WORDS[name] for name in got[1].split(" | ") if name in _WORDS)])
    if why.startswith("Number out of range"):
        return "; give one that a 64-bit number holds"
    return _one_of("give one of:", _choices(there))


def _one_of(words: str, some: Iterable[str]) -> str:
    names = ", ".join(some)
    return f"; {words} {names}" if names else ""


@lru_cache(maxsize=32)
def _type(kind: type) -> inspect.Type:
    return inspect.type_info(kind)


def _at(kind: type, steps: Iterable[str | None]) -> list[Any]:
    """The types that may stand there; a step is a field's name, None for an item of a list or of a mapping."""
    here = list(_each(_type(kind)))
    for step in steps:
        here = [one for each in here for below in _below(each, step) for one in _each(below)]
    return here


def _each(kind: inspect.Type) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.Metadata):
        yield from _each(kind.type)
    elif isinstance(kind, inspect.UnionType):
        for each in kind.types:
            yield from _each(each)
    else:
        yield kind


def _below(kind: inspect.Type, step: str | None) -> Iterator[inspect.Type]:
    if isinstance(kind, inspect.StructType) and step is not None:
        if kind.tag_field == step:
            yield inspect.LiteralType((str(kind.tag),))
        yield from (field.type for field in kind.fields if field.encode_name == step)
    elif isinstance(kind, inspect.ListType | inspect.VarTupleType) and step is None:
        yield kind.item_type
    elif isinstance(kind, inspect.DictType) and step is None:
        yield kind.value_type


def _choices(kinds: Iterable[inspect.Type]) -> list[str]:
    return [str(value) for each in kinds if isinstance(each, inspect.LiteralType) for value in each.values]


def _fields(kinds: Iterable[inspect.Type]) -> list[str]:
    return [field.encode_name for each in kinds if isinstance(each, inspect.StructType) for field in each.fields]
