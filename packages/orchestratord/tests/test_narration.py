"""Sentences of the host, for who reads the task they are about."""

import logging

import pytest
from llama_orch_adapter_api import PoolUnavailable
from llama_orch_adapter_host.events import FirstToken, ReplicaBound, TaskAdmitted
from llama_orch_orchestratord._narration import Narrations, tell_turned_away

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


def test_a_task_that_is_turned_away_is_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """In one line of at most 100 characters, whatever the pool is called; the fields have it whole."""
    error = PoolUnavailable("256 tasks wait\nof 256 " + "x" * 200, detail="at_capacity", phase="queue")
    with caplog.at_level(logging.INFO):
        tell_turned_away("chat\n" + "x" * 100, "a" * 36, error)
    (record,) = caplog.records

    assert record.message.startswith(r"chat\nxxx")
    assert " turns away task aaaaaaaa: POOL_UNAVAILABLE at_capacity" in record.message
    assert len(record.message) == 100
    assert record.__dict__["task_id"] == "a" * 36
    assert record.__dict__["error_message"].endswith("x" * 200)


def test_what_no_log_takes_is_not_made(caplog: pytest.LogCaptureFixture) -> None:
    """A queue that overflows costs no lines where nobody reads them."""
    with caplog.at_level(logging.WARNING):
        tell_turned_away("chat", "a" * 36, PoolUnavailable("no", detail="at_capacity"))

    assert caplog.records == []
