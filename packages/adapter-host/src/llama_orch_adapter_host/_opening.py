"""How an adapter's stream is had, and what is told of an adapter that gives none."""

import asyncio
from collections.abc import AsyncIterator

from llama_orch_adapter_api import AdapterError, TaskRequest, TokenEvent, WorkerError

from ._binding import Binding
from ._exits import is_strangers


def opened(binding: Binding, task: TaskRequest) -> AsyncIterator[TokenEvent]:
    """The adapter's iterator; a `submit` that is no async generator nor gives an async iterator is told so."""
    try:
        events = binding.adapter.submit(task)
    except WorkerError as error:
        raise _at(binding, error) from None
    except BaseException as error:
        if not isinstance(error, Exception) and not is_strangers(error):
            raise
        raise _at(binding, plugin_error(binding, f"raised {type(error).__name__} in submit()")) from error
    if hasattr(events, "__anext__"):
        return events
    if asyncio.iscoroutine(events):
        events.close()
    raise _at(binding, plugin_error(binding, f"gave a {type(events).__name__} from submit(), not an async iterator"))


def plugin_error(binding: Binding, what: str) -> AdapterError:
    """An adapter broke its contract."""
    return AdapterError(
        f"the adapter for {binding.info.engine} {what} · {binding.replica} · report it to the adapter's author",
        detail="plugin",
    )


def _at(binding: Binding, error: WorkerError) -> WorkerError:
    """The error with the places and the phase of a task that never left."""
    error.phase = error.phase or "queue"
    info = binding.info
    return error.placed(engine=info.engine, pool=info.pool_id, replica=info.replica_id)
