"""What every adapter must do, as tests: derive from `AdapterConformance`, name the adapter, and run pytest."""

# The rooms of checks, in the order of a certificate; importing one adds its checks.
from . import (  # isort: skip
    _registration,
    _looks,
    _stream,
    _framing,
    _refusals,
    _cuts,
    _cancel,
    _life,
    _secrets,
    _loop,
    _declared,
)
from ._certificate import Certificate, Result, certificate_schema, table
from ._suite import AdapterConformance, certificates_of, certify

__all__ = [
    "AdapterConformance",
    "Certificate",
    "Result",
    "_cancel",
    "_cuts",
    "_declared",
    "_framing",
    "_life",
    "_looks",
    "_loop",
    "_refusals",
    "_registration",
    "_secrets",
    "_stream",
    "certificate_schema",
    "certificates_of",
    "certify",
    "table",
]
