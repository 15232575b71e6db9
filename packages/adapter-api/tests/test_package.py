"""The package's surface: what it offers, and that it costs nothing to import."""

import json
import subprocess
import sys
from types import ModuleType

import llama_orch_adapter_api as api

ALLOWED = {"llama_orch_adapter_api", "msgspec", "pluggy", "typing_extensions"}
HEAVY = {"aiohttp", "asyncio", "concurrent", "email", "http", "multiprocessing", "ssl", "subprocess"}

IMPORT = """
import json, sys
before = set(sys.modules)
import llama_orch_adapter_api
print(json.dumps(sorted({name.partition(".")[0] for name in set(sys.modules) - before})))
"""


def order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, as ruff sorts them."""
    return 0 if name.isupper() else 1 if name[0].isupper() else 2, name


def test_all_is_sorted() -> None:
    """`__all__` names each thing once, in order."""
    assert api.__all__ == sorted(set(api.__all__), key=order)


def test_all_is_complete() -> None:
    """What the package offers is in `__all__`, and what is in `__all__` exists."""
    public = {
        name for name, value in vars(api).items() if not name.startswith("_") and not isinstance(value, ModuleType)
    }

    assert public == set(api.__all__)


def test_everything_public_is_explained() -> None:
    """Each class and function says what it is for."""
    things = [getattr(api, name) for name in api.__all__]
    ours = [thing for thing in things if getattr(thing, "__module__", "").startswith("llama_orch_adapter_api")]

    assert len(ours) > 30
    assert [thing.__name__ for thing in ours if not thing.__doc__] == []


def test_import_is_light() -> None:
    """Importing the package loads msgspec and pluggy and nothing heavy: no HTTP, no event loop, no TLS."""
    run = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, check=True, text=True)
    loaded = set(json.loads(run.stdout))

    assert "llama_orch_adapter_api" in loaded
    assert loaded - sys.stdlib_module_names <= ALLOWED
    assert not loaded & HEAVY
