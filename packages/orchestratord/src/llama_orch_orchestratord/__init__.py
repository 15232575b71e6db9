"""The reference orchestrator: what an orchestrator does with the host, over HTTP."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._app import create_app
    from ._config import ServerConfig, parse_config, read_config

__all__ = ["ServerConfig", "create_app", "parse_config", "read_config"]


def __getattr__(name: str) -> object:
    """Each is imported when it is asked for: a config needs no server, and the command hears Ctrl-C before both."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("._app" if name == "create_app" else "._config", __name__), name)
