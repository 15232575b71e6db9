"""How an adapter's stream is had, and what is told of an adapter that gives none, or one that breaks the contract."""

import asyncio
from collections.abc import AsyncIterator

from llama_orch_adapter_api import AdapterError, End, Metrics, Started, TaskRequest, Token, TokenEvent, WorkerError

from ._binding import Binding
from ._exits import is_strangers

BEFORE = -1
"""Stands for the number of the next token until Started is in."""

_EVENTS = (Started, Token, Metrics, End)


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


def amiss(event: object, due: int) -> str:
    """What is wrong with what an adapter yields, where the token numbered `due` may come; "" for nothing.

    The order is Started, then tokens and metrics, then End, after which it is asked for nothing more.
    """
    if not isinstance(event, _EVENTS):
        name = type(event).__name__
        return f"yielded {'an' if name[:1] in 'AEIOU' else 'a'} {name}, which is no event of a stream"
    if isinstance(event, Started) is not (due == BEFORE):
        return "yielded " + (f"{type(event).__name__} before Started" if due == BEFORE else "a second Started")
    if isinstance(event, Token) and event.i != due:
        return f"yielded token {event.i} where {due} was due"
    return ""


def failure_of(error: BaseException, binding: Binding) -> WorkerError:
    """What a task failed of whose adapter raised that."""
    if isinstance(error, WorkerError):
        return error
    if isinstance(error, StopAsyncIteration):
        return plugin_error(binding, "ended its stream without an End")
    failure = plugin_error(binding, f"raised {type(error).__name__}, which is no WorkerError")
    failure.__cause__ = error
    return failure


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
