"""Sentences of the host, for who reads the task they are about."""

from llama_orch_adapter_host.events import FirstToken, ReplicaBound, TaskAdmitted
from llama_orch_orchestratord._narration import Narrations

TOKEN = FirstToken(pool_id="chat", task_id="a" * 36, replica_id="0", engine="words", attempt=1, duration=0.1, total=0.2)
ADMITTED = TaskAdmitted(pool_id="chat", task_id="b" * 36, workload="completion")
BOUND = ReplicaBound(pool_id="chat", replica_id="0", engine="words")


def test_a_follower_hears_of_its_task_alone() -> None:
    """Neither another task nor a replica is any of its business, and after the block nothing is."""
    narrations = Narrations()
    heard: list[str] = []
    with narrations.follow("a" * 36, heard.append):
        for event in (TOKEN, ADMITTED, BOUND):
            narrations(event)
    narrations(TOKEN)

    assert len(heard) == 1
    assert "chat/0" in heard[0]


def test_nothing_is_wanted_where_nobody_follows() -> None:
    """So that the host makes no events for it; and those about replicas never are."""
    narrations = Narrations()

    assert not narrations.wants(FirstToken)
    with narrations.follow("a" * 36, lambda _: None):
        assert narrations.wants(FirstToken)
        assert not narrations.wants(ReplicaBound)
