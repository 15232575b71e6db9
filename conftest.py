"""What holds for every test of every package."""

import importlib.util
import pkgutil
import re
import sys
from collections.abc import Iterator

import pytest
from blockbuster import blockbuster_ctx
from hypothesis import HealthCheck, settings

settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")  # how long an example takes is the machine's, and no reason to fail

MADE_UP = re.compile(r"(?=[a-f]{0,15}\d)(?=\d{0,15}[a-f])[0-9a-f]{16}|[0-9a-f]{8}-[0-9a-f]{4}-| at 0x[0-9a-f]{8}")
"""What a random key, a made-up task id and an object's address look like."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test has one name in every process: with another in each, pytest-xdist cannot share the tests out."""
    if strays := [item.nodeid for item in items if MADE_UP.search(item.nodeid)]:
        raise pytest.UsageError(f"these names are made up anew in each run; give their cases ids: {strays}")


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
