"""The wire types as JSON schemas, for those who speak to us without Python."""

from typing import Any

import msgspec

from ._events import WireEvent
from ._pool import PoolEvent
from ._props import Capabilities, WorkerHealth, WorkerProps
from ._task import TaskRequest

_PUBLISHED: dict[str, Any] = {
    "task_request": TaskRequest,
    "event": WireEvent,
    "health": WorkerHealth,
    "props": WorkerProps,
    "capabilities": Capabilities,
    "pool_event": PoolEvent,
}


def json_schemas() -> dict[str, dict[str, Any]]:
    """JSON Schema 2020-12 documents by name: task_request, event, health, props, capabilities, pool_event."""
    return {name: msgspec.json.schema(kind) for name, kind in _PUBLISHED.items()}
