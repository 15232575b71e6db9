"""The adapter for vLLM's OpenAI-compatible server, found by the host through its entry point."""

from collections.abc import Callable

from llama_orch_adapter_api import API_VERSION, AdapterSpec, hookimpl, token_budget

from ._adapter import VllmAdapter, VllmConfig

__all__ = ["VllmAdapter"]


@hookimpl
def llama_orch_register_adapters(register: Callable[[AdapterSpec], None]) -> None:
    """The engine `vllm`."""
    register(AdapterSpec("vllm", API_VERSION, VllmConfig, VllmAdapter, advise=token_budget))
