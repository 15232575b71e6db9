"""The events, under the names that an observer's author imports."""

import typing

import llama_orch_adapter_host
from llama_orch_adapter_host import _events, events


def test_every_event_is_public():
    """Every member of the union, and what they have in common, can be imported from `events`."""
    members = {event.__name__ for event in typing.get_args(events.HostEvent)}

    assert members | {"HostEvent", "Event", "TaskEvent", "ReplicaEvent", "Ending"} == set(events.__all__)
    assert all(getattr(events, name) is getattr(_events, name) for name in events.__all__)


def test_what_a_policy_is_made_of_is_public():
    """Each table of a pool's policy, and the type of an observer, can be imported from the package."""
    policy = llama_orch_adapter_host.PoolPolicy()

    for table in (policy.retry, policy.breaker, policy.health):
        assert type(table).__name__ in llama_orch_adapter_host.__all__
    assert "Observer" in llama_orch_adapter_host.__all__
