"""A key that a table does not know is told with those it may have (ORCH-3600)."""

from typing import Any

import msgspec
import pytest
from llama_orch_adapter_host._misspelt import told


class Limits(msgspec.Struct, forbid_unknown_fields=True):
    idle: float = 1.0
    first: float = msgspec.field(default=1.0, name="first-token")


class Dog(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    name: str = ""


class Cat(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True):
    name: str = ""


class Table(msgspec.Struct, forbid_unknown_fields=True):
    url: str = ""
    limits: Limits | None = None
    more: tuple[Limits, ...] = ()
    by_name: dict[str, Limits] = {}
    pet: Dog | Cat = Dog()


@pytest.mark.parametrize(
    ("table", "mend"),
    [
        ({"ulr": ""}, "; did you mean url?; it may have: id, url, limits, more, by_name, pet"),
        ({"idd": ""}, "; did you mean id?; it may have: id, url, limits, more, by_name, pet"),
        ({"qqq": ""}, "; it may have: id, url, limits, more, by_name, pet"),
        ({"limits": {"first_token": 1}}, "; did you mean first-token?; it may have: idle, first-token"),
        ({"more": [{}, {"id": 1}]}, "; did you mean idle?; it may have: idle, first-token"),
        ({"by_name": {"x": {"slow": 1}}}, "; it may have: idle, first-token"),
        ({"pet": {"type": "Cat", "nam": ""}}, ""),
        ({"url": 1}, ""),
    ],
)
def test_the_mend(table: dict[str, Any], mend: str):
    """What is nearest to the key and all keys that stand there, at whatever depth; what they are must be certain."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(table, Table)

    assert told(caught.value, Table, also=("id",)) == f"{caught.value}{mend}"
