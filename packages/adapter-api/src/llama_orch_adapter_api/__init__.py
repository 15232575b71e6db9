"""The boundary between an orchestrator and its engines: one adapter, one request, five events, one error taxonomy."""

from ._adapter import WorkerAdapter
from ._advice import Advise, token_budget
from ._errors import (
    AdapterError,
    DeadlineUnmet,
    DecodeTimeout,
    InternalError,
    Phase,
    PoolUnavailable,
    WorkerError,
    WorkerReset,
)
from ._escapes import one_line
from ._events import Embedding, End, Error, Metrics, Score, Started, Token, TokenEvent, WireEvent
from ._hooks import (
    API_VERSION,
    ENTRY_POINT_GROUP,
    PROJECT,
    AdapterContext,
    AdapterSpec,
    BindingInfo,
    HookSpecs,
    Launch,
    LaunchError,
    LaunchOptions,
    Progress,
    ReplicaView,
    RoutePolicy,
    Timeouts,
    hookimpl,
)
from ._logs import RedactingFilter, get_logger
from ._pool import PoolEvent
from ._props import Capabilities, WorkerHealth, WorkerProps
from ._redact import Secret, redact
from ._schema import json_schemas
from ._task import Grammar, ImagePart, JsonSchema, Message, Sampling, TaskRequest, TextPart, Tool, ToolCall, Workload

__all__ = [
    "API_VERSION",
    "ENTRY_POINT_GROUP",
    "PROJECT",
    "AdapterContext",
    "AdapterError",
    "AdapterSpec",
    "Advise",
    "BindingInfo",
    "Capabilities",
    "DeadlineUnmet",
    "DecodeTimeout",
    "Embedding",
    "End",
    "Error",
    "Grammar",
    "HookSpecs",
    "ImagePart",
    "InternalError",
    "JsonSchema",
    "Launch",
    "LaunchError",
    "LaunchOptions",
    "Message",
    "Metrics",
    "Phase",
    "PoolEvent",
    "PoolUnavailable",
    "Progress",
    "RedactingFilter",
    "ReplicaView",
    "RoutePolicy",
    "Sampling",
    "Score",
    "Secret",
    "Started",
    "TaskRequest",
    "TextPart",
    "Timeouts",
    "Token",
    "TokenEvent",
    "Tool",
    "ToolCall",
    "WireEvent",
    "WorkerAdapter",
    "WorkerError",
    "WorkerHealth",
    "WorkerProps",
    "WorkerReset",
    "Workload",
    "get_logger",
    "hookimpl",
    "json_schemas",
    "one_line",
    "redact",
    "token_budget",
]
