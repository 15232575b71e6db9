"""Discovers adapters of LLM engines, binds one per replica, and puts one behaviour around all of them."""

from ._config import ConfigError, HostConfig, PluginsConfig, PoolConfig, parse_config, read_config
from ._guard import PluginLimits
from ._host import AdapterHost, CancelReceipt
from ._plugins import NoAdapterError, Plugins, UnknownEngineError
from ._scan import Plugin
from ._stream import Result, Submission, TokenStream

__all__ = [
    "AdapterHost",
    "CancelReceipt",
    "ConfigError",
    "HostConfig",
    "NoAdapterError",
    "Plugin",
    "PluginLimits",
    "Plugins",
    "PluginsConfig",
    "PoolConfig",
    "Result",
    "Submission",
    "TokenStream",
    "UnknownEngineError",
    "parse_config",
    "read_config",
]
