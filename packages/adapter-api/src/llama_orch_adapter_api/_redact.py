"""A secret that cannot print itself."""

from typing import NoReturn, Self

REDACTED = "[redacted]"


class Secret:
    """Text that must not be seen: an API key, a token. Only `reveal()` gives it out.

    It prints as `[redacted]` in repr, str and format. It refuses JSON (an encoder's `enc_hook=str` or `default=str`
    writes `[redacted]`) and pickle, whose reader would take `[redacted]` for the key. It is compared and hashed by
    identity; a copy of it is itself.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The text itself; call it only where it is put on the wire."""
        return self._value

    def __repr__(self) -> str:
        return REDACTED

    def __format__(self, spec: str) -> str:
        return format(REDACTED, spec)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled; pass its reference (env or file) instead")
