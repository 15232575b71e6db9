"""What would be right where something is wrong."""

from typing import Annotated, Any, Literal

import msgspec
import pytest
from llama_orch_orchestratord._mends import mend_of, with_mend


class Circle(msgspec.Struct, tag_field="type", tag="circle"):
    """One of two."""

    radius: float


class Square(msgspec.Struct, tag_field="type", tag="square", forbid_unknown_fields=True):
    """The other."""

    side: float
    colour: Literal["red", "blue"] | None = None


class Drawing(msgspec.Struct, rename="camel"):
    """All that a place can be in."""

    some_shapes: list[Circle | Square] = []
    by_name: dict[str, Square] = {}
    pair: tuple[Square, ...] = ()
    level: Annotated[int, msgspec.Meta(ge=1)] = 1
    turn: Literal[1, 2] = 1
    label: Annotated[Literal["a", "b"], msgspec.Meta(description="which")] = "a"
    points: dict[int, float] = {}
    loose: Any = None
    on: bool = False
    text: str | list[str] | None = None


@pytest.mark.parametrize(
    ("sent", "mend"),
    [
        ({"someShapes": [{"type": "line"}]}, "; give one of: circle, square"),
        ({"someShapes": [{}]}, "; give one of: circle, square"),
        ({"someShapes": [{"type": "square", "side": 1, "colour": "green"}]}, "; give one of: blue, red"),
        ({"byName": {"a": {"type": "square", "side": 1, "colour": "green"}}}, "; give one of: blue, red"),
        ({"pair": [{"type": "square", "side": 1, "x": 1}]}, "; it may have: side, colour"),
        ({"someShapes": [{"type": "circle"}]}, ""),
        ({"turn": 3}, "; give one of: 1, 2"),
        ({"turn": None}, "; give one of: 1, 2"),
        ({"label": 1}, "; give one of: a, b"),
        ({"someShapes": [{"type": "square", "side": 1, "colour": 5}]}, "; give one of: blue, red"),
        ({"label": "c"}, "; give one of: a, b"),
        ({"level": 0}, ""),
        ({"level": "1"}, "; give a whole number"),
        ({"points": {"x": 1}}, "; give a whole number"),
        ({"points": {"1": "x"}}, "; give a number"),
        ({"on": "yes"}, "; give true or false"),
        ({"text": 1}, "; give a text or a list"),
        ({"someShapes": {}}, "; give a list"),
        ([], "; give named fields"),
    ],
)
def test_what_is_allowed_there(sent: object, mend: str) -> None:
    """By what msgspec itself says of the value, wherever it stands; nothing where that says it all."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(msgspec.json.encode(sent), type=Drawing)

    assert mend_of(str(caught.value), Drawing) == mend
    assert with_mend(str(caught.value), Drawing) == f"{caught.value}{mend}"


def test_other_words_are_left_as_they_are() -> None:
    """A check of the boundary's own names its mend itself, and a place in what may be anything has none."""
    assert mend_of("seed is -1; give a whole number", Drawing) == ""
    assert mend_of("Invalid value 'x' - at `$.loose.type`", Drawing) == ""
