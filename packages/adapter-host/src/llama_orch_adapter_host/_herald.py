"""What is told of replicas: events to whoever observes, and lifecycle hooks to plugins."""

from collections.abc import Callable
from typing import Any

from llama_orch_adapter_api import BindingInfo

from ._bus import Bus
from ._events import ReplicaEvent
from ._plugins import Plugins


class Herald:
    """Of one host's replicas."""

    def __init__(self, plugins: Callable[[], Plugins], bus: Bus) -> None:
        self._plugins = plugins
        self._bus = bus

    def tell(self, kind: type[ReplicaEvent], info: BindingInfo, **facts: Any) -> None:  # noqa: ANN401  # the event's own
        """Emit an event of this kind."""
        self._bus.emit(
            kind(  # type: ignore[arg-type]  # every kind is one of the union
                pool_id=info.pool_id,
                replica_id=info.replica_id,
                engine=info.engine,
                generation=info.generation,
                **facts,
            )
        )

    def hook(self, hook: str, info: BindingInfo) -> None:
        """Call a lifecycle hook of every plugin that has it, some time soon."""
        self._plugins().notify(hook, info)
