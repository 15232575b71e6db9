"""To which replica a session belongs (ORCH-3602)."""

import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st
from llama_orch_adapter_host._ring import Ring

KEYS = [f"session-{i}" for i in range(4000)]


def ring_of(count: int) -> Ring[str]:
    return Ring({f"r{i}": f"r{i}" for i in range(count)})


def owners(ring: Ring[str]) -> dict[str, str]:
    return {key: next(ring.walk(key)) for key in KEYS}


@given(st.integers(1, 20), st.text())
def test_a_walk_meets_everyone_once(count: int, key: str):
    """A walk gives each member once, always in the same order for a key."""
    met = list(ring_of(count).walk(key))

    assert sorted(met) == sorted(f"r{i}" for i in range(count))
    assert met == list(ring_of(count).walk(key))


def test_an_empty_ring():
    """A ring of nobody gives nobody."""
    assert list(Ring[str]({}).walk("key")) == []


@pytest.mark.parametrize("count", [2, 5, 20])
def test_the_shares_are_about_even(count: int):
    """Each member is first for its share of the keys, give or take."""
    shares = collections.Counter(owners(ring_of(count)).values())

    assert len(shares) == count
    assert max(shares.values()) <= 1.8 * len(KEYS) / count
    assert min(shares.values()) >= 0.4 * len(KEYS) / count


@pytest.mark.parametrize("count", [2, 5, 20])
def test_few_keys_move(count: int):
    """When a member comes, only the keys that it takes move, about one in so many as there are; the same in leaving."""
    before, after = owners(ring_of(count)), owners(ring_of(count + 1))
    moved = [key for key in KEYS if before[key] != after[key]]
    print(f"{len(moved) / len(KEYS):.1%} of the keys moved from {count} members to {count + 1}")

    assert {after[key] for key in moved} == {f"r{count}"}
    assert len(moved) <= 1.8 * len(KEYS) / (count + 1)


def test_it_is_the_same_in_every_process():
    """Places come of the names alone: these were reckoned once, and must be found again."""
    assert [next(ring_of(5).walk(key)) for key in KEYS[:8]] == ["r0", "r1", "r2", "r4", "r1", "r3", "r1", "r4"]
