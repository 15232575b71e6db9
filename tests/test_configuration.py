"""What docs/configuration.md shows is what holds."""

import re
import tomllib
from pathlib import Path
from typing import Any

from llama_orch_adapter_api import Timeouts
from llama_orch_http_util import HttpConfig, RetryPolicy

PAGE = (Path(__file__).parents[1] / "docs" / "configuration.md").read_text()


def pool() -> dict[str, Any]:
    """The pool of the example, with what is commented out because it has no fixed default."""
    (example,) = (each for each in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL) if "[pools.chat]" in each)
    shown: dict[str, Any] = tomllib.loads(re.sub(r"(?m)^# (?=\w+ = )", "", example))["pools"]["chat"]
    return shown


def test_the_defaults_are_the_shown_ones() -> None:
    """Each limit of the example is there under its name, and has the value that is used where it is left out."""
    shown = pool()
    del shown["http"]["ca_file"]  # an example, not a default

    assert {*shown["timeouts"]} == {*Timeouts.__struct_fields__}
    assert Timeouts(**shown["timeouts"]) == Timeouts()
    assert {*shown["http"], "ca_file"} == {*HttpConfig.__struct_fields__}
    assert {*shown["http"]["retry"]} == {*RetryPolicy.__struct_fields__}
    assert HttpConfig.of(shown["http"], Timeouts()) == HttpConfig.of({}, Timeouts()) == HttpConfig()
