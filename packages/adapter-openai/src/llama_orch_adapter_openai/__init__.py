"""The adapter for any OpenAI-compatible server, found by the host through its entry point."""

from collections.abc import Callable

from llama_orch_adapter_api import API_VERSION, AdapterSpec, hookimpl, token_budget

from ._adapter import OpenAIAdapter, OpenAIConfig

__all__ = ["OpenAIAdapter"]


@hookimpl
def llama_orch_register_adapters(register: Callable[[AdapterSpec], None]) -> None:
    """The engine `openai`."""
    register(AdapterSpec("openai", API_VERSION, OpenAIConfig, OpenAIAdapter, advise=token_budget))
