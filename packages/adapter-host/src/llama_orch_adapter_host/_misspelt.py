"""A key that a table does not know, told with the keys that it may have."""

import difflib
import re
from collections.abc import Collection
from typing import get_args

import msgspec

_UNKNOWN = re.compile(r"Object contains unknown field `(?P<key>[^`]*)`(?: - at `(?P<path>\$[^`]*)`)?")


def told(error: Exception, kind: type[msgspec.Struct], also: Collection[str] = ()) -> str:
    """What is wrong with a table of this type; `also` are keys that it may have besides its type's."""
    found = _UNKNOWN.fullmatch(str(error))
    if found is None:
        return str(error)
    known = _keys(kind, found["path"]) if found["path"] else (*also, *_keys(kind, "$"))
    near = difflib.get_close_matches(found["key"], known, n=1)
    meant = f"; did you mean {near[0]}?" if near else ""
    return f"{error}{meant}; it may have: {', '.join(known)}" if known else str(error)


def _keys(kind: object, path: str) -> tuple[str, ...]:
    """The keys of the table at a path such as `$.health`; none where its type is one of several."""
    fields = _fields(kind)
    for step in re.sub(r"\[[^\]]*\]", "", path).split(".")[1:]:
        fields = _fields(fields.get(step))
    return tuple(fields)


def _fields(kind: object) -> dict[str, object]:
    """A table's keys and their types, also of one that may be left out, and of those in a list."""
    tables = [each for each in (kind, *get_args(kind)) if isinstance(each, type) and issubclass(each, msgspec.Struct)]
    return {field.encode_name: field.type for field in msgspec.structs.fields(tables[0])} if len(tables) == 1 else {}
