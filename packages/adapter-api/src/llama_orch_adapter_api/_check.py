"""Checks of single fields. Each raises `ValueError` with the field, its value and the mend.

Of a field that may hold the prompt's text, the message has the type or the place, never the value.
"""

import msgspec

MAX_INT = 2**53
"""The largest whole number that every JSON reader keeps exactly."""

_ID_LENGTH = 256


def require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def shown(value: object) -> str:
    try:
        text = ascii(value)
    except ValueError:  # Python prints no whole number of more than 4300 digits
        return f"a very large {type(value).__name__}"
    return text if len(text) <= 80 else text[:77] + "…"


def one_of(name: str, value: object, allowed: tuple[object, ...]) -> None:
    if value not in allowed:
        raise ValueError(f"{name} is {shown(value)}; give one of: {', '.join(map(shown, allowed))}")


def whole(name: str, value: int | None, low: int, high: int) -> None:
    """Refuse what is no whole number in low..high, both included."""
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}; give a whole number from {low} to {high}")


def within(name: str, value: float | None, low: float, high: float) -> None:
    """Refuse what is no number in low..high, both included; NaN is no number."""
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{name} is {shown(value)}; give a number from {low} to {high}")


def identifier(name: str, value: str | None) -> None:
    """Refuse an id that is empty, overlong, or would break a log line or a header."""
    if value is None:
        return
    if not isinstance(value, str) or not 0 < len(value) <= _ID_LENGTH or not value.isprintable():
        raise ValueError(f"{name} is {shown(value)}; give 1 to {_ID_LENGTH} printable characters")


def instance(name: str, value: object, *kinds: type) -> None:
    if not isinstance(value, kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ValueError(f"{name} is of type {type(value).__name__}; give {wanted}")  # noqa: TRY004  # what msgspec wraps


def sequence(name: str, value: object, *kinds: type) -> None:
    """Refuse what is no tuple or list of `kinds`; a text is none, though Python can iterate it."""
    instance(name, value, tuple, list)
    for item in value:  # type: ignore[attr-defined]  # it is a tuple or a list
        instance(f"{name}[]", item, *kinds)


def encodable(name: str, text: str) -> None:
    """Refuse lone surrogates: Python makes them of input that was not UTF-8, and no engine can be sent them."""
    instance(name, text, str)
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{name} holds a character at {error.start} that UTF-8 cannot carry; decode the input as UTF-8"
        ) from None


def jsonable(name: str, value: object) -> None:
    """Refuse what cannot be written as JSON: objects, cycles, lone surrogates."""
    try:
        msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{name} cannot be written as JSON ({type(error).__name__}); give plain values") from None
