"""The table of compatibility, and the certificates behind it."""

import tomllib
from importlib.metadata import entry_points
from pathlib import Path

from llama_orch_adapter_api import ENTRY_POINT_GROUP

from .compatibility import PAGE, certificates, page

PACKAGES = Path(__file__).parents[1] / "packages"


def test_the_table_says_what_the_certificates_say() -> None:
    """ORCH-3612: docs/compatibility.md is what `nox -s certify` writes, to the letter."""
    assert PAGE.read_text() == page()


def test_every_adapter_here_is_certified() -> None:
    """ORCH-3612: each adapter that is installed has a certificate of its present version that says passed."""
    seen = {one.adapter: (one.distribution, one.version, one.verdict) for one in certificates()}
    here = {
        point.name: (point.dist.name, _version(point.dist.name), "passed")
        for point in entry_points(group=ENTRY_POINT_GROUP)
        if point.dist is not None
    }

    assert seen == here


def _version(distribution: str) -> str:
    folder = PACKAGES / distribution.removeprefix("llama-orch-")
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return str(project["version"])
