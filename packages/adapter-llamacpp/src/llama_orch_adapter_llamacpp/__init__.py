"""The adapter for the llama.cpp server, found by the host through its entry point."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from llama_orch_adapter_api import API_VERSION, AdapterSpec, LaunchOptions, hookimpl, token_budget

from ._adapter import LlamaCppAdapter, LlamaCppConfig

__all__ = ["LlamaCppAdapter"]


def _launch(options: LaunchOptions) -> AbstractAsyncContextManager[str]:
    from .embedded import launch  # noqa: PLC0415  # subprocesses and caches matter only to those who start an engine

    return launch(options)


@hookimpl
def llama_orch_register_adapters(register: Callable[[AdapterSpec], None]) -> None:
    """The engine `llamacpp`."""
    register(AdapterSpec("llamacpp", API_VERSION, LlamaCppConfig, LlamaCppAdapter, _launch, token_budget))
