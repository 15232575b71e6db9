"""The reference orchestrator: what an orchestrator does with the host, over HTTP."""

from ._app import create_app
from ._config import ServerConfig, parse_config, read_config

__all__ = ["ServerConfig", "create_app", "parse_config", "read_config"]
