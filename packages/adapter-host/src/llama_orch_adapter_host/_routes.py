"""Which replica takes a task: functions over values."""

from collections.abc import Mapping

from llama_orch_adapter_api import PoolUnavailable, TaskRequest

from ._registry import Binding


def pick(pool_id: str, pool: Mapping[str, Binding], task: TaskRequest) -> Binding:
    """The replica the task is pinned to, else the one with the least in flight; the first bound wins a draw."""
    if task.replica_id is None:
        return min(pool.values(), key=lambda binding: len(binding.leases))
    if task.replica_id in pool:
        return pool[task.replica_id]
    raise PoolUnavailable(
        f"replica {task.replica_id!r}, which the task is pinned to, is not bound (bound: {', '.join(sorted(pool))})",
        detail="unknown_pool",
        phase="queue",
        pool=pool_id,
        replica=task.replica_id,
    )
