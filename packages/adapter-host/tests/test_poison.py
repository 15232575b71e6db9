"""Tasks that end their engines (battery 17)."""

import pytest
from llama_orch_adapter_api import Token, WorkerReset

from .adapters import STARTED, host_of, task, virtual  # type: ignore[import-not-found]  # test folders are no packages
from .replicas import ANSWER, Replica, Step, outcome_of, record_of, reset  # type: ignore[import-not-found]  # as above

KILLED_EARLY: tuple[Step, ...] = (STARTED, reset())
KILLED_LATE: tuple[Step, ...] = (STARTED, Token("a", 0), reset())


@pytest.mark.parametrize("script", [KILLED_EARLY, KILLED_LATE], ids=["before_the_token", "after_it"])
@virtual
async def test_a_prompt_that_kills_its_engine(script: tuple[Step, ...]):
    """Battery 17: it hits at most 2 of 8 replicas, however often its caller sends it again under its id."""
    replicas = [Replica(script) for _ in range(8)]
    async with host_of(*replicas) as host:
        poison = task()
        errors = [await outcome_of(host, poison) for _ in range(5)]
        hit = sum(replica.begun for replica in replicas)
        print(f"{hit} of 8 replicas were hit, by {len(errors)} submits")

        assert hit == 2
        last = errors[-1]
        assert isinstance(last, WorkerReset)
        assert (last.detail, last.phase, last.attempts, last.engine) == ("reset", "queue", 0, None)
        assert last.message.startswith(f"task {poison.task_id} ended 2 replicas in a reset and is not sent again")
        assert record_of(host, poison).resets == 2


@virtual
async def test_another_task_is_none_of_it():
    """Battery 17: what one task did is held against its id alone."""
    replicas = [Replica(KILLED_EARLY) for _ in range(2)]
    async with host_of(*replicas) as host:
        await outcome_of(host)
        for replica in replicas:
            replica.scripts = [ANSWER]
        assert isinstance(await outcome_of(host), list)
