"""The reference orchestrator: what an orchestrator does with the host, over HTTP."""

from typing import TYPE_CHECKING

from ._config import ServerConfig, parse_config, read_config

if TYPE_CHECKING:
    from ._app import create_app

__all__ = ["ServerConfig", "create_app", "parse_config", "read_config"]


def __getattr__(name: str) -> object:
    if name != "create_app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ._app import create_app  # noqa: PLC0415  # half a second, which a config and --help need not wait for

    return create_app
