"""The reference orchestrator: what an orchestrator does with the host, over HTTP."""

from ._app import create_app

__all__ = ["create_app"]
