"""The wire forms: what is encoded is decoded the same, and fits the published schemas."""

import json
from typing import Any, get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]  # its stubs are a package of their own
from llama_orch_adapter_api import WireEvent, json_schemas

from .strategies import WIRE  # type: ignore[import-not-found]  # test folders are no packages

SCHEMAS = json_schemas()
EVENTS = {"started", "token", "metrics", "end", "error"}

each_wire_type = pytest.mark.parametrize("name", WIRE)


def published(name: str) -> dict[str, Any]:
    return SCHEMAS["event" if name in EVENTS else name]


@each_wire_type
@given(data=st.data())
@settings(deadline=None)
def test_json_round_trip(name: str, data: st.DataObject) -> None:
    """Every value equals what its JSON is decoded to."""
    kind, values = WIRE[name]
    value = data.draw(values)

    assert msgspec.json.decode(msgspec.json.encode(value), type=kind) == value


@each_wire_type
@given(data=st.data())
@settings(deadline=None)
def test_msgpack_round_trip(name: str, data: st.DataObject) -> None:
    """Every value equals what its MessagePack is decoded to."""
    kind, values = WIRE[name]
    value = data.draw(values)

    assert msgspec.msgpack.decode(msgspec.msgpack.encode(value), type=kind) == value


@each_wire_type
@given(data=st.data())
@settings(deadline=None)
def test_json_fits_the_schema(name: str, data: st.DataObject) -> None:
    """The JSON of every value is valid by the published schema."""
    _, values = WIRE[name]
    document = json.loads(msgspec.json.encode(data.draw(values)))

    Draft202012Validator(published(name)).validate(document)


def test_schemas_are_published_by_name() -> None:
    """The six documents are there, and each is itself a valid JSON Schema 2020-12."""
    assert set(SCHEMAS) == {"task_request", "event", "health", "props", "capabilities", "pool_event"}
    for document in SCHEMAS.values():
        Draft202012Validator.check_schema(document)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("task_request", {"prompt": "a", "temperature": 1}),
        ("task_request", {"prompt": "a", "workload": "chat"}),
        ("task_request", {"prompt": 7}),
        ("event", {"kind": "token", "t": "a"}),
        ("event", {"kind": "done"}),
        ("health", {"live": True, "ready": True, "state": "fine"}),
        ("props", {"slots_total": 1, "slots_free": 1}),
        ("capabilities", {"engine": "x", "engine_version": "1", "model_id": "m"}),
    ],
)
def test_schemas_refuse(name: str, document: dict[str, Any]) -> None:
    """A schema tells what the decoder refuses: unknown fields and kinds, wrong types, missing fields."""
    assert not Draft202012Validator(SCHEMAS[name]).is_valid(document)


def test_every_event_is_tested() -> None:
    """The union of wire events has no member that these tests leave out."""
    tags = {msgspec.inspect.type_info(event).tag for event in get_args(WireEvent)}  # type: ignore[attr-defined]

    assert tags == EVENTS
