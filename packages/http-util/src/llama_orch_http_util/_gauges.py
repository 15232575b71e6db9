"""Gauges in the text that engines give to Prometheus."""

import re
from collections.abc import Iterable
from functools import cache


def gauges(text: bytes, prefix: str, names: Iterable[str]) -> dict[str, list[float]]:
    """The values of each gauge, one for each set of labels; `names` are without the prefix, as are the keys.

    A gauge that is not there is left out, and so is a value that is no sensible number.
    """
    found: dict[str, list[float]] = {}
    for name, value in _pattern(prefix, tuple(names)).findall(text):
        found.setdefault(name.decode(), []).append(float(value))
    return found


@cache
def _pattern(prefix: str, names: tuple[str, ...]) -> re.Pattern[bytes]:
    wanted = "|".join(map(re.escape, names)).encode()
    number = rb"(\d{1,15}(?:\.\d{1,30})?(?:e-\d\d)?)(?!\S)"
    return re.compile(rb"^" + re.escape(prefix).encode() + rb"(" + wanted + rb")(?:\{.*\})? " + number, re.MULTILINE)
