"""Discovers adapters of LLM engines, binds one per replica, and puts one behaviour around all of them."""

from ._breaker import BreakerPolicy
from ._bus import Observer
from ._capabilities import CapabilitySnapshot, PoolCapabilities, Snapshot, capabilities_schema
from ._config import ConfigError, HostConfig, PluginsConfig, PoolConfig, parse_config, read_config, resolve_secret
from ._guard import PluginLimits
from ._health import HealthPolicy
from ._hint import BatchHint
from ._host import AdapterHost
from ._plugins import NoAdapterError, Plugins, UnknownEngineError
from ._policy import PoolPolicy
from ._receipt import CancelReceipt
from ._record import AttemptRecord, FlightRecord
from ._report import ReloadError, ReloadReport
from ._retry import RetryPolicy
from ._scan import Plugin
from ._status import ReplicaStatus
from ._stream import Result, Submission, TokenStream

__all__ = [
    "AdapterHost",
    "AttemptRecord",
    "BatchHint",
    "BreakerPolicy",
    "CancelReceipt",
    "CapabilitySnapshot",
    "ConfigError",
    "FlightRecord",
    "HealthPolicy",
    "HostConfig",
    "NoAdapterError",
    "Observer",
    "Plugin",
    "PluginLimits",
    "Plugins",
    "PluginsConfig",
    "PoolCapabilities",
    "PoolConfig",
    "PoolPolicy",
    "ReloadError",
    "ReloadReport",
    "ReplicaStatus",
    "Result",
    "RetryPolicy",
    "Snapshot",
    "Submission",
    "TokenStream",
    "UnknownEngineError",
    "capabilities_schema",
    "parse_config",
    "read_config",
    "resolve_secret",
]
