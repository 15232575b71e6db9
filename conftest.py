"""What holds for every test of every package."""

import importlib.util
import pkgutil
import sys
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx


@pytest.fixture(scope="session", autouse=True)
def _no_blocking_calls() -> Iterator[None]:
    """A call of ours that would block the event loop (a sleep, a file, a blocking socket, a lock) raises."""
    if "coverage" in sys.modules:  # its tracer takes locks in the middle of our code, and hangs when one is refused
        yield
        return
    ours = [module for module in pkgutil.iter_modules() if module.name.startswith("llama_orch_")]
    # Found, not imported: what a package imports lazily stays lazy.
    specs = [spec for module in ours if (spec := importlib.util.find_spec(module.name))]
    with blockbuster_ctx([importlib.util.module_from_spec(spec) for spec in specs]):
        yield
