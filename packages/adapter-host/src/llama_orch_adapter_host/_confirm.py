"""After a cancel: what the adapter still does for it, and the moment its engine is idle."""

import asyncio

from llama_orch_adapter_api import WorkerError

from ._binding import Binding
from ._call import Call
from ._capabilities import CapabilityCache
from ._probe import farewell

CONFIRMS = "confirms_cancel"
"""The feature of an adapter whose `cancel` returns only when the slot is idle, and else raises a `WorkerError`."""


async def confirmed(binding: Binding, call: Call, cache: CapabilityCache) -> float | None:
    """Let the adapter do its part; milliseconds until the slot was idle, None where it does not tell."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    idle = True

    async def cancel() -> None:
        nonlocal idle
        try:
            await binding.adapter.cancel(call.task.task_id)
        except WorkerError:
            idle = False

    kept = await farewell(binding, "cancel()", cancel)
    known = cache.known(binding)
    if not kept or not idle or known is None or CONFIRMS not in known.features:
        return None
    took = loop.time() - began
    call.idle(binding.info, took)
    return took * 1000
