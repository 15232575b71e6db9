"""Writes docs/compatibility.md from the stored certificates, at the end of `nox -s certify`."""

from pathlib import Path

import msgspec
from llama_orch_adapter_testkit.conformance import Certificate, table

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "compatibility.md"
_HEAD = """# Compatibility

Which adapter keeps which rule of the [conformance suite](conformance.md), against an engine that speaks as that version
of the real one does. Written by `nox -s certify` from the certificates in [certificates/](certificates); ✓ passed,
✗ failed, - skipped for the reason below, ? not run.

"""


def certificates() -> list[Certificate]:
    """Those that are stored, by name."""
    files = sorted((DOCS / "certificates").glob("*.json"))
    return [msgspec.json.decode(file.read_bytes(), type=Certificate, strict=True) for file in files]


def page() -> str:
    """The page as it is to be."""
    return _HEAD + table(certificates())


if __name__ == "__main__":
    PAGE.write_text(page())
