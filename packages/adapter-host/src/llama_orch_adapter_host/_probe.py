"""Asking a replica something beside its tasks: bounded in time, and whatever goes wrong is an answer."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from llama_orch_adapter_api import DecodeTimeout, WorkerAdapter, WorkerError, WorkerHealth, WorkerProps

from ._binding import Binding
from ._opening import plugin_error

T = TypeVar("T")

PROBE_LIMIT = 5.0
"""Seconds that a health or props call of one replica may take."""

FAREWELL_LIMIT = 2.0
"""Seconds that an adapter may take to close, or to confirm a cancel."""


async def ask_health(binding: Binding) -> WorkerHealth:
    """How the replica is; one that does not answer is `down`."""
    answer = await _ask(binding, lambda adapter: adapter.health(), WorkerHealth)
    return WorkerHealth.of(answer) if isinstance(answer, WorkerError) else answer


async def ask_props(binding: Binding) -> WorkerProps | WorkerError:
    """What the replica can do, or why it does not say."""
    return await _ask(binding, lambda adapter: adapter.props(), WorkerProps)


async def _ask(binding: Binding, ask: Callable[[WorkerAdapter], Awaitable[object]], kind: type[T]) -> T | WorkerError:
    """What the adapter answers, if it is of this kind, or why it does not."""
    info = binding.info
    try:
        async with asyncio.timeout(PROBE_LIMIT) as limit:
            answer = await ask(binding.adapter)
        if isinstance(answer, kind):
            return answer
        failure: WorkerError = plugin_error(binding, f"answered a {type(answer).__name__}, not a {kind.__name__}")
    except WorkerError as error:
        failure = error
    except Exception as error:  # noqa: BLE001  # it is a stranger's code, and one replica's trouble alone
        failure = plugin_error(binding, f"raised {type(error).__name__}, which is no WorkerError")
        if limit.expired():
            failure = DecodeTimeout(
                f"no answer within {PROBE_LIMIT:g} s · {binding.replica} · look at the engine", detail="first_token"
            )
    return failure.placed(engine=info.engine, pool=info.pool_id, replica=info.replica_id)


async def farewell(binding: Binding, what: str, say: Callable[[], Awaitable[None]]) -> bool:
    """Tell the adapter something; it may take `FAREWELL_LIMIT`. Whether it did it."""
    try:
        async with asyncio.timeout(FAREWELL_LIMIT):
            await say()
    except Exception as error:  # noqa: BLE001  # as above
        binding.broke(what, type(error).__name__)
        return False
    return True
